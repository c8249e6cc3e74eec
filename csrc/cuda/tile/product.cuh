#pragma once
#include "cuda/tile/mma.cuh"

// Products of two tiles in shared memory, each read along its rows or along its columns. A's columns have the order of
// the product's rows: `RowsA` reads [m][k], `ColumnsA` [k][m]; `RowsB` [n][k], `ColumnsB` [k][n].
namespace saccade::cuda {

/// A lane's two numbers of a step of an fp32 tile's columns, (row t, column g) and (t + 4, g); where both operands are
/// read along their columns (2t, g) and (2t + 1, g), which lie in different banks. 8·n columns to the right are ^
/// (n·32).
template <class Tile, bool kBoth>
struct ColumnPair {
  uint32_t corner;

  __device__ __forceinline__ ColumnPair(Tile tile, int lane)
      : corner(tile.unit((lane & 3) * (kBoth ? 2 : 1), lane >> 4) + (lane >> 2 & 3) * 4) {}
  static __device__ __forceinline__ uint32_t at(uint32_t corner, int k, int i, int n) {
    constexpr int kRows = kBoth ? 1 : 4;
    return (corner + (k * 8 + i * kRows) * Tile::kRowBytes) ^ (n * 32) ^ (i * kRows * kUnit);
  }
};

template <class T, class Tile>
struct RowsA {
  uint32_t corner;

  __device__ __forceinline__ RowsA(Tile tile, int row, int lane)
      : corner(tile.corner_down(lane) + row * Tile::kRowBytes) {}
  __device__ __forceinline__ void load(typename Fragment<T>::A& a, int k, int m) const {
    load_a<T>(a, (corner ^ (k * 32)) + m * 16 * Tile::kRowBytes);
  }
};

template <class T, class Tile>  // with ColumnsB<…, true>
struct ColumnsA {
  using Pair = ColumnPair<Tile, true>;
  uint32_t corner;

  __device__ __forceinline__ ColumnsA(Tile tile, int column, int lane) {
    corner = (Tile::kElement == 4 ? Pair(tile, lane).corner : tile.corner_across(lane)) ^ (column * Tile::kElement);
  }
  __device__ __forceinline__ void load(typename Fragment<T>::A& a, int k, int m) const {
    if constexpr (Tile::kElement == 2) {
      ptx::ldmatrix_x4_trans(a.x, (corner ^ (m * 32)) + k * 16 * Tile::kRowBytes);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        split_tf32(__uint_as_float(ptx::load_shared_32(Pair::at(corner, k, i / 2, m * 2 + i % 2))), a.high[i],
                   a.low[i]);
    }
  }
};

template <class T, class Tile>
struct RowsB {
  uint32_t corner;

  __device__ __forceinline__ RowsB(Tile tile, int row, int lane)
      : corner(tile.corner_across(lane) + row * Tile::kRowBytes) {}
  __device__ __forceinline__ void load(typename Fragment<T>::B (&b)[2], int k, int pair) const {
    load_b<T>(b, (corner ^ (k * 32)) + pair * 16 * Tile::kRowBytes);
  }
};

template <class T, class Tile, bool kBoth = false>
struct ColumnsB {
  using Pair = ColumnPair<Tile, kBoth>;
  uint32_t corner;

  __device__ __forceinline__ ColumnsB(Tile tile, int column, int lane) {
    corner = (Tile::kElement == 4 ? Pair(tile, lane).corner : tile.corner_down(lane)) ^ (column * Tile::kElement);
  }
  __device__ __forceinline__ void load(typename Fragment<T>::B (&b)[2], int k, int pair) const {
    if constexpr (Tile::kElement == 2) {
      uint32_t x[4];
      ptx::ldmatrix_x4_trans(x, (corner ^ (pair * 32)) + k * 16 * Tile::kRowBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) b[i / 2].x[i % 2] = x[i];
    } else {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          split_tf32(__uint_as_float(ptx::load_shared_32(Pair::at(corner, k, i, pair * 2 + n))), b[n].high[i],
                     b[n].low[i]);
    }
  }
};

/// x[M][N] += a·b over `steps` steps of Fragment<T>::kDepth.
template <class T, class A, class B, int M, int N>
__device__ __forceinline__ void multiply(float (&x)[M][N][4], A a, B b, int steps) {
  static_assert(N % 2 == 0);
  a.corner = ptx::opaque(a.corner), b.corner = ptx::opaque(b.corner);
#pragma unroll 2
  for (int k = 0; k < steps; ++k) {
    typename Fragment<T>::A fa[M];
#pragma unroll
    for (int m = 0; m < M; ++m) a.load(fa[m], k, m);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      typename Fragment<T>::B fb[2];
      b.load(fb, k, n / 2);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma_step(x[m][n], fa[m], fb[0], T{});
        mma_step(x[m][n + 1], fa[m], fb[1], T{});
      }
    }
  }
}

}  // namespace saccade::cuda
