#pragma once
#include <stdint.h>

#include <utility>

#include "math/fn.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// One vector type on GCC vector extensions. This header is compiled once per instruction set, inside a namespace named
// after it and without external linkage, so nothing compiled for AVX-512 can be linked into the baseline's path.
#ifndef SACCADE_ISA
#error "compile with -DSACCADE_ISA=<base|avx2|avx512|neon>"
#endif

namespace saccade::cpu::SACCADE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float vf __attribute__((vector_size(kWidth * 4)));
typedef int32_t vi __attribute__((vector_size(kWidth * 4)));
typedef uint32_t vu __attribute__((vector_size(kWidth * 4)));
typedef float vf_unaligned __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

/// A mask of lanes: all ones or all zeros.
using Mask = vi;

struct Vec {
  vf v;
  Vec() = default;
  SACCADE_FN Vec(vf x) : v(x) {}
  SACCADE_FN Vec(float x) : v(x - vf{}) {}  // "x − {}" is a broadcast; "{} + x" is compiled worse by gcc 12
  static SACCADE_FN Vec load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
  SACCADE_FN void store(float* p) const { *reinterpret_cast<vf_unaligned*>(p) = v; }
};

SACCADE_FN Vec operator+(Vec a, Vec b) { return a.v + b.v; }
SACCADE_FN Vec operator-(Vec a, Vec b) { return a.v - b.v; }
SACCADE_FN Vec operator*(Vec a, Vec b) { return a.v * b.v; }
SACCADE_FN Vec operator/(Vec a, Vec b) { return a.v / b.v; }
SACCADE_FN Mask operator<(Vec a, Vec b) { return a.v < b.v; }
SACCADE_FN Mask operator==(Vec a, Vec b) { return a.v == b.v; }
SACCADE_FN Vec select(Mask m, Vec yes, Vec no) { return (vf)((m & (vi)yes.v) | (~m & (vi)no.v)); }
SACCADE_FN Vec fma(Vec a, Vec b, Vec c) { return a.v * b.v + c.v; }
SACCADE_FN Vec abs(Vec a) { return (vf)((vi)a.v & 0x7FFFFFFF); }
/// NaN in `a` stays; NaN in `b` is ignored. (gcc 12 makes two instructions of "b > a ? b : a".)
#if defined(__AVX512F__)
SACCADE_FN Vec max(Vec a, Vec b) { return (vf)_mm512_max_ps((__m512)b.v, (__m512)a.v); }
SACCADE_FN Vec min(Vec a, Vec b) { return (vf)_mm512_min_ps((__m512)b.v, (__m512)a.v); }
#elif defined(__AVX__)
SACCADE_FN Vec max(Vec a, Vec b) { return (vf)_mm256_max_ps((__m256)b.v, (__m256)a.v); }
SACCADE_FN Vec min(Vec a, Vec b) { return (vf)_mm256_min_ps((__m256)b.v, (__m256)a.v); }
#elif defined(__x86_64__)
SACCADE_FN Vec max(Vec a, Vec b) { return (vf)_mm_max_ps((__m128)b.v, (__m128)a.v); }
SACCADE_FN Vec min(Vec a, Vec b) { return (vf)_mm_min_ps((__m128)b.v, (__m128)a.v); }
#else
SACCADE_FN Vec max(Vec a, Vec b) { return b.v > a.v ? b.v : a.v; }
SACCADE_FN Vec min(Vec a, Vec b) { return b.v < a.v ? b.v : a.v; }
#endif

/// 1/x for x ≥ 1 within 2^-22 (an estimate and one Newton step); 0 beyond 2^126, infinity included.
SACCADE_FN Vec rcp(Vec x) {
#if defined(__AVX512F__)
  const Vec y = (vf)_mm512_rcp14_ps((__m512)x.v);
#elif defined(__AVX__)
  const Vec y = (vf)_mm256_rcp_ps((__m256)x.v);
#else
  const Vec y = Vec(1.0f) / x;
#endif
  return select(Vec(0x1p126f) < x, Vec(0.0f), fma(y, fma(Vec(-x.v), y, Vec(1.0f)), y));
}

using Lanes = std::make_integer_sequence<int, kWidth>;

template <int... E>
SACCADE_FN vi iota(std::integer_sequence<int, E...>) {
  return vi{E...};
}
/// Lane numbers 0, 1, …
SACCADE_FN vi iota() { return iota(Lanes{}); }

