#pragma once
#include "cuda/attention/online.cuh"
#include "cuda/sm80/attention/backward.h"
#include "cuda/tile/mma.cuh"

// What the sweeps of the backward share: a block of weights and score gradients, recomputed, and the way out of
// finished rows.
namespace saccade::cuda {

/// A thread's place, which the compiler computes again wherever one of these is made: the main loops have no registers
/// for it.
struct Me {
  int thread, lane, row0;  // row0: the warp's first row of the tile

  __device__ __forceinline__ explicit Me(int warp_rows)
      : thread(static_cast<int>(ptx::opaque(threadIdx.x))), lane(thread & 31), row0((thread >> 5) * warp_rows) {}
};

/// First of the per-row numbers of one head of a sequence.
__device__ __forceinline__ int64_t first_row(const BackwardParams& p, const Sequence& s, int32_t h) {
  return h * p.rows + (p.packed ? s.query0 : s.batch * p.queries);
}

/// The statistics of a block's queries. Queries down, a lane keeps those of its 2M rows; keys down, it reads those of a
/// column pair when it gets there. Maps without a row state have those of the head.
template <class Score, class Place, int M, bool = Score::kRowState>
struct Statistics;
template <class Score, int M>
struct Statistics<Score, QueriesDown, M, true> {
  RowStatistics of[2 * M];

  __device__ __forceinline__ void enter(int) {}
  __device__ __forceinline__ RowStatistics operator()(int row) const { return of[row]; }
};
template <class Score, int M>
struct Statistics<Score, KeysDown, M, true> {
  const RowStatistics* from;  // of the lane's first query, in shared memory
  RowStatistics of[2];

  __device__ __forceinline__ Statistics(const Terms<Score>&, int32_t, const RowStatistics* first) : from(first) {}
  __device__ __forceinline__ void enter(int n) {
    const float4 two = *reinterpret_cast<const float4*>(from + 8 * n);
    of[0] = {two.x, two.y}, of[1] = {two.z, two.w};
  }
  __device__ __forceinline__ RowStatistics operator()(int row) const { return of[row]; }
};
template <class Score, class Place, int M>
struct Statistics<Score, Place, M, false> {
  float reference;

  __device__ __forceinline__ Statistics(const Terms<Score>& t, int32_t h, const RowStatistics* = nullptr)
      : reference(t.reference(h)) {}
  __device__ __forceinline__ void enter(int) {}
  __device__ __forceinline__ RowStatistics operator()(int) const { return {reference, 0}; }
};

/// f(m, n, e, r) for every element, column by column; r: its query among those the lane has statistics of.
template <class Place, int M, int N, class S, class F>
__device__ __forceinline__ void each_with(S& statistics, F f) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    statistics.enter(n);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) f(m, n, e, Place::kQueriesDown ? 2 * m + (e >> 1) : e & 1);
  }
}

/// Queries down: what each of a lane's 2M rows adds to the gradients of its parameters.
template <int M>
struct RowShares {
  float gate[2 * M] = {}, slope[2 * M] = {}, score_bias[2 * M] = {};
};

/// Products s = q·k and dp = dout·v become w and ds of plain scores, the scale folded into the map.
template <class Score, class Place, int M, int N>
__device__ __forceinline__ void plain_gradient(float (&s)[M][N][4], float (&dp)[M][N][4], const BackwardParams& p,
                                               Statistics<Score, Place, M>& row, const Range& range, const Place& at,
                                               bool edge) {
  each_with<Place, M, N>(row, [&](int m, int n, int e, int r) {
    const float score = s[m][n][e] * p.scale2, reference = row(r).reference;
    s[m][n][e] = Score::weight(score, reference);
    dp[m][n][e] = Score::grad(score - reference, s[m][n][e], dp[m][n][e], row(r).delta);
  });
  if (edge) mask(s, range, at, 0.0f), mask(dp, range, at, 0.0f);
}

