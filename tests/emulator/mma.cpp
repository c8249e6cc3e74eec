#include <algorithm>
#include <bit>
#include <type_traits>

#include "fragment.h"
#include "lanes.h"
#include "machine.h"
#include "memory.h"

// mma.sync.aligned: D = A B + C by a warp. Floating-point products and their sum with C are formed in f64 and rounded
// once to D's type, which is at least as near as any hardware's order and truncation; integer sums are exact.
namespace emu {
namespace {

using namespace fragment;

void need_all_lanes(const Warp& w, const Inst& inst, Mask lanes) {
  if (lanes != kAllLanes) [[unlikely]]
    throw Fault(where(w, inst, std::countr_one(lanes)) + ": mma.sync needs all 32 lanes of the warp");
}

// Accumulators: Real is what sums are formed in, c[row half][column parity][lane].
struct F32 {
  using Real = double;
  static constexpr int kRegisters = 2;  // per 8 rows
  static void load(Warp& w, const Place* place, int half, Real (*c)[32]) {
    for (int p = 0; p < 2; ++p) {
      const float* in = w.at<float>(place[half * 2 + p]);
      for (int l = 0; l < kLanes; ++l) c[p][l] = in[l];
    }
  }
  static void store(Warp& w, const Place* place, int half, const Real (*c)[32]) {
    for (int p = 0; p < 2; ++p) {
      uint32_t* out = w.at<uint32_t>(place[half * 2 + p]);
      for (int l = 0; l < kLanes; ++l) out[l] = to_f32(c[p][l]);
    }
  }
};
struct F16Pair {
  using Real = double;
  static constexpr int kRegisters = 1;
  static void load(Warp& w, const Place* place, int half, Real (*c)[32]) {
    for (int p = 0; p < 2; ++p) widen<Float<F16>>(w.at<uint32_t>(place[half]), p, c[p]);
  }
  static void store(Warp& w, const Place* place, int half, const Real (*c)[32]) {
    uint32_t* out = w.at<uint32_t>(place[half]);
    for (int l = 0; l < kLanes; ++l) out[l] = to_f16(c[0][l]) | to_f16(c[1][l]) << 16;
  }
};
// Sums of up to 64 products of bytes stay below 2^24, so f32 forms them exactly; C joins at the end.
template <bool kSaturate>
struct S32 {
  using Real = float;
  static constexpr int kRegisters = 2;
  static void load(Warp&, const Place*, int, Real (*c)[32]) { std::fill_n(c[0], 2 * kLanes, 0.f); }
  static int32_t add(int32_t c, int32_t sum) {
    const auto wrapped = static_cast<int32_t>(static_cast<uint32_t>(c) + static_cast<uint32_t>(sum));
    if (!kSaturate) return wrapped;
    const bool overflow = ((wrapped ^ c) & (wrapped ^ sum)) < 0;
    return overflow ? (c < 0 ? INT32_MIN : INT32_MAX) : wrapped;
  }
};

/// Operands lie in inst.list as A, B, C, D.
template <int kRows, int kBlocks, class FormatA, class FormatB, class Accumulator>
Flow multiply_add(Warp& w, const Inst& inst, Mask lanes) {
  need_all_lanes(w, inst, lanes);
  using Real = typename Accumulator::Real;
  constexpr int kHalves = kRows / 8, kCount = FormatA::kCount, kRegistersC = kHalves * Accumulator::kRegisters;
  static_assert(kCount == FormatB::kCount);
  const Place* place = inst.list;
  alignas(64) Real a[kCount][kBlocks * kHalves][kLanes], b[kCount][kBlocks][kLanes], c[kHalves][2][kLanes];
  for (int r = 0; r < kBlocks * kHalves; ++r) {
    const uint32_t* words = w.at<uint32_t>(*place++);
    for (int e = 0; e < kCount; ++e) widen<FormatA>(words, e, a[e][r]);
  }
  for (int r = 0; r < kBlocks; ++r) {
    uint32_t words[kLanes];
    turn(w.at<uint32_t>(*place++), words);
    for (int e = 0; e < kCount; ++e) widen<FormatB>(words, e, b[e][r]);
  }
  for (int half = 0; half < kHalves; ++half) Accumulator::load(w, place, half, c[half]);
  multiply<Real, kRows, kBlocks, kCount>(a, b, c);
  if constexpr (std::is_same_v<Real, float>) {
    int32_t sums[kRegistersC][kLanes];  // D may name C's registers in another order
    for (int r = 0; r < kRegistersC; ++r) {
      const int32_t* in = w.at<int32_t>(place[r]);
      for (int l = 0; l < kLanes; ++l) sums[r][l] = Accumulator::add(in[l], static_cast<int32_t>(c[r >> 1][r & 1][l]));
    }
    for (int r = 0; r < kRegistersC; ++r) std::copy_n(sums[r], kLanes, w.at<int32_t>(place[kRegistersC + r]));
  } else {
    for (int half = 0; half < kHalves; ++half) Accumulator::store(w, place + kRegistersC, half, c[half]);
  }
  counts().tensor_flops += 2 * kRows * 8 * kBlocks * 4 * kCount;
  return Flow::next;
}

template <int kRows, int kBlocks>
Flow multiply_add_f64(Warp& w, const Inst& inst, Mask lanes) {
  need_all_lanes(w, inst, lanes);
  constexpr int kHalves = kRows / 8;
  const Place* place = inst.list;
  alignas(64) double a[1][kBlocks * kHalves][kLanes], b[1][kBlocks][kLanes], c[kHalves][2][kLanes];
  for (auto& r : a[0]) std::copy_n(w.at<double>(*place++), kLanes, r);
  for (auto& r : b[0]) turn(w.at<double>(*place++), r);
  for (auto& half : c) {
    for (auto& r : half) std::copy_n(w.at<double>(*place++), kLanes, r);
  }
  multiply<double, kRows, kBlocks, 1>(a, b, c);
  for (auto& half : c) {
    for (auto& r : half) std::copy_n(r, kLanes, w.at<double>(*place++));
  }
  counts().tensor_flops += 2 * kRows * 8 * kBlocks * 4;
  return Flow::next;
}

/// One-bit elements: the sum of the bits of A op B.
template <int kRows, int kBlocks, bool kXor>
Flow multiply_add_bits(Warp& w, const Inst& inst, Mask lanes) {
  need_all_lanes(w, inst, lanes);
  constexpr int kHalves = kRows / 8;
  const Place *a = inst.list, *b = a + kBlocks * kHalves, *c = b + kBlocks, *d = c + kHalves * 2;
  uint32_t sums[kHalves * 2][kLanes];
  for (int half = 0; half < kHalves; ++half) {
    for (int l = 0; l < kLanes; ++l) {
      for (int p = 0; p < 2; ++p) {
        const int m = l >> 2, n = (l & 3) * 2 + p;
        uint32_t sum = w.at<uint32_t>(c[half * 2 + p])[l];
        for (int block = 0; block < kBlocks; ++block) {
          const uint32_t* row = w.at<uint32_t>(a[block * kHalves + half]) + m * 4;
          const uint32_t* column = w.at<uint32_t>(b[block]) + n * 4;
          for (int j = 0; j < 4; ++j) sum += std::popcount(kXor ? row[j] ^ column[j] : row[j] & column[j]);
        }
        sums[half * 2 + p][l] = sum;
      }
    }
  }
  for (int r = 0; r < kHalves * 2; ++r) std::copy_n(sums[r], kLanes, w.at<uint32_t>(d[r]));
  counts().tensor_flops += 2 * kRows * 8 * kBlocks * 4 * 32;
  return Flow::next;
}

struct Form {
  std::string_view shape, a, b, c;  // c is D's type too
  int registers[3];                 // of A, B, C
  Exec exec, saturated = nullptr;
};

template <int kRows, int kBlocks, class A, class B, class C>
constexpr Form form(std::string_view shape, std::string_view a, std::string_view b, std::string_view c) {
  constexpr int kHalves = kRows / 8;
  return {shape, a, b, c, {kBlocks * kHalves, kBlocks, kHalves * C::kRegisters}, multiply_add<kRows, kBlocks, A, B, C>};
}
template <int kRows, int kBlocks, int kBits, bool kSignedA, bool kSignedB>
constexpr Form form_int(std::string_view shape, std::string_view a, std::string_view b) {
  using A = Integer<kBits, kSignedA>;
  using B = Integer<kBits, kSignedB>;
  Form f = form<kRows, kBlocks, A, B, S32<false>>(shape, a, b, "s32");
  f.saturated = multiply_add<kRows, kBlocks, A, B, S32<true>>;
  return f;
}
template <int kRows, int kBlocks>
constexpr Form form_f64(std::string_view shape) {
  constexpr int kHalves = kRows / 8;
  return {shape, "f64", "f64", "f64", {kBlocks * kHalves, kBlocks, kHalves * 2}, multiply_add_f64<kRows, kBlocks>};
}
template <int kRows, int kBlocks, bool kXor>
constexpr Form form_bits(std::string_view shape) {
  constexpr int kHalves = kRows / 8;
  return {shape, "b1", "b1", "s32", {kBlocks * kHalves, kBlocks, kHalves * 2}, multiply_add_bits<kRows, kBlocks, kXor>};
}

#define FORMS_INT(rows, blocks, bits, shape)                                  \
  form_int<rows, blocks, bits, true, true>(shape, "s" #bits, "s" #bits),      \
      form_int<rows, blocks, bits, true, false>(shape, "s" #bits, "u" #bits), \
      form_int<rows, blocks, bits, false, true>(shape, "u" #bits, "s" #bits), \
      form_int<rows, blocks, bits, false, false>(shape, "u" #bits, "u" #bits)
#define FORMS_F8(blocks, shape, c, name)                                          \
  form<16, blocks, Float<E4m3>, Float<E4m3>, c>(shape, "e4m3", "e4m3", name),     \
      form<16, blocks, Float<E4m3>, Float<E5m2>, c>(shape, "e4m3", "e5m2", name), \
      form<16, blocks, Float<E5m2>, Float<E4m3>, c>(shape, "e5m2", "e4m3", name), \
      form<16, blocks, Float<E5m2>, Float<E5m2>, c>(shape, "e5m2", "e5m2", name)

constexpr Form kForms[] = {
    form<16, 1, Float<F16>, Float<F16>, F16Pair>("m16n8k8", "f16", "f16", "f16"),
    form<16, 2, Float<F16>, Float<F16>, F16Pair>("m16n8k16", "f16", "f16", "f16"),
    form<16, 1, Float<F16>, Float<F16>, F32>("m16n8k8", "f16", "f16", "f32"),
    form<16, 2, Float<F16>, Float<F16>, F32>("m16n8k16", "f16", "f16", "f32"),
    form<16, 1, Float<Bf16>, Float<Bf16>, F32>("m16n8k8", "bf16", "bf16", "f32"),
    form<16, 2, Float<Bf16>, Float<Bf16>, F32>("m16n8k16", "bf16", "bf16", "f32"),
    form<16, 1, Float<Tf32>, Float<Tf32>, F32>("m16n8k4", "tf32", "tf32", "f32"),
    form<16, 2, Float<Tf32>, Float<Tf32>, F32>("m16n8k8", "tf32", "tf32", "f32"),
    FORMS_F8(1, "m16n8k16", F32, "f32"),
    FORMS_F8(2, "m16n8k32", F32, "f32"),
    FORMS_F8(1, "m16n8k16", F16Pair, "f16"),
    FORMS_F8(2, "m16n8k32", F16Pair, "f16"),
    FORMS_INT(8, 1, 8, "m8n8k16"),
    FORMS_INT(16, 1, 8, "m16n8k16"),
    FORMS_INT(16, 2, 8, "m16n8k32"),
    FORMS_INT(8, 1, 4, "m8n8k32"),
    FORMS_INT(16, 1, 4, "m16n8k32"),
    FORMS_INT(16, 2, 4, "m16n8k64"),
    form_f64<8, 1>("m8n8k4"),
    form_f64<16, 1>("m16n8k4"),
    form_f64<16, 2>("m16n8k8"),
    form_f64<16, 4>("m16n8k16"),
};
constexpr Form kXorForms[] = {form_bits<8, 1, true>("m8n8k128"), form_bits<16, 1, true>("m16n8k128"),
                              form_bits<16, 2, true>("m16n8k256")};
constexpr Form kAndForms[] = {form_bits<8, 1, false>("m8n8k128"), form_bits<16, 1, false>("m16n8k128"),
                              form_bits<16, 2, false>("m16n8k256")};

template <size_t N>
const Form* find(const Form (&forms)[N], std::string_view shape, std::string_view a, std::string_view b,
                 std::string_view c) {
  for (const Form& f : forms) {
    if (f.shape == shape && f.a == a && f.b == b && f.c == c) return &f;
  }
  return nullptr;
}

void decode_mma(Decoder& d, Inst& inst) {
  // mma.sync.aligned.shape.row.col{.satfinite}.d.a.b.c{.satfinite}{.rn}{.xor.popc | .and.popc}
  Mods mods(d);
  if (d.has("sp") || d.has("sp::ordered_metadata")) d.unknown("sparse mma is not supported");
  if (!mods.take("sync") || !mods.take("aligned") || d.s.mods.size() < 9 || d.s.args.size() != 4)
    d.unknown("not a form of mma");
  if (!mods.take("row") || !mods.take("col")) d.unknown("mma of these layouts (m8n8k4 of f16) is not supported");
  const std::string_view shape = d.s.mods[2], type_d = mods.type(), a = mods.type(), b = mods.type(), c = mods.type();
  if (!mods.take(shape) || type_d != c) d.unknown("mma with different types of C and D");
  const bool saturate = mods.take("satfinite");
  const Form* form = nullptr;
  if (a != "b1") {
    if (a == "f64") mods.take("rn");
    form = find(kForms, shape, a, b, c);
  } else if (const int op = mods.pick({"xor", "and"}); op >= 0 && mods.take("popc")) {
    form = op == 0 ? find(kXorForms, shape, a, b, c) : find(kAndForms, shape, a, b, c);
  }
  if (!form || (saturate && !form->saturated)) d.unknown("mma of this shape and these types");
  mods.done();

  const int word = a == "f64" ? 8 : 4;
  std::vector<Place> places;
  const auto operands = [&](const ptx::Operand& o, int count, bool destination) {
    const bool many = o.kind == ptx::Operand::Kind::vector;
    if ((many ? static_cast<int>(o.items.size()) : 1) != count) d.unknown("mma: wrong number of registers");
    for (int i = 0; i < count; ++i) {
      const ptx::Operand& item = many ? o.items[i] : o;
      places.push_back(destination ? d.dst(item, word) : d.src(item, word));
      if (places.back() == kNoPlace) d.unknown("mma: `_` is no operand");
    }
  };
  operands(d.s.args[1], form->registers[0], false);
  operands(d.s.args[2], form->registers[1], false);
  operands(d.s.args[3], form->registers[2], false);
  operands(d.s.args[0], form->registers[2], true);
  inst.list = d.list(places);
  inst.list_size = static_cast<uint16_t>(places.size());
  inst.exec = saturate ? form->saturated : form->exec;
  inst.converge = Converge::all;
  inst.cls = Class::mma;
}

}  // namespace

const Family kMma[] = {{"mma", decode_mma}, {nullptr, nullptr}};

}  // namespace emu