/// 2^x for x < 128: relative error 1.1e-7 (degree-5 minimax with p(0) = 1, so 2^0 is exactly 1); x ≤ −127 gives 0, NaN
/// NaN.
SACCADE_FN Vec exp2_bounded(Vec x) {
  x = max(x, Vec(-127.0f));
  const vf magic = Vec(12582912.0f + 127.0f).v;  // 1.5·2^23 leaves the rounded exponent, biased, in the low bits
  const vf t = x.v + magic;
  const vf f = x.v - (t - magic);
  vf p = f * Vec(1.3264726e-3f).v + Vec(9.6715130e-3f).v;
  p = p * f + Vec(5.5507336e-2f).v;
  p = p * f + Vec(2.4022242e-1f).v;
  p = p * f + Vec(6.9314700e-1f).v;
  p = p * f + Vec(1.0f).v;
  return p * (vf)((vu)t << 23);
}
/// 2^x for every x; infinity from 128 on.
SACCADE_FN Vec exp2(Vec x) { return exp2_bounded(min(x, Vec(128.0f))); }

/// Relative error 3e-7: an odd polynomial (Cephes tanhf) below 0.625, 1 − 2/(e^{2x} + 1) above.
SACCADE_FN Vec tanh(Vec x) {
  const Vec a = abs(x), z = x * x;
  Vec p = fma(z, Vec(-5.70498872745e-3f), Vec(2.06390887954e-2f));
  p = fma(p, z, Vec(-5.37397155531e-2f));
  p = fma(p, z, Vec(1.33314422036e-1f));
  p = fma(p, z, Vec(-3.33332819422e-1f));
  const Vec small = fma(p * z, x, x);
  const Vec large = Vec(1.0f) - Vec(2.0f) / (exp2(a * Vec(2.885390082f)) + Vec(1.0f));
  const vi sign = (vi)x.v & (vi)Vec(-0.0f).v;
  return select(a < Vec(0.625f), small, Vec((vf)((vi)large.v | sign)));
}

template <int kHalf, class Op, int... E>
SACCADE_FN float fold(Vec v, Op op, std::integer_sequence<int, E...> lanes) {
  v = op(v, Vec(__builtin_shufflevector(v.v, v.v, (E ^ kHalf)...)));
  if constexpr (kHalf > 1)
    return fold<kHalf / 2>(v, op, lanes);
  else
    return v.v[0];
}
/// Sum and maximum over the lanes, halves folded in a fixed order.
SACCADE_FN float sum(Vec v) {
  return fold<kWidth / 2>(v, [](Vec a, Vec b) __attribute__((always_inline)) { return a + b; }, Lanes{});
}
SACCADE_FN float hmax(Vec v) {
  return fold<kWidth / 2>(v, [](Vec a, Vec b) __attribute__((always_inline)) { return max(a, b); }, Lanes{});
}

template <int S, int... E>
SACCADE_FN Vec sums(const Vec* v, std::integer_sequence<int, E...> lanes) {
  if constexpr (S == 0) {
    return v[0];
  } else {
    const vf a = sums<S / 2>(v, lanes).v, b = sums<S / 2>(v + S, lanes).v;
    return __builtin_shufflevector(a, b, ((E & S) ? kWidth + E - S : E)...) +
           __builtin_shufflevector(a, b, ((E & S) ? kWidth + E : E + S)...);
  }
}
/// Lane i is the sum of v[i]: kWidth sums for the price of about three.
SACCADE_FN Vec sums(const Vec (&v)[kWidth]) { return sums<kWidth / 2>(v, Lanes{}); }

template <int S, int... E>
SACCADE_FN void exchange(vf (&r)[kWidth], std::integer_sequence<int, E...> lanes) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if (i & S) continue;
    const vf a = r[i], b = r[i + S];
    r[i] = __builtin_shufflevector(a, b, ((E & S) ? kWidth + E - S : E)...);
    r[i + S] = __builtin_shufflevector(a, b, ((E & S) ? kWidth + E : E + S)...);
  }
  if constexpr (2 * S < kWidth) exchange<2 * S>(r, lanes);
}
/// Transposes kWidth vectors in place: log2(kWidth) rounds of exchanging off-diagonal blocks.
SACCADE_FN void transpose(vf (&r)[kWidth]) { exchange<1>(r, Lanes{}); }

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
