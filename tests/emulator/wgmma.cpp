#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>

#include "async.h"
#include "fragment.h"
#include "lanes.h"
#include "strict.h"

// wgmma.mma_async: D = A B + D, 64 rows by a warpgroup, of which each warp has 16. An instruction is queued and its
// accumulators' registers are poisoned. The operands are read and multiplied, for all four warps, when the first of
// them waits for it (one warp's wgmma.wait_group says that the warpgroup's reads are done: pipelines release a stage by
// it); each warp's registers are written at its own wait. Sums are formed as in mma.cpp.
namespace emu {
namespace {

using namespace fragment;

constexpr int kWords = 8, kRows = 16, kMaxColumns = 256;  // every K is 32 bytes: 8 words
constexpr uint32_t kInFlight = 0xFFFF'FFFF;

/// A matrix in shared memory, as a descriptor has it: 16-byte chunks in one of the ISA's canonical layouts.
struct Matrix {
  uint32_t start, lead, stride, base, bits, span;  // span: chunks of a swizzled row

  explicit Matrix(uint64_t d)
      : start(static_cast<uint32_t>(d & 0x3FFF) << 4),
        lead(static_cast<uint32_t>(d >> 16 & 0x3FFF) << 4),
        stride(static_cast<uint32_t>(d >> 32 & 0x3FFF) << 4),
        base(static_cast<uint32_t>(d >> 49 & 7)) {
    constexpr uint32_t spans[] = {1, 8, 4, 2};
    span = spans[d >> 62];
    bits = span - 1;
  }
  /// Chunk c of 2 of a row, K-major.
  uint32_t along_k(uint32_t row, uint32_t c) const {
    return place(start + (row & 7) * 16 * span + (row >> 3) * stride + c * (span == 1 ? lead : 16));
  }
  /// Chunk m (8 rows of 16 bits) at k, MN-major.
  uint32_t along_mn(uint32_t m, uint32_t k) const {
    if (span == 1) return start + m * stride + (k & 7) * 16 + (k >> 3) * lead;
    return place(start + (m & bits) * 16 + m / span * lead + (k & 7) * 16 * span + (k >> 3) * stride);
  }

