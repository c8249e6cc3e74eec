#include <bit>
#include <cstring>

#include "fragment.h"
#include "wgmma.h"

// 64 x N x 32 bytes: operands out of shared memory and registers, products and sums, formed as in mma.cpp.
namespace emu::wgmma {
namespace {

using namespace fragment;

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

}  // namespace

std::span<const Form> forms() { return kForms; }

}  // namespace emu::wgmma
