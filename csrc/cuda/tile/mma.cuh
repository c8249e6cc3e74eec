#pragma once
#include "cuda/ptx/convert.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/tile/shared.cuh"

// Operand fragments of a warp and products of tiles. Accumulators are float[M][N][4]: M blocks of 16 rows, N of 8
// columns (layout in cuda/ptx/mma.cuh).
//
// fp32 operands go through the tensor cores as two tf32 numbers, x = high + low + O(2^-22 x), and three products
// (low·low is below that). 3 × tf32 at 1/2 the rate of bf16 gives 156/3 = 52 TFLOP/s on A100 against 19.5 of FMA (H100
// SXM 165 against 67), with errors like those of an fp32 sum.
namespace saccade::cuda {

template <class T>
struct Fragment {  // 16-bit: one step covers k = 16
  static constexpr int kDepth = 16;
  struct A {
    uint32_t x[4];
  };
  struct B {
    uint32_t x[2];
  };
};

template <>
struct Fragment<math::F32> {  // k = 8
  static constexpr int kDepth = 8;
  struct A {
    uint32_t high[4], low[4];
  };
  struct B {
    uint32_t high[2], low[2];
  };
};

__device__ __forceinline__ void split_tf32(float x, uint32_t& high, uint32_t& low) {
  high = ptx::to_tf32(x);
  low = ptx::to_tf32(x - __uint_as_float(high));
}

/// Two numbers as 16-bit operands of T.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<math::Bf16>(float low, float high) {
  return ptx::pack_bf16(low, high);
}
template <>
__device__ __forceinline__ uint32_t pack<math::F16>(float low, float high) {
  return ptx::pack_f16(low, high);
}

__device__ __forceinline__ void mma_step(float (&d)[4], const Fragment<math::Bf16>::A& a,
                                         const Fragment<math::Bf16>::B& b, math::Bf16) {
  ptx::mma_bf16(d, a.x, b.x);
}
__device__ __forceinline__ void mma_step(float (&d)[4], const Fragment<math::F16>::A& a,
                                         const Fragment<math::F16>::B& b, math::F16) {
  ptx::mma_f16(d, a.x, b.x);
}
__device__ __forceinline__ void mma_step(float (&d)[4], const Fragment<math::F32>::A& a,
                                         const Fragment<math::F32>::B& b, math::F32) {
  ptx::mma_tf32(d, a.low, b.high);  // small terms first
  ptx::mma_tf32(d, a.high, b.low);
  ptx::mma_tf32(d, a.high, b.high);
}

/// A operand: 16 rows × one step, from a `corner_down` address.
template <class T>
__device__ __forceinline__ void load_a(typename Fragment<T>::A& a, uint32_t from) {
  if constexpr (Fragment<T>::kDepth == 16) {
    ptx::ldmatrix_x4(a.x, from);
  } else {
    uint32_t x[4];
    ptx::ldmatrix_x4(x, from);
#pragma unroll
    for (int i = 0; i < 4; ++i) split_tf32(__uint_as_float(x[i]), a.high[i], a.low[i]);
  }
}

/// B operands of 16 rows of [n][k] × one step, from a `corner_across` address.
template <class T>
__device__ __forceinline__ void load_b(typename Fragment<T>::B (&b)[2], uint32_t from) {
  uint32_t x[4];
  ptx::ldmatrix_x4(x, from);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if constexpr (Fragment<T>::kDepth == 16)
      b[i / 2].x[i % 2] = x[i];
    else
      split_tf32(__uint_as_float(x[i]), b[i / 2].high[i % 2], b[i / 2].low[i % 2]);
}