 private:
  // rows of the pattern are 128 bytes; `base` is the one that a pattern off its natural alignment starts at
  uint32_t place(uint32_t a) const { return a ^ ((((a >> 7) - base) & bits) << 4); }
};

struct Plan;

/// The accumulators of one register list while instructions on it are under way: values[column][row].
struct Accumulators {
  const Plan* plan = nullptr;
  int under_way = 0;
  union {
    alignas(64) float real[kMaxColumns][kRows];
    int32_t whole[kMaxColumns][kRows];
  };
};

constexpr int kWarps = 4;
constexpr unsigned kEveryWarp = 15;

/// One wgmma.mma_async of a warpgroup.
struct Multiply {
  struct Part {                          // a warp's
    std::shared_ptr<Transfer> transfer;  // shared by neighbours that were issued alike
    Accumulators* to = nullptr;
    uint32_t group = 0;
    uint32_t fragment[4][kLanes];  // A in registers, as it was at issue
  };
  Part part[kWarps];
  const Plan* plan = nullptr;
  const Inst* inst = nullptr;
  uint64_t a = 0, b = 0;
  bool add = true;  // scale-d
  bool done = false;
  uint64_t number = 0;                 // in the warpgroup's order
  unsigned issued = 0, collected = 0;  // by which warps
};

using MultiplyFunction = void (*)(Multiply&);

struct Plan {
  Place a[4], b, add;
  bool add_negated = false, from_registers = false, a_by_m = false, b_by_n = false, negative = false, f16_sums = false;
  int columns = 0, count = 0;  // of D; registers of D
  uint64_t flops = 0;
  const Place* d = nullptr;
  MultiplyFunction multiply = nullptr;
};

}  // namespace

struct WgmmaQueue {
  struct OfWarp {
    std::vector<std::unique_ptr<Accumulators>> sums, spare;
    uint32_t commits = 0;
    uint64_t issued = 0, collected = 0;  // instructions
    bool fenced = false;
    std::shared_ptr<Transfer> transfer;  // of the last instruction
    uint64_t version = 0;                // of the warp's clocks, then
  };
  OfWarp warp[kWarps];
  std::deque<std::unique_ptr<Multiply>> queue;
  std::vector<std::unique_ptr<Multiply>> spare;
  uint64_t first = 0;  // the number of queue[0]
};
void WgmmaQueueDelete::operator()(WgmmaQueue* q) const { delete q; }

namespace {

WgmmaQueue& queue_of(Warp& w) {
  auto& queues = async_of(*w.cta).wgmma;
  if (queues.empty()) queues.resize((w.cta->warps.size() + kWarps - 1) / kWarps);
  auto& q = queues[w.index / kWarps];
  if (!q) q.reset(new WgmmaQueue);
  return *q;
}

/// Which 16-byte chunks of shared memory are read: checked in runs, before any is read.
class Chunks {
 public:
  void add(uint32_t address) {
    const uint32_t n = (address - kSharedBase) / 16;
    if (n >= kCount)
      beyond_ = address;
    else
      bits_[n / 64] |= uint64_t{1} << n % 64;
  }
  void read(Transfer& t) {
    const auto check = [&](uint32_t first, uint32_t end) {
      transfer_access(t, *t.cta, Space::shared, Use::read, kSharedBase + first * 16,
                      static_cast<int>(end - first) * 16);
    };
    uint32_t first = 0, end = 0;  // of the run
    for (uint32_t n = 0; n < kCount; n += 64) {
      for (uint64_t word = std::exchange(bits_[n / 64], 0); word;) {
        const uint32_t low = std::countr_zero(word), ones = std::countr_one(word >> low);
        if (n + low != end) {
          if (end) check(first, end);
          first = n + low;
        }
        end = n + low + ones;
        word &= low + ones == 64 ? 0 : ~uint64_t{0} << (low + ones);
      }
    }
    if (end) check(first, end);
    if (beyond_) check((beyond_ - kSharedBase) / 16, (beyond_ - kSharedBase) / 16 + 1);  // throws
  }

