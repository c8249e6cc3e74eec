#pragma once
#include "cuda/sm80/attention/backward.cuh"
#include "cuda/sm80/attention/dims.h"

// First sweep of the backward: a CTA holds a tile of queries with their dout and walks the key tiles that some of its
// rows see, adding up dQ += dS·K. It also leaves each row's statistics, if the map has any, for the second sweep, and
// its share of the gradients of temperature, gate, slope and score bias.
namespace saccade::cuda {

template <class T, int kDim, bool kGeneral>
struct QueryTile {
  static constexpr bool k32 = sizeof(typename T::Storage) == 4;
  // A lane holds M·kDim/2 of dQ and M·kKeys/2 each of s and dp (and of s after the softcap). Two blocks of 16 rows a
  // warp share every B operand where that leaves room.
  static constexpr int kBlocks = !kGeneral && (k32 ? kDim == 64 : kDim <= 128) ? 2 : 1;
  static constexpr int kWarps = (kBlocks == 2 && kDim == 64) || (k32 && kDim == 256) ? 4 : 8;
  static constexpr int kQueries = kWarps * kBlocks * 16;
  static constexpr int kKeys = k32                       ? (kDim == 256 ? 16 : 32)
                               : kDim == 64              ? (kGeneral ? 64 : 48)
                               : kDim == 128 && kGeneral ? 64
                                                         : 32;
  static constexpr int kStages = kDim == 256 || (k32 && kDim == 128) ? 1 : 2;
  static constexpr int kThreads = kWarps * 32;
  using Query = SharedTile<T, kQueries, kDim>;
  using Key = SharedTile<T, kKeys, kDim>;
  static constexpr int kTiles = 2 * Query::kBytes + 2 * kStages * Key::kBytes, kShared = kTiles + sizeof(Sequence);
};

/// out·dout over one row, a quarter of it per lane of a quad.
template <class T>
__device__ __forceinline__ float row_dot(const typename T::Storage* x, const typename T::Storage* y, int columns,
                                         int lane) {
  using Storage = typename T::Storage;
  constexpr int kUnitElements = kUnit / sizeof(Storage);
  struct alignas(16) Unit {
    Storage x[kUnitElements];
  };
  float sum = 0;
  for (int c = (lane & 3) * kUnitElements; c < columns; c += 4 * kUnitElements) {
    if (c + kUnitElements <= columns) {
      const Unit a = *reinterpret_cast<const Unit*>(x + c), b = *reinterpret_cast<const Unit*>(y + c);
#pragma unroll
      for (int i = 0; i < kUnitElements; ++i) sum = fmaf(T::load(a.x[i]), T::load(b.x[i]), sum);
    } else {
      for (int i = c; i < columns; ++i) sum = fmaf(T::load(x[i]), T::load(y[i]), sum);
    }
  }
  return quad_sum(sum);
}

/// A lane's rows of the statistics, from what the forward left; written for the other sweeps.
template <class T, class Score, int M>
__device__ __forceinline__ Statistics<Score, QueriesDown, M> row_statistics(const BackwardParams& p,
                                                                            const Terms<Score>& terms, int32_t h,
                                                                            int32_t i0, int32_t i1, int row0,
                                                                            int lane) {
  if constexpr (!Score::kRowState) {
    return {terms, h};
  } else {
    using Storage = typename T::Storage;
    const Sequence& s = terms.s;
    Statistics<Score, QueriesDown, M> row;
#pragma unroll
    for (int r = 0; r < 2 * M; ++r) {
      const int32_t i = i0 + row0 + 8 * r + (lane >> 2);
      const bool inside = i < i1;
      const float lse = inside ? *s.query_row<const float>(p.lse, h, i) : -kInf;
      row.of[r] = {lse == -kInf ? kInf : lse * Terms<Score>::kUnit, 0};
      const float dot = row_dot<T>(s.query_row<const Storage>(p.out, h, inside ? i : i0),
                                   s.query_row<const Storage>(p.dout, h, inside ? i : i0), p.value_dim, lane);
      if (lse != -kInf) row.of[r].delta = dot - (p.dlse ? *s.query_row<const float>(p.dlse, h, i) : 0.0f);
      if (inside && (lane & 3) == 0) p.statistics[first_row(p, s, h) + i] = row.of[r];
    }
    return row;
  }
}

template <class T, class Score, int kDim, bool kGeneral>
__global__ void __launch_bounds__(QueryTile<T, kDim, kGeneral>::kThreads)
    query_gradient_kernel(const __grid_constant__ BackwardParams p) {
  using Tile = QueryTile<T, kDim, kGeneral>;
  using Storage = typename T::Storage;
  constexpr int M = Tile::kBlocks, N = Tile::kKeys / 8, kThreads = Tile::kThreads, kStages = Tile::kStages;
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Tile::Query query{ptx::shared_address(shared)}, dout{query.base + Tile::Query::kBytes};
  const uint32_t keys = dout.base + Tile::Query::kBytes;

  // What is rarely needed stays out of the registers of a loop that needs them all.
  auto* const place = reinterpret_cast<Sequence*>(shared + Tile::kTiles);
  {
    const Piece piece = find_query_piece(p, Tile::kQueries, blockIdx.x);
    if (piece.index < 0) return;
    Sequence here(p, piece.batch);
    const int32_t tiles = (here.range.queries + Tile::kQueries - 1) / Tile::kQueries;
    if (piece.index >= tiles) return;
    // The last tiles of a causal sequence are the longest and go first.
    here.first = (tiles - 1 - static_cast<int32_t>(piece.index)) * Tile::kQueries;
    if (threadIdx.x == 0) *place = here;
    __syncthreads();
  }
  const Sequence& s = *place;
  const Range& range = s.range;
  const int32_t& i0 = s.first;
  const auto end_query = [&] { return min(i0 + Tile::kQueries, range.queries); };
  const int32_t h = blockIdx.y, hk = h / p.group;
  const Terms<Score> terms{p, s};

  const int32_t begin = range.key_begin(i0) / Tile::kKeys * Tile::kKeys, end = range.key_end(end_query() - 1);
  const auto key_tile = [&](int32_t j0) {
    const int stage = kStages == 2 ? j0 / Tile::kKeys & 1 : 0;
    return typename Tile::Key{keys + stage * 2 * Tile::Key::kBytes};
  };
  const auto value_tile = [&](int32_t j0) { return typename Tile::Key{key_tile(j0).base + Tile::Key::kBytes}; };
  const auto load = [&](int32_t j0) {
    const int thread = Me(16 * M).thread, rows = range.keys - j0 < Tile::kKeys ? range.keys - j0 : Tile::kKeys;
    key_tile(j0).template load<kThreads>(reinterpret_cast<const char*>(s.key_row<Storage>(p.key, hk, j0)), p.key.row,
                                         rows, p.head_dim, thread);
    value_tile(j0).template load<kThreads>(reinterpret_cast<const char*>(s.key_row<Storage>(p.value, hk, j0)),
                                           p.value.row, rows, p.value_dim, thread);
    ptx::cp_async_commit();
  };
  const int thread = threadIdx.x, lane = thread & 31, row0 = (thread >> 5) * M * 16, rows = end_query() - i0;
  query.template load<kThreads>(reinterpret_cast<const char*>(s.query_row<Storage>(p.query, h, i0)), p.query.row, rows,
                                p.head_dim, thread);
  dout.template load<kThreads>(reinterpret_cast<const char*>(s.query_row<Storage>(p.dout, h, i0)), p.dout.row, rows,
                               p.value_dim, thread);
  ptx::cp_async_commit();
  if (kStages == 2 && begin < end) load(begin);

  using Place = QueriesDown;
  auto row = row_statistics<T, Score, M>(p, terms, h, i0, end_query(), row0, lane);

  float dq[M][kDim / 8][4];
  clear(dq);
  RowShares<M> shares;
  for (int32_t j0 = begin; j0 < end; j0 += Tile::kKeys) {
    const Me me(16 * M);
    if (kStages == 1) {
      __syncthreads();
      load(j0);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (kStages == 2 && j0 + Tile::kKeys < end) load(j0 + Tile::kKeys);
    const typename Tile::Key key = key_tile(j0), value = value_tile(j0);
    const bool edge = needs_mask(range, i0, end_query(), j0, j0 + Tile::kKeys);
    const bool holes = edge || (kGeneral && (p.bias || p.drop_below));  // score gradients that are 0 because of a rule
    const bool nonfinite = holes && __syncthreads_or(!key.template share_finite<kThreads>(me.thread));

    // Along an edge some warps see nothing of the tile.
    const int32_t row_i = i0 + me.row0;
    const bool sees = !edge || (row_i < range.queries && range.key_begin(row_i) < j0 + Tile::kKeys &&
                                range.key_end(row_i + 16 * M - 1) > j0);
    float w[M][N][4], dp[M][N][4];
    clear(w), clear(dp);
    if (sees) {
      multiply_rows<T, typename Tile::Query, typename Tile::Key, kDim>(
          w, query.corner_down(me.lane) + me.row0 * Tile::Query::kRowBytes, key.corner_across(me.lane));
      multiply_rows<T, typename Tile::Query, typename Tile::Key, kDim>(
          dp, dout.corner_down(me.lane) + me.row0 * Tile::Query::kRowBytes, value.corner_across(me.lane));
      const Place at(row_i, j0, h, me.lane);
      if constexpr (kGeneral)
        general_gradient<T, false>(w, dp, terms, row, at, edge, &shares);
      else
        plain_gradient(w, dp, p, row, range, at, edge);
    }
    if (nonfinite) {  // the gradients of pairs that see such a key are NaN by now, or 0
      __syncthreads();
      clear_nonfinite<typename Tile::Key, Tile::kKeys, kThreads>(key, nullptr, me.thread);
      __syncthreads();
    }
    if (sees) multiply_accumulators<T>(dq, dp, key, me.lane);
  }
  ptx::cp_async_wait<0>();  // where no key was seen
  __syncthreads();

  const Me me(16 * M);
  const int64_t first = first_row(p, s, h);
  if constexpr (kGeneral) {
#pragma unroll
    for (int r = 0; r < 2 * M; ++r) {
      const int32_t i = i0 + me.row0 + 8 * r + (me.lane >> 2);
      if (p.dtemperature) {  // Σ_j dx·q·k = q·Σ_j dx·k
        float dot = 0;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = 8 * n + 2 * (me.lane & 3) + e;
            const uint32_t word = query.word(me.row0 + 8 * r + (me.lane >> 2), column & ~(Tile::k32 ? 0 : 1));
            float x;
            if constexpr (Tile::k32)
              x = __uint_as_float(word);
            else
              x = T::load({static_cast<uint16_t>(word >> (16 * e))});
            dot = fmaf(x, dq[r / 2][n][2 * (r & 1) + e], dot);
          }
        dot = quad_sum(dot);
        if (i < end_query() && (me.lane & 3) == 0) p.dtemperature[first + i] = p.scale * dot;
      }
      const float gate = quad_sum(shares.gate[r]), slope = quad_sum(shares.slope[r]);
      if (i < end_query() && (me.lane & 3) == 0) {
        if (p.dgate) p.dgate[first + i] = gate;
        if (p.dslope) p.dslope[first + i] = slope;
      }
      if constexpr (!Score::kRowState) {
        const float score_bias = quad_sum(shares.score_bias[r]);
        if (p.dscore_bias && i < end_query() && (me.lane & 3) == 0) p.dscore_bias[first + i] = score_bias;
      }
    }
    __syncwarp();  // the queries have been read
  }
  const auto factor = [&](int r) {
    if (!kGeneral || !p.temperature) return p.scale;
    return p.scale * terms.per_query(p.temperature, i0 + me.row0 + 8 * r + (me.lane >> 2), h);
  };
  store_rows<T>(dq, factor, query, me.row0, reinterpret_cast<char*>(s.query_row<Storage>(p.dquery, h, i0)), p.dquery,
                p.wide_dquery, end_query() - i0, p.head_dim, me.lane);
}

template <class T, class Score>
int QueryGradient<T, Score>::shared_bytes(const Params& p) {
  return with_dim(
      p, []<int n>(Dim<n>) { return max(QueryTile<T, n, true>::kShared, QueryTile<T, n, !kPlain<Score>>::kShared); });
}

template <class T, class Score, int kDim, bool kGeneral>
void launch_query_gradient(Queue& queue, const BackwardParams& p) {
  using Tile = QueryTile<T, kDim, kGeneral>;
  const auto pieces = static_cast<unsigned>(piece_count(p, p.queries, Tile::kQueries));
  queue.launch<BackwardParams>(query_gradient_kernel<T, Score, kDim, kGeneral>, dim3(pieces, p.query_heads),
                               Tile::kThreads, Tile::kShared, p);
}

template <class T, class Score>
void QueryGradient<T, Score>::launch(Queue& queue, const BackwardParams& p) {
  with_dim(p, [&]<int n>(Dim<n>) {
    p.general() ? launch_query_gradient<T, Score, n, true>(queue, p)
                : launch_query_gradient<T, Score, n, !kPlain<Score>>(queue, p);
  });
}

}  // namespace saccade::cuda
