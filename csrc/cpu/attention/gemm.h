#pragma once
#include "cpu/vec/vec.h"

// The register tile of both loops: C[M×N] (+)= A[M×K]·B[K×N], all fp32, operands already where they are read fastest.
namespace saccade::cpu::SACCADE_ISA {
namespace {

// Accumulators: kMr·2 vectors, beside two of B and a broadcast. AVX2 has 16 registers, AVX-512 and NEON 32, SSE 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMr = 12;
#else
constexpr int kMr = 6;
#endif
constexpr int kNr = 2 * kWidth;

/// Element (m, k) of A stands at a[m·Am + k·Ak], row k of B at b + k·ldb (NV vectors are read), row m of C at c +
/// m·ldc.
template <int M, int NV, bool kAdd, int Am, int Ak>
SACCADE_FN void register_tile(int64_t k, const float* a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  vf acc[M][NV];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < NV; ++n) acc[m][n] = vf{};
#pragma GCC unroll 4
  for (int64_t i = 0; i < k; ++i) {
    vf bv[NV];
#pragma GCC unroll 2
    for (int n = 0; n < NV; ++n) bv[n] = Vec::load(b + n * kWidth).v;
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const vf av = Vec(a[m * Am]).v;
#pragma GCC unroll 2
      for (int n = 0; n < NV; ++n) acc[m][n] += av * bv[n];
    }
    a += Ak;
    b += ldb;
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < NV; ++n) {
      float* p = c + m * ldc + n * kWidth;
      (kAdd ? Vec(acc[m][n]) + Vec::load(p) : Vec(acc[m][n])).store(p);
    }
}

/// The same for 1 ≤ m ≤ kMr rows and 1 or 2 vectors of columns.
template <bool kAdd, int Am, int Ak, int M = kMr>
void tile(int m, int vectors, int64_t k, const float* a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  if constexpr (M > 1)
    if (m < M) return tile<kAdd, Am, Ak, M - 1>(m, vectors, k, a, b, ldb, c, ldc);
  if (vectors == 2)
    register_tile<M, 2, kAdd, Am, Ak>(k, a, b, ldb, c, ldc);
  else
    register_tile<M, 1, kAdd, Am, Ak>(k, a, b, ldb, c, ldc);
}

/// `tile<true, …>`, bit for bit, under the rule that a zero of A contributes nothing, even against Inf or NaN in B: an
/// invisible row cannot leak.
template <int Am, int Ak>
__attribute__((noinline)) void tile_nonfinite(int m, int vectors, int64_t k, const float* a, const float* b,
                                              int64_t ldb, float* c, int64_t ldc) {
  for (int row = 0; row < m; ++row)
    for (int n = 0; n < vectors * kWidth; n += kWidth) {
      vf acc{};
      for (int64_t i = 0; i < k; ++i)
        if (const float w = a[row * Am + i * Ak]; w != 0) acc += Vec(w).v * Vec::load(b + i * ldb + n).v;
      float* p = c + row * ldc + n;
      (Vec(acc) + Vec::load(p)).store(p);
    }
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