/// The same under any modifier: s becomes gate·dropout·w, what multiplies dout; dp the gradient of temperature·q·k,
/// with kOfScore that of the score (the bias's). Where a weight is 0 and the map flat nothing flows, whatever stands in
/// the operands.
template <class T, bool kOfScore, class Score, class Place, int M, int N>
__device__ __forceinline__ void general_gradient(float (&s)[M][N][4], float (&dp)[M][N][4], const Terms<Score>& t,
                                                 Statistics<Score, Place, M>& row, const Place& at, bool edge,
                                                 RowShares<M>* shares) {
  const Params& p = t.p;
  float capped[M][N][4];
  modify<T>(s, t, at, capped);
  if (edge) mask(s, t.s.range, at);
  const PerQuery<Place, M, N> gate(at, [&](int32_t i, int32_t h) { return t.gate(i, h); });
  const Keep<Place, M, N> keep = p.drop_below ? Keep<Place, M, N>(t, at) : Keep<Place, M, N>();
  each_with<Place, M, N>(row, [&](int m, int n, int e, int r) {
    const float reference = row(r).reference, x = s[m][n][e] - reference;
    const bool hidden = s[m][n][e] == -kInf;
    const float all = hidden ? 0.0f : Score::weight(s[m][n][e], reference);
    const bool none = Score::kFlatAtZero ? all == 0 : hidden, kept = keep(m, n, e) && !none;
    const float w = kept ? all * p.keep_scale : 0.0f, dw = kept ? dp[m][n][e] : 0.0f;
    float ds = Score::grad(x, all, gate(m, n, e) * p.keep_scale * dw, row(r).delta);
    if constexpr (!Score::kRowState) ds = fmaf(0.0f, all, ds);  // some maps' slopes do not show that a score is NaN
    if (none) ds = 0.0f;
    if constexpr (Place::kQueriesDown && !kOfScore) {
      if constexpr (!Score::kRowState) shares->score_bias[r] += ds;
      shares->gate[r] = fmaf(w, dw, shares->gate[r]);
      const auto distance =
          static_cast<float>(static_cast<int32_t>(t.s.range.position(at.query(m, n, e)) - at.key(m, n, e)));
      shares->slope[r] = fmaf(ds, -fabsf(distance), shares->slope[r]);
    }
    s[m][n][e] = w == 0 ? 0.0f : gate(m, n, e) * w;
    dp[m][n][e] = ds;
  });
  if constexpr (!kOfScore)
    if (p.softcap2 != 0)
      each<M, N>([&](int m, int n, int e) {
        if (dp[m][n][e] != 0) dp[m][n][e] *= math::softcap_grad(capped[m][n][e], p.softcap2);
      });
}

/// Elements of a tile that are Inf or NaN become 0. `marks`, if given, receives a byte per unit of each row that says
/// which.
template <class Tile, int kRows, int kThreads>
__device__ __forceinline__ void clear_nonfinite(Tile tile, uint8_t* marks, int thread) {
  for (int i = thread; i < kRows * Tile::kUnits; i += kThreads) {
    const uint32_t at = tile.unit(i / Tile::kUnits, i % Tile::kUnits);
    const uint4 unit = ptx::load_shared_128(at);
    uint32_t x[4] = {unit.x, unit.y, unit.z, unit.w}, bad = 0;
#pragma unroll
    for (int c = 0; c < Tile::kUnitElements; ++c) {
      const uint32_t element = Tile::kElement == 4 ? 0xFFFFFFFFu : 0xFFFFu << (16 * (c & 1));
      uint32_t& word = x[c * Tile::kElement / 4];
      if (Tile::finite(word & element)) continue;
      word &= ~element;
      bad |= 1u << c;
    }
    if (bad) ptx::store_shared_128(at, make_uint4(x[0], x[1], x[2], x[3]));
    if (marks) marks[i] = static_cast<uint8_t>(bad);
  }
}

/// A warp's finished rows, accumulators times factor(row of the lane's 2M), through its own rows of `tile` to memory,
/// 16 bytes a lane where that can be. `to` is row 0's first element; rows past `rows` are dropped.
template <class T, class Tile, int M, int N, class F>
__device__ __forceinline__ void store_rows(const float (&x)[M][N][4], const F& factor, Tile tile, int row0, char* to,
                                           const View& like, bool wide, int64_t rows, int columns, int lane) {
  each<M, N>([&](int m, int n, int e) {
    if (e & 1) return;
    const float f = factor(2 * m + (e >> 1));
    const int row = row0 + 16 * m + (lane >> 2) + 8 * (e >> 1), column = 8 * n + 2 * (lane & 3);
    const uint32_t at = tile.unit(row, column / Tile::kUnitElements) + column % Tile::kUnitElements * Tile::kElement;
    if constexpr (Tile::kElement == 4)
      ptx::store_shared_64(at, __float_as_uint(x[m][n][e] * f), __float_as_uint(x[m][n][e + 1] * f));
    else
      ptx::store_shared_32(at, pack<T>(x[m][n][e] * f, x[m][n][e + 1] * f));
  });
  __syncwarp();
  using Storage = typename T::Storage;
#pragma unroll 1
  for (int i = lane; i < 16 * M * Tile::kUnits; i += 32) {
    const int row = row0 + i / Tile::kUnits, column = i % Tile::kUnits * Tile::kUnitElements;
    if (row >= rows || column >= columns) continue;
    const uint4 unit = ptx::load_shared_128(tile.unit(row, i % Tile::kUnits));
    auto* element = reinterpret_cast<Storage*>(to) + row * like.row + column * like.column;
    if (wide) {
      *reinterpret_cast<uint4*>(element) = unit;
      continue;
    }
    const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
    for (int c = 0; c < Tile::kUnitElements; ++c)
      if (column + c < columns) {
        const uint32_t word = words[c * Tile::kElement / 4];
        if constexpr (Tile::kElement == 4)
          element[c * like.column] = __uint_as_float(word);
        else
          element[c * like.column] = {static_cast<uint16_t>(word >> (16 * (c & 1)))};
      }
  }
}

}  // namespace saccade::cuda
