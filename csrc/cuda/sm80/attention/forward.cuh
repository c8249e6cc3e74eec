#pragma once
#include "cuda/attention/online.cuh"
#include "cuda/sm80/attention/decode.h"

// Forward: a CTA holds a tile of queries and walks the key tiles that some of its rows see. K and V have one buffer
// each and one of them is always on its way: V is copied under q·k, the next K under softmax and p·v.
namespace saccade::cuda {

template <class T, int kDim, bool kModified>
struct ForwardTile {
  static constexpr bool k32 = sizeof(typename T::Storage) == 4;
  // Two blocks of 16 rows a warp share every B operand; accumulators then are kDim + kKeys registers of a lane, 192 at
  // most. Modifiers need registers of their own, and kDim = 256 leaves one block (128 + 32), of which eight warps share
  // K and V.
  static constexpr int kBlocks = kDim == 256 || kModified ? 1 : 2;
  static constexpr int kWarps = kDim == 256 && !k32 ? 8 : 4;
  static constexpr int kQueries = kWarps * kBlocks * 16;
  static constexpr int kKeys = k32 && kDim > 64 ? 32 : 64;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kCtas = kDim == 256 ? 1 : k32 && kDim == 128 ? 1 : 2;  // on an SM with 164 KiB
  using Query = SharedTile<T, kQueries, kDim>;
  using Key = SharedTile<T, kKeys, kDim>;
  // KiB: hd64 32 (modified 24), 128: 64 (48), 256: 128; fp32 64 (48), 96 (64), 128
  static constexpr int kTiles = Query::kBytes + 2 * Key::kBytes;
  static constexpr int kShared = kTiles + static_cast<int>(sizeof(Sequence));
};

/// Rows of a finished tile: elements through the warp's rows of `tile` (no longer needed), then 16 bytes a lane to
/// memory.
template <class T, class Tile, int M, int V>
__device__ __forceinline__ void store_rows(const Params& p, const Sequence& s, int32_t h, int32_t i0, int32_t i1,
                                           float (&o)[M][V][4], Tile tile, int row0, int lane) {
  each<M, V>([&](int m, int n, int e) {
    if (e & 1) return;
    const int row = row0 + 16 * m + (lane >> 2) + 8 * (e >> 1), column = 8 * n + 2 * (lane & 3);
    const uint32_t to = tile.unit(row, column / Tile::kUnitElements) + column % Tile::kUnitElements * Tile::kElement;
    if constexpr (Tile::kElement == 4)
      ptx::store_shared_64(to, __float_as_uint(o[m][n][e]), __float_as_uint(o[m][n][e + 1]));
    else
      ptx::store_shared_32(to, pack<T>(o[m][n][e], o[m][n][e + 1]));
  });
  __syncwarp();
  using Storage = typename T::Storage;
  for (int x = lane; x < M * 16 * Tile::kUnits; x += 32) {
    const int row = row0 + x / Tile::kUnits, column = x % Tile::kUnits * Tile::kUnitElements;
    const int32_t i = i0 + row;
    if (i >= i1 || column >= p.value_dim) continue;
    const uint4 words = ptx::load_shared_128(tile.unit(row, x % Tile::kUnits));
    auto* to = s.query_row<Storage>(p.out, h, i) + column * p.out.column;
    if (p.wide_out && column + Tile::kUnitElements <= p.value_dim) {
      *reinterpret_cast<uint4*>(to) = words;
      continue;
    }
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int c = 0; c < Tile::kUnitElements; ++c)
      if (column + c < p.value_dim) {
        if constexpr (Tile::kElement == 4)
          to[c * p.out.column] = __uint_as_float(word[c]);
        else
          to[c * p.out.column] = {static_cast<uint16_t>(word[c / 2] >> (16 * (c & 1)))};
      }
  }
}

