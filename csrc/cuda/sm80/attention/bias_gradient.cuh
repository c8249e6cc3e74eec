#pragma once
#include "cuda/sm80/attention/backward.cuh"
#include "cuda/sm80/attention/dims.h"

// The bias's gradient: a CTA owns one tile of it and sweeps every pair that the tile was broadcast to, in a fixed
// order. That recomputes two products, and keeps a broadcast bias (over batch, heads, queries or keys) deterministic
// and without a buffer of its full size.
namespace saccade::cuda {

template <class T, int kDim>
struct BiasTile {
  static constexpr bool k32 = sizeof(typename T::Storage) == 4;
  static constexpr int kWarps = 4, kThreads = kWarps * 32, kQueries = kWarps * 16;
  static constexpr int kKeys = k32 && kDim == 256 ? 16 : 64;
  using Query = SharedTile<T, kQueries, kDim>;
  using Key = SharedTile<T, kKeys, kDim>;
  static constexpr int kShared = 2 * Query::kBytes + 2 * Key::kBytes;
  static constexpr int kSumStride = kKeys + 1;
  static_assert(kShared >= kQueries * kSumStride * 4);
};

/// Element (b, h, i, j) of the gradient, in the bias's dtype.
template <class T>
__device__ __forceinline__ void store_bias(const BiasGradientParams& p, int64_t b, int64_t h, int64_t i, int64_t j,
                                           float x) {
  const int64_t at = b * p.dbias.batch + h * p.dbias.head + i * p.dbias.row + j * p.dbias.column;
  if (p.dbias_type == DType::f32)
    reinterpret_cast<float*>(p.dbias.data)[at] = x;
  else
    reinterpret_cast<typename T::Storage*>(p.dbias.data)[at] = T::store(x);
}

/// The statistics of a lane's two rows.
template <class Score>
__device__ __forceinline__ Statistics<Score, QueriesDown, 1> read_statistics(const BackwardParams& p,
                                                                             const Terms<Score>& terms, int32_t h,
                                                                             int32_t i, int32_t i1) {
  if constexpr (!Score::kRowState) {
    return {terms, h};
  } else {
    Statistics<Score, QueriesDown, 1> row;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      row.of[r] = i + 8 * r < i1 ? p.statistics[first_row(p, terms.s, h) + i + 8 * r] : RowStatistics{kInf, 0};
    return row;
  }
}

template <class T, class Score, int kDim>
__global__ void __launch_bounds__(BiasTile<T, kDim>::kThreads, 1)
    bias_gradient_kernel(const __grid_constant__ BiasGradientParams p) {
  using Tile = BiasTile<T, kDim>;
  using Storage = typename T::Storage;
  using Place = QueriesDown;
  constexpr int N = Tile::kKeys / 8, kThreads = Tile::kThreads;
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Tile::Query query{ptx::shared_address(shared)}, dout{query.base + Tile::Query::kBytes};
  const typename Tile::Key key{dout.base + Tile::Query::kBytes}, value{key.base + Tile::Key::kBytes};

  const bool all_rows = p.dbias_size[2] == 1, all_columns = p.dbias_size[3] == 1;
  const int64_t tiles_i = (p.dbias_size[2] + Tile::kQueries - 1) / Tile::kQueries;
  const int64_t tiles_j = (p.dbias_size[3] + Tile::kKeys - 1) / Tile::kKeys;
  int64_t unit = blockIdx.x;
  const auto next = [&](int64_t n) {
    const int64_t x = unit % n;
    unit /= n;
    return x;
  };
  const auto j_first = static_cast<int32_t>(next(tiles_j) * Tile::kKeys),
             i_first = static_cast<int32_t>(next(tiles_i) * Tile::kQueries);
  const int64_t h0 = next(p.dbias_size[1]), b0 = next(p.dbias_size[0]), split = unit;

  // The (batch, head) pairs that the tile was broadcast to; a split takes its share of them.
  const int64_t heads = p.dbias_size[1] == 1 ? p.query_heads : 1, pairs = (p.dbias_size[0] == 1 ? p.batch : 1) * heads;
  float sum[1][N][4];
  clear(sum);
  for (int64_t pair = split * pairs / p.splits; pair < (split + 1) * pairs / p.splits; ++pair) {
    const Sequence s(p, b0 + pair / heads);
    const Range& range = s.range;
    const auto h = static_cast<int32_t>(h0 + pair % heads), hk = h / p.group;
    const Terms<Score> terms{p, s};
    const int32_t j_end = all_columns ? range.keys : min(range.keys, j_first + Tile::kKeys);
    const int32_t i_end = all_rows ? range.queries : min(range.queries, i_first + Tile::kQueries);
    for (int32_t j0 = j_first; j0 < j_end; j0 += Tile::kKeys)
      for (int32_t i0 = i_first; i0 < i_end; i0 += Tile::kQueries) {
        const int32_t i1 = min(i0 + Tile::kQueries, range.queries), j1 = min(j0 + Tile::kKeys, range.keys);
        if (range.key_begin(i0) >= j1 || range.key_end(i1 - 1) <= j0) continue;
        const Me me(16);
        __syncthreads();
        const auto load = [&](auto tile, const Storage* from, const View& like, int rows, int columns) {
          tile.template load<kThreads>(reinterpret_cast<const char*>(from), like.row, rows, columns, me.thread);
        };
        load(query, s.query_row<const Storage>(p.query, h, i0), p.query, i1 - i0, p.head_dim);
        load(dout, s.query_row<const Storage>(p.dout, h, i0), p.dout, i1 - i0, p.value_dim);
        load(key, s.key_row<const Storage>(p.key, hk, j0), p.key, j1 - j0, p.head_dim);
        load(value, s.key_row<const Storage>(p.value, hk, j0), p.value, j1 - j0, p.value_dim);
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncthreads();
        float w[1][N][4], ds[1][N][4];
        clear(w), clear(ds);
        multiply_rows<T, typename Tile::Query, typename Tile::Key, kDim>(
            w, query.corner_down(me.lane) + me.row0 * Tile::Query::kRowBytes, key.corner_across(me.lane));
        multiply_rows<T, typename Tile::Query, typename Tile::Key, kDim>(
            ds, dout.corner_down(me.lane) + me.row0 * Tile::Query::kRowBytes, value.corner_across(me.lane));
        const int32_t i = i0 + me.row0 + (me.lane >> 2);
        const bool inside[2] = {i < i1, i + 8 < i1};
        auto row = read_statistics(p, terms, h, i, i1);
        general_gradient<T, true>(w, ds, terms, row, Place(i0 + me.row0, j0, h, me.lane),
                                  needs_mask(range, i0, i1, j0, j0 + Tile::kKeys), static_cast<RowShares<1>*>(nullptr));
        each<1, N>([&](int m, int n, int e) {
          if (inside[e >> 1]) sum[m][n][e] += ds[m][n][e];
        });
      }
  }

  const Me me(16);
  __syncthreads();
  float(*room)[Tile::kSumStride] = reinterpret_cast<float(*)[Tile::kSumStride]>(shared);
  each<1, N>([&](int, int n, int e) {
    room[me.row0 + (me.lane >> 2) + 8 * (e >> 1)][8 * n + 2 * (me.lane & 3) + (e & 1)] = sum[0][n][e];
  });
  __syncthreads();
  if (all_columns) {
    if (me.thread < Tile::kQueries)
      for (int c = 1; c < Tile::kKeys; ++c) room[me.thread][0] += room[me.thread][c];
    __syncthreads();
  }
  if (all_rows) {
    if (me.thread < Tile::kKeys)
      for (int r = 1; r < Tile::kQueries; ++r) room[0][me.thread] += room[r][me.thread];
    __syncthreads();
  }
  for (int x = me.thread; x < Tile::kQueries * Tile::kKeys; x += kThreads) {
    const int64_t i = i_first + x / Tile::kKeys, j = j_first + x % Tile::kKeys;
    if (i >= p.dbias_size[2] || j >= p.dbias_size[3]) continue;
    const float y = room[x / Tile::kKeys][x % Tile::kKeys];
    if (p.splits > 1)
      p.partial[(((split * p.dbias_size[0] + b0) * p.dbias_size[1] + h0) * p.dbias_size[2] + i) * p.dbias_size[3] + j] =
          y;
    else
      store_bias<T>(p, b0, h0, i, j, y);
  }
}

/// Adds up what the splits left, in their order.
template <class T>
__global__ void __launch_bounds__(256) merge_bias_kernel(const __grid_constant__ BiasGradientParams p) {
  const int64_t elements = p.elements();
  for (int64_t x = blockIdx.x * 256LL + threadIdx.x; x < elements; x += gridDim.x * 256LL) {
    float sum = 0;
    for (int64_t s = 0; s < p.splits; ++s) sum += p.partial[s * elements + x];
    const int64_t j = x % p.dbias_size[3], i = x / p.dbias_size[3] % p.dbias_size[2];
    const int64_t row = x / p.dbias_size[3] / p.dbias_size[2];
    store_bias<T>(p, row / p.dbias_size[1], row % p.dbias_size[1], i, j, sum);
  }
}

template <class T, class Score>
int BiasGradient<T, Score>::shared_bytes(const Params& p) {
  return with_dim(p, []<int n>(Dim<n>) { return BiasTile<T, n>::kShared; });
}

template <class T, int kDim>
int64_t bias_tiles(const BackwardParams& p) {
  using Tile = BiasTile<T, kDim>;
  return p.dbias_size[0] * p.dbias_size[1] * ((p.dbias_size[2] + Tile::kQueries - 1) / Tile::kQueries) *
         ((p.dbias_size[3] + Tile::kKeys - 1) / Tile::kKeys);
}

template <class T, class Score>
int64_t BiasGradient<T, Score>::splits(const BackwardParams& p) {
  constexpr int64_t kEnough = 256;  // CTAs; the partial sums of so many tiles are at most 4 MiB
  const int64_t tiles = with_dim(p, [&]<int n>(Dim<n>) { return bias_tiles<T, n>(p); });
  const int64_t pairs = (p.dbias_size[0] == 1 ? p.batch : 1) * (p.dbias_size[1] == 1 ? p.query_heads : 1);
  const int64_t wanted = tiles > 0 ? kEnough / tiles : 1;
  return wanted < pairs ? (wanted < 1 ? 1 : wanted) : (pairs < 1 ? 1 : pairs);
}

template <class T, class Score>
void BiasGradient<T, Score>::launch(Queue& queue, const BiasGradientParams& p) {
  with_dim(p, [&]<int n>(Dim<n>) {
    using Tile = BiasTile<T, n>;
    queue.launch<BiasGradientParams>(bias_gradient_kernel<T, Score, n>,
                                     dim3(static_cast<unsigned>(bias_tiles<T, n>(p) * p.splits)), Tile::kThreads,
                                     Tile::kShared, p);
  });
  if (p.splits > 1)
    queue.launch<BiasGradientParams>(merge_bias_kernel<T>, dim3(static_cast<unsigned>((p.elements() + 255) / 256)), 256,
                                     0, p);
}

}  // namespace saccade::cuda
