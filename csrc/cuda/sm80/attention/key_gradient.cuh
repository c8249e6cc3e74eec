#pragma once
#include "cuda/sm80/attention/backward.cuh"
#include "cuda/sm80/attention/dims.h"

// Second sweep of the backward: a CTA holds a tile of keys and values of one key head and walks the query tiles of the
// group's heads that see some of them. With keys down, pᵀ and dsᵀ are A operands as they stand: dV += pᵀ·dout,
// dK += dsᵀ·Q. Nothing is shared between CTAs.
namespace saccade::cuda {

/// Which gradients one kernel adds up: where kDim = 256 the accumulators of both do not fit a lane.
enum class KeySweep { both, value, key };

template <class T, int kDim, bool kGeneral, KeySweep kSweep>
struct KeyTile {
  static constexpr bool k32 = sizeof(typename T::Storage) == 4;
  static constexpr bool kOfKey = kSweep != KeySweep::value, kOfValue = kSweep != KeySweep::key;
  // A lane holds M·kDim/2 each of dK and dV, and M·kQueries/2 each of s and dp (and of s after the softcap).
  static constexpr int kBlocks = !k32 && kDim == 64 && !kGeneral ? 2 : 1;
  static constexpr int kWarps = kBlocks == 2 || (k32 && kDim >= 128) ? 4 : 8;
  static constexpr int kKeys = kWarps * kBlocks * 16;
  static constexpr int kQueries = k32 && kDim == 256 ? 16 : !k32 && kDim == 128 && !kGeneral ? 64 : 32;
  static constexpr int kStages = kDim == 256 && kOfKey ? 1 : 2;
  static constexpr int kThreads = kWarps * 32;
  using Key = SharedTile<T, kKeys, kDim>;
  using Query = SharedTile<T, kQueries, kDim>;
  // Shared memory: keys, values, stages of queries and dout, stages of statistics, then bytes that say which elements
  // of dout and of dV are not finite.
  static constexpr int kValue = Key::kBytes, kQuery = kValue + (kOfKey ? Key::kBytes : 0);
  static constexpr int kStatistics = kQuery + kStages * 2 * Query::kBytes;
  static constexpr int kDoutMarks = kStatistics + kStages * kQueries * static_cast<int>(sizeof(RowStatistics));
  static constexpr int kMarks = kDoutMarks + (kOfValue ? kQueries * Query::kUnits : 0);
  static constexpr int kSequence = kMarks + (kOfValue ? kKeys * Key::kUnits : 0);
  static constexpr int kShared = kSequence + sizeof(Sequence);
};

/// Marks the elements of dV that an Inf or NaN of dout reaches through a weight that is not 0. A warp's own rows.
template <class Query, int M, int N>
__device__ __forceinline__ void mark_reached(const float (&w)[M][N][4], const uint8_t* dout_marks, uint8_t* marks,
                                             int row0, int lane) {
#pragma unroll
  for (int r = 0; r < 2 * M; ++r) {
    uint64_t seen = 0;  // queries of the tile
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (w[r / 2][n][2 * (r & 1) + e] != 0) seen |= 1ull << (8 * n + 2 * (lane & 3) + e);
    seen |= __shfl_xor_sync(0xFFFFFFFF, seen, 1);
    seen |= __shfl_xor_sync(0xFFFFFFFF, seen, 2);
    uint8_t* row = marks + (row0 + 8 * r + (lane >> 2)) * Query::kUnits;
#pragma unroll 1
    for (int u = lane & 3; u < Query::kUnits; u += 4) {
      uint32_t reached = 0;
#pragma unroll 1
      for (int i = 0; i < 8 * N; ++i)
        if (seen >> i & 1) reached |= dout_marks[i * Query::kUnits + u];
      row[u] |= static_cast<uint8_t>(reached);
    }
  }
}

template <class T, class Score, int kDim, bool kGeneral, KeySweep kSweep>
__global__ void __launch_bounds__(KeyTile<T, kDim, kGeneral, kSweep>::kThreads)
    key_gradient_kernel(const __grid_constant__ BackwardParams p) {
  using Tile = KeyTile<T, kDim, kGeneral, kSweep>;
  using Storage = typename T::Storage;
  constexpr int M = Tile::kBlocks, N = Tile::kQueries / 8, V = kDim / 8, kThreads = Tile::kThreads,
                kStages = Tile::kStages;
  constexpr int kQueries = Tile::kQueries;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t base = ptx::shared_address(shared);
  const typename Tile::Key key{base}, value{base + Tile::kValue};
  uint8_t *dout_marks = shared + Tile::kDoutMarks, *marks = shared + Tile::kMarks;
  // What is rarely needed stays out of the registers of a loop that needs them all.
  auto* const place = reinterpret_cast<Sequence*>(shared + Tile::kSequence);
  {
    const Piece piece = find_key_piece(p, Tile::kKeys, blockIdx.x);
    if (piece.index < 0) return;
    Sequence here(p, piece.batch);
    if (piece.index * Tile::kKeys >= here.range.keys) return;
    here.first = static_cast<int32_t>(piece.index) * Tile::kKeys;
    if (threadIdx.x == 0) *place = here;
    __syncthreads();
  }
  const Sequence& s = *place;
  const Range& range = s.range;
  const int32_t& j0 = s.first;
  const auto rows = [&] { return min(range.keys - j0, Tile::kKeys); };
  const int32_t hk = blockIdx.y;
  const Terms<Score> terms{p, s};

  const auto begin = [&] { return range.query_begin(j0) / kQueries * kQueries; };
  const auto end = [&] { return range.query_end(j0 + rows() - 1); };
  const int32_t tiles = begin() < end() ? (end() - begin() + kQueries - 1) / kQueries : 0;
  const auto query_tile = [&](int stage) {
    return typename Tile::Query{base + Tile::kQuery + stage * 2 * Tile::Query::kBytes};
  };
  const auto dout_tile = [&](int stage) { return typename Tile::Query{query_tile(stage).base + Tile::Query::kBytes}; };
  const auto statistics = [&](int stage) {
    return reinterpret_cast<const RowStatistics*>(shared + Tile::kStatistics) + stage * kQueries;
  };
  const auto load = [&](int32_t h, int32_t i0, int stage) {
    const int thread = Me(16 * M).thread;
    const int inside = range.queries - i0 < kQueries ? range.queries - i0 : kQueries;
    query_tile(stage).template load<kThreads>(reinterpret_cast<const char*>(s.query_row<Storage>(p.query, h, i0)),
                                              p.query.row, inside, p.head_dim, thread);
    dout_tile(stage).template load<kThreads>(reinterpret_cast<const char*>(s.query_row<Storage>(p.dout, h, i0)),
                                             p.dout.row, inside, p.value_dim, thread);
    if (Score::kRowState && thread < kQueries) {
      const RowStatistics* from = p.statistics + first_row(p, s, h) + i0;
      ptx::cp_async_8(ptx::shared_address(statistics(stage) + thread), thread < inside ? from + thread : from,
                      thread < inside ? 8 : 0);
    }
    ptx::cp_async_commit();
  };
  const int thread = threadIdx.x;
  key.template load<kThreads>(reinterpret_cast<const char*>(s.key_row<Storage>(p.key, hk, j0)), p.key.row, rows(),
                              p.head_dim, thread);
  if constexpr (Tile::kOfKey)
    value.template load<kThreads>(reinterpret_cast<const char*>(s.key_row<Storage>(p.value, hk, j0)), p.value.row,
                                  rows(), p.value_dim, thread);
  ptx::cp_async_commit();
  const int32_t steps = tiles * p.group;
  if (kStages == 2 && steps > 0) load(hk * p.group, begin(), 0);

  float dk[M][Tile::kOfKey ? V : 2][4], dv[M][Tile::kOfValue ? V : 2][4];
  clear(dk), clear(dv);
  bool marked = false;
  int32_t i0 = begin();
  int32_t h = hk * p.group;
  for (int32_t x = 0; x < steps; ++x) {
    const Me me(16 * M);
    const int stage = kStages == 2 ? static_cast<int>(x & 1) : 0;
    const bool last = i0 + kQueries >= end();
    const int32_t next_i0 = last ? begin() : i0 + kQueries;
    const int32_t next_h = last ? h + 1 : h;
    if (kStages == 1) {
      __syncthreads();
      load(h, i0, 0);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (kStages == 2 && x + 1 < steps) load(next_h, next_i0, stage ^ 1);
    const typename Tile::Query query = query_tile(stage), dout = dout_tile(stage);
    const int32_t i1 = i0 + kQueries < range.queries ? i0 + kQueries : range.queries;
    const bool edge = i1 - i0 < kQueries || needs_mask(range, i0, i1, j0, j0 + Tile::kKeys);
    const bool holes = edge || (kGeneral && (p.bias || p.drop_below));  // weights that are 0 because of a rule
    bool nonfinite = false;
    if (holes) {
      bool ok = !Tile::kOfKey || query.template share_finite<kThreads>(me.thread);
      if (Tile::kOfValue) ok &= dout.template share_finite<kThreads>(me.thread);
      nonfinite = __syncthreads_or(!ok);
    }

    using Place = KeysDown;
    // Along an edge some warps see nothing of the tile.
    const int32_t row_j = j0 + me.row0;
    const bool sees = !edge || (row_j < range.keys && range.query_begin(row_j) < i0 + kQueries &&
                                range.query_end(row_j + 16 * M - 1) > i0);
    float w[M][N][4], dp[M][N][4];
    clear(w), clear(dp);
    if (sees) {
      const Place at(i0, row_j, h, me.lane);
      multiply_rows<T, typename Tile::Key, typename Tile::Query, kDim>(
          w, key.corner_down(me.lane) + me.row0 * Tile::Key::kRowBytes, query.corner_across(me.lane));
      if constexpr (Tile::kOfKey)
        multiply_rows<T, typename Tile::Key, typename Tile::Query, kDim>(
            dp, value.corner_down(me.lane) + me.row0 * Tile::Key::kRowBytes, dout.corner_across(me.lane));
      Statistics<Score, Place, M> row(terms, h, statistics(stage) + 2 * (me.lane & 3));
      if constexpr (kGeneral) {
        general_gradient<T, false>(w, dp, terms, row, at, edge, static_cast<RowShares<M>*>(nullptr));
        if (Tile::kOfKey && p.temperature) {
          const PerQuery<Place, M, N> temperature(
              at, [&](int32_t i, int32_t head) { return terms.per_query(p.temperature, i, head); });
          each<M, N>([&](int m, int n, int e) {
            if (dp[m][n][e] != 0) dp[m][n][e] *= temperature(m, n, e);
          });
        }
      } else {
        plain_gradient(w, dp, p, row, range, at, edge);
      }
    }
    if (nonfinite) {
      __syncthreads();
      // The gradients of pairs that see such a query are NaN by now, or 0; the weights are not.
      if (Tile::kOfKey) clear_nonfinite<typename Tile::Query, kQueries, kThreads>(query, nullptr, me.thread);
      if (Tile::kOfValue) {
        clear_nonfinite<typename Tile::Query, kQueries, kThreads>(dout, dout_marks, me.thread);
        if (!marked)
          for (int i = me.thread; i < Tile::kKeys * Tile::Key::kUnits; i += kThreads) marks[i] = 0;
        marked = true;
      }
      __syncthreads();
      if (Tile::kOfValue) mark_reached<typename Tile::Query>(w, dout_marks, marks, me.row0, me.lane);
    }
    if (sees) {
      if constexpr (Tile::kOfValue) multiply_accumulators<T>(dv, w, dout, me.lane);
      if constexpr (Tile::kOfKey) multiply_accumulators<T>(dk, dp, query, me.lane);
    }
    i0 = next_i0, h = next_h;
  }
  ptx::cp_async_wait<0>();  // where no query was there
  __syncthreads();

  const Me me(16 * M);
  if constexpr (Tile::kOfKey)
    store_rows<T>(
        dk, [&](int) { return p.scale; }, key, me.row0, reinterpret_cast<char*>(s.key_row<Storage>(p.dkey, hk, j0)),
        p.dkey, p.wide_dkey, rows(), p.head_dim, me.lane);
  if constexpr (Tile::kOfValue) {
    if (marked)
      each<M, V>([&](int m, int n, int e) {
        const int r = me.row0 + 16 * m + 8 * (e >> 1) + (me.lane >> 2), column = 8 * n + 2 * (me.lane & 3) + (e & 1);
        constexpr int kUnitElements = Tile::Key::kUnitElements;
        if (marks[r * Tile::Key::kUnits + column / kUnitElements] >> (column % kUnitElements) & 1) dv[m][n][e] = NAN;
      });
    const typename Tile::Key room = Tile::kOfKey ? value : key;
    store_rows<T>(
        dv, [](int) { return 1.0f; }, room, me.row0, reinterpret_cast<char*>(s.key_row<Storage>(p.dvalue, hk, j0)),
        p.dvalue, p.wide_dvalue, rows(), p.value_dim, me.lane);
  }
}

template <class T, class Score, int kDim, bool kGeneral, KeySweep kSweep>
void launch_key_sweep(Queue& queue, const BackwardParams& p) {
  using Tile = KeyTile<T, kDim, kGeneral, kSweep>;
  const auto pieces = static_cast<unsigned>(piece_count(p, p.keys, Tile::kKeys));
  queue.launch<BackwardParams>(key_gradient_kernel<T, Score, kDim, kGeneral, kSweep>, dim3(pieces, p.key_heads),
                               Tile::kThreads, Tile::kShared, p);
}

template <class T, class Score, int kDim, bool kGeneral>
void launch_key_gradient(Queue& queue, const BackwardParams& p) {
  if constexpr (kDim == 256) {
    launch_key_sweep<T, Score, kDim, kGeneral, KeySweep::value>(queue, p);
    launch_key_sweep<T, Score, kDim, kGeneral, KeySweep::key>(queue, p);
  } else {
    launch_key_sweep<T, Score, kDim, kGeneral, KeySweep::both>(queue, p);
  }
}

template <class T, int kDim, bool kGeneral>
constexpr int key_gradient_shared() {
  if constexpr (kDim != 256) return KeyTile<T, kDim, kGeneral, KeySweep::both>::kShared;
  constexpr int kValue = KeyTile<T, kDim, kGeneral, KeySweep::value>::kShared;
  constexpr int kKey = KeyTile<T, kDim, kGeneral, KeySweep::key>::kShared;
  return kValue > kKey ? kValue : kKey;
}

template <class T, class Score>
int KeyGradient<T, Score>::shared_bytes(const Params& p) {
  return with_dim(p, []<int n>(Dim<n>) {
    return max(key_gradient_shared<T, n, true>(), key_gradient_shared<T, n, !kPlain<Score>>());
  });
}

template <class T, class Score>
void KeyGradient<T, Score>::launch(Queue& queue, const BackwardParams& p) {
  with_dim(p, [&]<int n>(Dim<n>) {
    p.general() ? launch_key_gradient<T, Score, n, true>(queue, p)
                : launch_key_gradient<T, Score, n, !kPlain<Score>>(queue, p);
  });
}

}  // namespace saccade::cuda