template <class T, class Score, int kDim, bool kModified>
__global__ void __launch_bounds__(ForwardTile<T, kDim, kModified>::kThreads, ForwardTile<T, kDim, kModified>::kCtas)
    forward_kernel(const __grid_constant__ Params p) {
  using Tile = ForwardTile<T, kDim, kModified>;
  using Storage = typename T::Storage;
  constexpr int M = Tile::kBlocks, N = Tile::kKeys / 8, V = kDim / 8;
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Tile::Query query{ptx::shared_address(shared)};
  const typename Tile::Key key{query.base + Tile::Query::kBytes}, value{key.base + Tile::Key::kBytes};
  const int thread = threadIdx.x, lane = thread & 31, row0 = (thread >> 5) * M * 16;

  // What is rarely needed stays out of the registers of a loop that needs them all.
  auto* const place = reinterpret_cast<Sequence*>(shared + Tile::kTiles);
  {
    const Piece piece = find_query_piece(p, Tile::kQueries, blockIdx.x);
    if (piece.index < 0) return;
    Sequence s(p, piece.batch);
    const int32_t queries = s.range.queries, tiles = (queries + Tile::kQueries - 1) / Tile::kQueries;
    if (piece.index >= tiles || queries <= kDecodeRows) return;
    // The last tiles of a causal sequence are the longest and go first.
    s.first = (tiles - 1 - piece.index) * Tile::kQueries;
    if (thread == 0) *place = s;
    __syncthreads();
  }
  const Sequence& s = *place;
  const Range& range = s.range;
  const int32_t& i0 = s.first;
  const auto i1 = [&] { return min(i0 + Tile::kQueries, range.queries); };
  const int32_t h = blockIdx.y, hk = h / p.group;
  const Terms<Score> terms{p, s};

  const int32_t begin = range.key_begin(i0) / Tile::kKeys * Tile::kKeys, end = range.key_end(i1() - 1);
  const auto load = [&](const typename Tile::Key& tile, const View& from, int columns, int32_t j0) {
    const int32_t rows = range.keys - j0;
    tile.template load<Tile::kThreads>(reinterpret_cast<const char*>(s.key_row<Storage>(from, hk, j0)), from.row,
                                       rows < Tile::kKeys ? rows : Tile::kKeys, columns, thread);
    ptx::cp_async_commit();
  };
  query.template load<Tile::kThreads>(reinterpret_cast<const char*>(s.query_row<Storage>(p.query, h, i0)), p.query.row,
                                      i1() - i0, p.head_dim, thread);
  ptx::cp_async_commit();
  if (begin < end) load(key, p.key, p.head_dim, begin);

  float o[M][V][4];
  clear(o);
  RowState<Score, M> row(terms, QueriesDown(i0 + row0, 0, h, lane));
  const uint32_t a = query.corner_down(lane) + row0 * Tile::Query::kRowBytes, b = key.corner_across(lane);
  for (int32_t j0 = begin; j0 < end; j0 += Tile::kKeys) {
    ptx::cp_async_wait<0>();
    __syncthreads();
    load(value, p.value, p.value_dim, j0);
    float w[M][N][4];
    clear(w);
    multiply_rows<T, typename Tile::Query, typename Tile::Key, kDim>(w, a, b);
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (j0 + Tile::kKeys < end) load(key, p.key, p.head_dim, j0 + Tile::kKeys);

    const QueriesDown at(i0 + row0, j0, h, lane);
    if constexpr (kModified)
      if (p.scores_modified) modify<T>(w, terms, at);
    const bool edge = needs_mask(range, i0, i1(), j0, j0 + Tile::kKeys);
    if (edge) mask(w, range, at);
    row.take(w, kModified && p.scores_modified ? 1.0f : p.scale2, o);  // dropout alone leaves lse its bits
    bool zeros = edge;                                                 // weights that are zero because of a rule
    if constexpr (kModified) {
      zeros |= p.bias.data != nullptr || p.drop_below != 0;
      if (p.drop_below) {
        const Keep<QueriesDown, M, N> keep(terms, at);
        each<M, N>([&](int m, int n, int e) { w[m][n][e] = keep(m, n, e) ? w[m][n][e] * p.keep_scale : 0.0f; });
      }
    }
    if (zeros && __syncthreads_or(!value.template share_finite<Tile::kThreads>(thread))) {
      add_nonfinite<T>(o, w, value, static_cast<int>(ptx::opaque(thread)) & 31);
      __syncthreads();
      for (int r = thread >> 5; r < Tile::kKeys; r += Tile::kWarps) value.clear_nonfinite(r, lane);
      __syncthreads();
    }
    multiply_accumulators<T>(o, w, value, lane);
  }
  if (begin >= end) {  // the copy of the queries must not outlive its buffer's use below
    ptx::cp_async_wait<0>();
    __syncthreads();
  }

#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t i = i0 + row0 + 16 * m + 8 * half + (lane >> 2);
      const RowEnd<Score> done = row.end(terms, m, half, i, h);
      if (Score::kRowState && (lane & 3) == 0 && i < i1()) *s.query_row<float>(p.lse, h, i) = done.lse;
#pragma unroll
      for (int n = 0; n < V; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) o[m][n][e] *= done.factor;
    }
  store_rows<T>(p, s, h, i0, i1(), o, query, row0, lane);
}

}  // namespace saccade::cuda