 private:
  static constexpr uint32_t kCount = 1 << 14;
  uint64_t bits_[kCount / 64] = {};
  uint32_t beyond_ = 0;
};

void chunks_along_k(Chunks& c, const Matrix& x, int first, int rows) {
  for (int r = first; r < first + rows; ++r) c.add(x.along_k(r, 0)), c.add(x.along_k(r, 1));
}
void chunks_along_mn(Chunks& c, const Matrix& x, int first, int chunks) {
  for (int k = 0; k < 16; ++k)
    for (int m = first; m < first + chunks; ++m) c.add(x.along_mn(m, k));
}

/// 16 or N rows of 8 words along K.
void read_along_k(const Cta& cta, const Matrix& x, int first, int rows, uint32_t (*out)[kWords]) {
  const std::byte* shared = cta.shared.data() - kSharedBase;
  for (int r = 0; r < rows; ++r) {
    std::memcpy(out[r], shared + x.along_k(first + r, 0), 16);
    std::memcpy(out[r] + 4, shared + x.along_k(first + r, 1), 16);
  }
}

/// At each of 16 k, chunks of 8 elements of 16 bits: out[k][chunk] of 4 words.
template <int kStride>
void read_along_mn(const Cta& cta, const Matrix& x, int first, int chunks, uint32_t (*out)[kStride]) {
  const std::byte* shared = cta.shared.data() - kSharedBase;
  for (int k = 0; k < 16; ++k)
    for (int c = 0; c < chunks; ++c) std::memcpy(out[k] + c * 4, shared + x.along_mn(first + c, k), 16);
}

/// sums[n][row] = sum over e, word of a[e][word][row] * b[n_at(n) + e * step_e + word * step_word].
template <class Real, int kCount, class At>
void multiply_tile(const Real (*a)[kWords][kRows], const Real* b, int columns, int step_e, int step_word, At at,
                   Real (*sums)[kRows]) {
  using V = typename Vector<Real>::Type;
  constexpr int kLanesOf = sizeof(V) / sizeof(Real), kParts = kRows / kLanesOf, kBlock = 8 / kParts;
  for (int n = 0; n < columns; n += kBlock) {
    V sum[kBlock][kParts] = {};
    const Real* column[kBlock];
    for (int j = 0; j < kBlock; ++j) column[j] = b + at(n + j);
    for (int e = 0; e < kCount; ++e) {
      for (int word = 0; word < kWords; ++word) {
        V rows[kParts];
        for (int p = 0; p < kParts; ++p) rows[p] = *reinterpret_cast<const V*>(&a[e][word][p * kLanesOf]);
        for (int j = 0; j < kBlock; ++j)
          for (int p = 0; p < kParts; ++p)
            add_product<Real>(sum[j][p], column[j][e * step_e + word * step_word], rows[p]);
      }
    }
    std::memcpy(sums[n], sum, sizeof sum);
  }
}

enum class Sums { f32, f16, s32, s32_saturated };

template <class A, class Real>
void widen_a(Multiply& m, int warp, Real (*a)[kWords][kRows]) {
  constexpr int kCount = A::kCount;
  Multiply::Part& part = m.part[warp];
  if (m.plan->from_registers) {  // register r, lane 4 g + t: row g + 8 (r & 1), word t + 4 (r >> 1)
    for (int r = 0; r < 4; ++r)
      for (int l = 0; l < kLanes; ++l)
        for (int e = 0; e < kCount; ++e)
          a[e][(l & 3) + 4 * (r >> 1)][(l >> 2) + 8 * (r & 1)] = A::get(part.fragment[r][l], e);
  } else if (!m.plan->a_by_m) {
    uint32_t words[kRows][kWords];
    read_along_k(*part.transfer->cta, Matrix(m.a), warp * kRows, kRows, words);
    for (int e = 0; e < kCount; ++e)
      for (int k = 0; k < kWords; ++k)
        for (int r = 0; r < kRows; ++r) a[e][k][r] = A::get(words[r][k], e);
  } else if constexpr (kCount == 2) {
    uint32_t words[16][8];
    read_along_mn<8>(*part.transfer->cta, Matrix(m.a), warp * 2, 2, words);
    for (int k = 0; k < 16; ++k)
      for (int r = 0; r < kRows; ++r) a[k & 1][k >> 1][r] = A::get(words[k][r >> 1], r & 1);
  }
}

template <Sums kSums, class Real>
void add_sums(const Plan& plan, bool add, const Real* in, Accumulators& to) {
  const int count = plan.columns * kRows;
  if constexpr (kSums == Sums::f32 || kSums == Sums::f16) {
    float* out = to.real[0];
    if (!add) std::fill_n(out, count, 0.f);  // what D held, NaN perhaps, does not matter
    const Real sign = plan.negative ? -1 : 1;
    for (int k = 0; k < count; ++k) {
      const double x = out[k] + sign * in[k];
      out[k] = kSums == Sums::f16 ? decode<F16>(to_f16(x)) : std::bit_cast<float>(to_f32(x));
    }
  } else {
    int32_t* out = to.whole[0];
    if (!add) std::fill_n(out, count, 0);
    for (int k = 0; k < count; ++k) {
      const int64_t sum = static_cast<int64_t>(in[k]) + out[k];
      out[k] = kSums == Sums::s32 ? static_cast<int32_t>(sum)
                                  : static_cast<int32_t>(std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX));
    }
  }
}

template <class A, class B, Sums kSums>
void multiply(Multiply& m) {
  using Real = std::conditional_t<kSums == Sums::f32 || kSums == Sums::f16, double, float>;
  constexpr int kCount = A::kCount;
  static_assert(kCount == B::kCount);
  const Plan& plan = *m.plan;
  const int columns = plan.columns, pairs = columns / 2;
  alignas(64) Real a[kCount][kWords][kRows];
  alignas(64) Real sums[kMaxColumns][kRows];
  static thread_local std::vector<Real> storage(kMaxColumns * kWords * kCount);
  Real* const b = storage.data();
  const Cta& cta = *m.part[0].transfer->cta;

  if (!plan.b_by_n) {  // b[e][column][word]
    alignas(64) uint32_t words[kMaxColumns][kWords];
    read_along_k(cta, Matrix(m.b), 0, columns, words);
    for (int e = 0; e < kCount; ++e) {
      Real* out = b + e * columns * kWords;
      const uint32_t* in = words[0];
      for (int k = 0; k < columns * kWords; ++k) out[k] = B::get(in[k], e);
    }
  } else if constexpr (kCount == 2) {  // b[k][parity of the column][pair]
    alignas(64) uint32_t words[16][kMaxColumns / 2];
    read_along_mn<kMaxColumns / 2>(cta, Matrix(m.b), 0, columns / 8, words);
    for (int k = 0; k < 16; ++k)
      for (int e = 0; e < 2; ++e)
        for (int p = 0; p < pairs; ++p) b[k * columns + e * pairs + p] = B::get(words[k][p], e);
  }
  for (int warp = 0; warp < kWarps; ++warp) {
    widen_a<A>(m, warp, a);
    if (plan.b_by_n)
      multiply_tile<Real, kCount>(
          a, b, columns, columns, 2 * columns, [pairs](int n) { return (n & 1) * pairs + (n >> 1); }, sums);
    else
      multiply_tile<Real, kCount>(a, b, columns, columns * kWords, 1, [](int n) { return n * kWords; }, sums);
    add_sums<kSums>(plan, m.add, sums[0], *m.part[warp].to);
  }
}

// Register 4 j + 2 h + p, lane 4 g + t: column 8 j + 2 t + p, row g + 8 h; f16 pairs the two p.
void load_sums(Warp& w, const Plan& plan, Accumulators& to) {
  if (plan.f16_sums) {
    for (int r = 0; r < plan.count; ++r) {
      const uint32_t* in = w.at<uint32_t>(plan.d[r]);
      for (int l = 0; l < kLanes; ++l)
        for (int p = 0; p < 2; ++p)
          to.real[8 * (r >> 1) + 2 * (l & 3) + p][(l >> 2) + 8 * (r & 1)] = Float<F16>::get(in[l], p);
    }
    return;
  }
  for (int r = 0; r < plan.count; ++r) {
    const int32_t* in = w.at<int32_t>(plan.d[r]);
    int32_t(*out)[kRows] = to.whole + 8 * (r >> 2) + (r & 1);
    for (int t = 0; t < 4; ++t)
      for (int g = 0; g < 8; ++g) out[2 * t][g + 4 * (r & 2)] = in[4 * g + t];
  }
}

void store_sums(Warp& w, const Plan& plan, const Accumulators& from) {
  if (plan.f16_sums) {
    for (int r = 0; r < plan.count; ++r) {
      uint32_t* out = w.at<uint32_t>(plan.d[r]);
      for (int l = 0; l < kLanes; ++l) {
        const int row = (l >> 2) + 8 * (r & 1), column = 8 * (r >> 1) + 2 * (l & 3);
        out[l] = encode<F16>(from.real[column][row]) | encode<F16>(from.real[column + 1][row]) << 16;
      }
    }
    return;
  }
  for (int r = 0; r < plan.count; ++r) {
    int32_t* out = w.at<int32_t>(plan.d[r]);
    const int32_t(*in)[kRows] = from.whole + 8 * (r >> 2) + (r & 1);
    for (int t = 0; t < 4; ++t)
      for (int g = 0; g < 8; ++g) out[4 * g + t] = in[2 * t][g + 4 * (r & 2)];
  }
}

/// Instructions of which each warp's are one transfer: checks what they read, and multiplies. B is read once, on behalf
/// of a warp that changes.
template <class Iterator>
void carry_out(Iterator first, int count) {
  static thread_local Chunks chunks;
  const auto check = [&](Transfer& t) {
    if (strict().races || strict().bounds) chunks.read(t);
  };
  const int reader = static_cast<int>((*first)->number / 4 % kWarps);
  for (int warp = 0; warp < kWarps; ++warp) {
    for (int k = 0; k < count; ++k) {
      const Multiply& m = **(first + k);
      const Plan& plan = *m.plan;
      if (warp == reader) {
        if (plan.b_by_n)
          chunks_along_mn(chunks, Matrix(m.b), 0, plan.columns / 8);
        else
          chunks_along_k(chunks, Matrix(m.b), 0, plan.columns);
      }
      if (plan.from_registers) continue;
      if (plan.a_by_m)
        chunks_along_mn(chunks, Matrix(m.a), warp * 2, 2);
      else
        chunks_along_k(chunks, Matrix(m.a), warp * kRows, kRows);
    }
    check(*(*first)->part[warp].transfer);
  }
  for (int k = 0; k < count; ++k) {
    Multiply& m = **(first + k);
    m.plan->multiply(m);
    m.done = true;
  }
}

/// Writes the registers of the warp, once nothing on them is under way any more.
void collect(Warp& w, WgmmaQueue::OfWarp& own, Multiply& m, int warp) {
  const auto changed = [&](const std::string& what) {
    throw Fault(what + " was written before wgmma.wait_group: " + where(w, *m.inst));
  };
  const Plan& plan = *m.plan;
  Multiply::Part& part = m.part[warp];
  m.collected |= 1u << warp;
  if (plan.from_registers) {
    for (int r = 0; r < 4; ++r)
      if (std::memcmp(part.fragment[r], w.at<uint32_t>(plan.a[r]), sizeof part.fragment[r]) != 0)
        changed("a register of A");
  }
  counts().tensor_flops += plan.flops;
  if (--part.to->under_way) return;
  for (int r = 0; strict().adversarial && r < plan.count; ++r) {
    const uint32_t* held = w.at<uint32_t>(plan.d[r]);
    uint32_t all = kInFlight;
    for (int l = 0; l < kLanes; ++l) all &= held[l];
    if (all != kInFlight) changed("an accumulator");
  }
  store_sums(w, plan, *part.to);
  const auto at = std::find_if(own.sums.begin(), own.sums.end(), [&](const auto& s) { return s.get() == part.to; });
  own.spare.push_back(std::move(*at));
  own.sums.erase(at);
}

template <class T>
T uniform(Warp& w, const Inst& i, Place place, const char* what) {
  const T* v = w.at<T>(place);
  for (int l = 1; l < kLanes; ++l)
    if (v[l] != v[0]) fault(w, i, l, std::string(what) + " differs between the lanes");
  return v[0];
}

bool same_registers(const Plan& x, const Plan& y) {
  return &x == &y || (x.count == y.count && std::equal(x.d, x.d + x.count, y.d) && x.f16_sums == y.f16_sums);
}

bool same_transfers(const Multiply& x, const Multiply& y) {
  bool same = true;
  for (int k = 0; k < kWarps; ++k) same &= x.part[k].transfer == y.part[k].transfer;
  return same;
}

Flow exec_multiply(Warp& w, const Inst& i, Mask lanes) {
  const Plan& plan = *static_cast<const Plan*>(i.extra);
  const int warp = w.index % kWarps;
  if (lanes != kAllLanes) fault(w, i, std::countr_one(lanes), "wgmma needs all 32 lanes of the warp");
  if (w.cta->warps.size() < static_cast<size_t>(w.index - warp + kWarps))
    fault(w, i, -1, "wgmma needs warpgroups of four warps");
  WgmmaQueue& q = queue_of(w);
  WgmmaQueue::OfWarp& own = q.warp[warp];
  if (!own.fenced) fault(w, i, -1, "wgmma.mma_async without a wgmma.fence before");
  const uint64_t b = uniform<uint64_t>(w, i, plan.b, "the descriptor of B");
  const uint64_t a = plan.from_registers ? 0 : uniform<uint64_t>(w, i, plan.a[0], "the descriptor of A");
  const Mask add = w.predicate(plan.add) ^ (plan.add_negated ? kAllLanes : 0);
  if (add != 0 && add != kAllLanes) fault(w, i, -1, "scale-d differs between the lanes");
  if (own.issued - q.first == q.queue.size()) {
    if (q.spare.empty()) q.spare.push_back(std::make_unique<Multiply>());
    q.queue.push_back(std::move(q.spare.back()));
    q.spare.pop_back();
    Multiply& m = *q.queue.back();
    m.plan = &plan;
    m.inst = &i;
    m.a = a;
    m.b = b;
    m.add = add != 0;
    m.done = false;
    m.issued = m.collected = 0;
    m.number = own.issued;
  }
  Multiply& m = *q.queue[own.issued++ - q.first];
  if (m.inst != &i || m.a != a || m.b != b || m.add != (add != 0))
    fault(w, i, -1,
          "the warps of a warpgroup execute different wgmma; another is at line " + std::to_string(m.inst->line));
  Multiply::Part& part = m.part[warp];
  part.group = own.commits;
  if (plan.from_registers)
    for (int r = 0; r < 4; ++r) std::memcpy(part.fragment[r], w.at<uint32_t>(plan.a[r]), sizeof part.fragment[r]);
  part.to = nullptr;
  for (const auto& s : own.sums) {
    if (same_registers(*s->plan, plan)) {
      part.to = s.get();
    } else {
      for (int r = 0; r < plan.count; ++r)
        if (std::find(s->plan->d, s->plan->d + s->plan->count, plan.d[r]) != s->plan->d + s->plan->count)
          fault(w, i, -1, "an accumulator of another wgmma under way, of another shape");
    }
  }
  if (!part.to) {
    if (own.spare.empty()) own.spare.push_back(std::make_unique<Accumulators>());
    own.sums.push_back(std::move(own.spare.back()));
    own.spare.pop_back();
    part.to = own.sums.back().get();
    part.to->plan = &plan;
    part.to->under_way = 0;
    if (m.add) load_sums(w, plan, *part.to);
    if (strict().adversarial)
      for (int r = 0; r < plan.count; ++r) std::memset(w.at<uint32_t>(plan.d[r]), 0xFF, sizeof(uint32_t) * kLanes);
  }
  ++part.to->under_way;
  const uint64_t version = strict().races ? clock_of(w).version : 0;
  if (!own.transfer || own.version != version || !strict().adversarial)
    own.transfer = std::make_shared<Transfer>(begin_transfer(w, i, 0, true));
  own.version = version;
  part.transfer = own.transfer;
  m.issued |= 1u << warp;
  if (!strict().adversarial && m.issued == kEveryWarp) carry_out(&q.queue[own.issued - 1 - q.first], 1);
  return Flow::next;
}

// .sync: what the warp's lanes did is before what its wgmma reads
Flow exec_fence(Warp& w, const Inst&, Mask) {
  sync_warp(w, kAllLanes);
  queue_of(w).warp[w.index % kWarps].fenced = true;
  return Flow::next;
}

Flow exec_commit(Warp& w, const Inst&, Mask) {
  ++queue_of(w).warp[w.index % kWarps].commits;
  return Flow::next;
}

// imm[0]: how many of the latest groups may stay under way
Flow exec_wait(Warp& w, const Inst& i, Mask) {
  WgmmaQueue& q = queue_of(w);
  const int warp = w.index % kWarps;
  WgmmaQueue::OfWarp& own = q.warp[warp];
  uint64_t due = own.collected;
  for (; due < own.issued; ++due) {
    const Multiply& m = *q.queue[due - q.first];
    if (m.part[warp].group + i.imm[0] >= own.commits) break;
    if (m.issued != kEveryWarp) return Flow::wait;  // the others of the warpgroup are not there yet
  }
  if (due == own.collected) return Flow::next;
  for (uint64_t n = own.collected; n < due; ++n) {
    const auto first = q.queue.begin() + static_cast<std::ptrdiff_t>(n - q.first);
    if ((*first)->done) continue;
    int count = 1;
    while (n + 1 < due && same_transfers(**first, *first[count])) ++count, ++n;
    carry_out(first, count);
  }
  Clock done;
  const Multiply* last = nullptr;
  for (; own.collected < due; ++own.collected) {
    Multiply& m = *q.queue[own.collected - q.first];
    collect(w, own, m, warp);
    if (!last || !same_transfers(*last, m))
      for (Multiply::Part& p : m.part) complete_transfer(*p.transfer, done);
    last = &m;
  }
  own.transfer = nullptr;
  acquire(w, kAllLanes, done);
  while (!q.queue.empty() && q.queue[0]->collected == kEveryWarp) {
    q.spare.push_back(std::move(q.queue[0]));
    q.queue.pop_front();
    ++q.first;
  }
  return Flow::next;
}

struct Form {
  std::string_view a, b, d;
  int k;
  MultiplyFunction multiply, saturated = nullptr;
};
template <class A, class B>
constexpr Form form(std::string_view a, std::string_view b, bool half) {
  constexpr int k = kWords * A::kCount;
  if (half) return {a, b, "f16", k, multiply<A, B, Sums::f16>};
  return {a, b, "f32", k, multiply<A, B, Sums::f32>};
}
template <bool kSignedA, bool kSignedB>
constexpr Form form_int(std::string_view a, std::string_view b) {
  using A = Integer<8, kSignedA>;
  using B = Integer<8, kSignedB>;
  return {a, b, "s32", 32, multiply<A, B, Sums::s32>, multiply<A, B, Sums::s32_saturated>};
}
constexpr Form kForms[] = {
    form<Float<F16>, Float<F16>>("f16", "f16", true),
    form<Float<F16>, Float<F16>>("f16", "f16", false),
    form<Float<Bf16>, Float<Bf16>>("bf16", "bf16", false),
    form<Float<Tf32>, Float<Tf32>>("tf32", "tf32", false),
    form<Float<E4m3>, Float<E4m3>>("e4m3", "e4m3", true),
    form<Float<E4m3>, Float<E5m2>>("e4m3", "e5m2", true),
    form<Float<E5m2>, Float<E4m3>>("e5m2", "e4m3", true),
    form<Float<E5m2>, Float<E5m2>>("e5m2", "e5m2", true),
    form<Float<E4m3>, Float<E4m3>>("e4m3", "e4m3", false),
    form<Float<E4m3>, Float<E5m2>>("e4m3", "e5m2", false),
    form<Float<E5m2>, Float<E4m3>>("e5m2", "e4m3", false),
    form<Float<E5m2>, Float<E5m2>>("e5m2", "e5m2", false),
    form_int<true, true>("s8", "s8"),
    form_int<true, false>("s8", "u8"),
    form_int<false, true>("u8", "s8"),
    form_int<false, false>("u8", "u8"),
};

void decode_multiply(Decoder& d, Inst& i, Mods& mods) {
  using Kind = ptx::Operand::Kind;
  const auto& args = d.s.args;
  const std::string& shape = d.s.mods.at(3);
  mods.take(shape);
  const bool saturate = mods.take("satfinite");
  const std::string type_d(mods.type()), type_a(mods.type()), type_b(mods.type());
  mods.done();
  const Form* form = nullptr;
  for (const Form& f : kForms)
    if (f.d == type_d && f.a == type_a && f.b == type_b) form = &f;
  Plan plan;
  for (int n = 8; form && n <= kMaxColumns; n += 8)
    if (shape == "m64n" + std::to_string(n) + "k" + std::to_string(form->k)) plan.columns = n;
  if (!plan.columns || (saturate && !form->saturated)) d.unknown("wgmma of this shape and these types");
  const bool whole = type_d == "s32", wide = form->k == 16;
  // integer: d, a, b, scale-d; else imm-scale-a, imm-scale-b; of 16 bits imm-trans-a unless A is in registers,
  // imm-trans-b
  plan.from_registers = args.size() > 1 && args[1].kind == Kind::vector;
  if (args.size() != 4 + (whole ? 0u : 2u) + (wide ? (plan.from_registers ? 1u : 2u) : 0u)) d.unknown("operands");
  plan.f16_sums = type_d == "f16";
  plan.count = plan.columns / (plan.f16_sums ? 4 : 2);
  plan.flops = 2ull * kRows * plan.columns * form->k;
  plan.multiply = saturate ? form->saturated : form->multiply;
  if (args[0].items.size() != static_cast<size_t>(plan.count)) d.unknown("wrong number of accumulators");
  std::vector<Place> registers;
  for (const auto& item : args[0].items) {
    registers.push_back(d.dst(item, 4));
    if (registers.back() == kNoPlace) d.unknown("`_` is no accumulator");
  }
  plan.d = d.list(registers);
  if (plan.from_registers) {
    if (args[1].items.size() != 4) d.unknown("wrong number of registers of A");
    for (int r = 0; r < 4; ++r) plan.a[r] = d.src(args[1].items[r], 4);
  } else {
    plan.a[0] = d.src(args[1], 8);
  }
  plan.b = d.src(args[2], 8);
  plan.add = d.src(args[3], 0);
  plan.add_negated = args[3].negated;
  if (!whole) {
    const auto sign = [&](const ptx::Operand& o) {
      const auto v = static_cast<int64_t>(constant(d, o));
      if (v != 1 && v != -1 && v != 0xFFFF'FFFF) d.unknown("imm-scale");
      return v != 1;
    };
    plan.negative = sign(args[4]) != sign(args[5]);
  }
  if (wide) {
    plan.a_by_m = !plan.from_registers && constant(d, args[6]) != 0;
    plan.b_by_n = constant(d, args.back()) != 0;
  }
  i.extra = d.keep(plan);
  i.exec = exec_multiply;
}

void decode_wgmma(Decoder& d, Inst& i) {
  i.cls = Class::wgmma;
  i.converge = Converge::all;
  Mods mods(d);
  const int form = mods.pick({"mma_async", "fence", "commit_group", "wait_group"});
  if (d.has("sp")) d.unknown("sparse wgmma is not emulated");
  if (form < 0 || !mods.take("sync") || !mods.take("aligned")) d.unknown();
  if (form == 0) return decode_multiply(d, i, mods);
  mods.done();
  if (form == 3) i.imm[0] = constant(d, d.s.args.at(0));
  i.exec = form == 1 ? exec_fence : form == 2 ? exec_commit : exec_wait;
}

}  // namespace

void finish_wgmma(Cta& cta) {
  for (const auto& q : cta.async->wgmma)
    if (q && !q->queue.empty())
      throw Fault("line " + std::to_string(q->queue[0]->inst->line) +
                  ": wgmma was still under way when its CTA ended: no wgmma.wait_group covers it");
}

const Family kWgmma[] = {{"wgmma", decode_wgmma}, {nullptr, nullptr}};

}  // namespace emu