/// A operand of step k from accumulators. The order of k within a step is free as long as B has the same: in fp32 the
/// columns 2t, 2t+1 that a lane holds serve as k = t, t+4, and `load_b_columns` takes the rows accordingly.
template <class T, int N>
__device__ __forceinline__ void a_of_accumulators(typename Fragment<T>::A& a, const float (&s)[N][4], int k) {
  if constexpr (Fragment<T>::kDepth == 16) {
    a.x[0] = pack<T>(s[2 * k][0], s[2 * k][1]);
    a.x[1] = pack<T>(s[2 * k][2], s[2 * k][3]);
    a.x[2] = pack<T>(s[2 * k + 1][0], s[2 * k + 1][1]);
    a.x[3] = pack<T>(s[2 * k + 1][2], s[2 * k + 1][3]);
  } else {
    split_tf32(s[k][0], a.high[0], a.low[0]);
    split_tf32(s[k][2], a.high[1], a.low[1]);
    split_tf32(s[k][1], a.high[2], a.low[2]);
    split_tf32(s[k][3], a.high[3], a.low[3]);
  }
}

/// B operands from rows of [k][n]: step k, columns 16·pair … 16·pair+15, in the order of `a_of_accumulators`. `corner`
/// is the tile's corner_down (16-bit) or its base (fp32, where the eight units of four rows 2t lie in different banks).
template <class T, class Tile>
__device__ __forceinline__ void load_b_columns(typename Fragment<T>::B (&b)[2], Tile tile, uint32_t corner, int lane,
                                               int k, int pair) {
  if constexpr (Fragment<T>::kDepth == 16) {
    uint32_t x[4];
    ptx::ldmatrix_x4_trans(x, (corner ^ (pair * 32)) + k * 16 * Tile::kRowBytes);
#pragma unroll
    for (int i = 0; i < 4; ++i) b[i / 2].x[i % 2] = x[i];
  } else {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = 2 * (lane & 3) + i, column = lane >> 2;  // of the step, of the block of 8
        const uint32_t at = (tile.base + row * Tile::kRowBytes + (((column >> 2) ^ row) << 4) + (column & 3) * 4 +
                             k * 8 * Tile::kRowBytes) ^
                            (pair * 64 + n * 32);
        split_tf32(__uint_as_float(ptx::load_shared_32(at)), b[n].high[i], b[n].low[i]);
      }
  }
}

/// s[M][N] += a·bᵀ over kDepth columns: `a` is the corner_down of the warp's first row, `b` the corner_across of the
/// other tile's.
template <class T, class TileA, class TileB, int kColumns, int M, int N>
__device__ __forceinline__ void multiply_rows(float (&s)[M][N][4], uint32_t a, uint32_t b) {
  static_assert(N % 2 == 0);
  a = ptx::opaque(a), b = ptx::opaque(b);
#pragma unroll
  for (int k = 0; k < kColumns / Fragment<T>::kDepth; ++k) {
    typename Fragment<T>::A fa[M];
#pragma unroll
    for (int m = 0; m < M; ++m) load_a<T>(fa[m], (a ^ (k * 32)) + m * 16 * TileA::kRowBytes);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      typename Fragment<T>::B fb[2];
      load_b<T>(fb, (b ^ (k * 32)) + n * 8 * TileB::kRowBytes);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma_step(s[m][n], fa[m], fb[0], T{});
        mma_step(s[m][n + 1], fa[m], fb[1], T{});
      }
    }
  }
}

/// o[M][N] += p·b, p being accumulators over the rows of tile b ([k][n], first row `row`).
template <class T, class Tile, int M, int K, int N>
__device__ __forceinline__ void multiply_accumulators(float (&o)[M][N][4], const float (&p)[M][K][4], Tile b,
                                                      int lane) {
  static_assert(N % 2 == 0);
  const uint32_t corner = b.corner_down(lane);
#pragma unroll
  for (int k = 0; k < K * 8 / Fragment<T>::kDepth; ++k) {
    typename Fragment<T>::A fa[M];
#pragma unroll
    for (int m = 0; m < M; ++m) a_of_accumulators<T>(fa[m], p[m], k);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      typename Fragment<T>::B fb[2];
      load_b_columns<T>(fb, b, corner, lane, k, n / 2);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma_step(o[m][n], fa[m], fb[0], T{});
        mma_step(o[m][n + 1], fa[m], fb[1], T{});
      }
    }
  }
}

template <int M, int N>
__device__ __forceinline__ void clear(float (&s)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
}

}  // namespace saccade::cuda
