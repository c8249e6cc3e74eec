#pragma once
#include "cuda/attention/scores.cuh"
#include "cuda/tile/mma.cuh"

// From scores to weights: the state of a warp's rows, and their end. Rows are queries (QueriesDown).
namespace saccade::cuda {

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFF, x, 2);
}

/// What a row's end makes of its maximum (log2 units) and sum; maps without a row state have neither, nor an lse.
template <class Score>
struct RowEnd {
  float lse = 0, factor;  // factor: from the accumulated to the final output

  __device__ __forceinline__ RowEnd(const Terms<Score>& t, float max, float sum, int32_t i, int32_t h) {
    if constexpr (Score::kRowState) {
      float ref = max, scale = 1;
      if (t.p.sinks.data) {
        const float sink = t.sink2(h), top = fmaxf(sink, max);
        ref = top == -kInf ? 0 : top;
        scale = math::exp2(max - ref);
        sum = sum * scale + math::exp2(sink - ref);
      }
      lse = sum == 0 ? -kInf : (ref + log2f(sum)) * kLn2;
      factor = sum == 0 ? 0 : t.gate(i, h) * scale / sum;
    } else {
      factor = t.gate(i, h);
    }
  }
};

template <class Score, int M, bool = Score::kRowState>
struct RowState {
  float max[M][2], sum[M][2];  // of rows g and g+8 of each block; a lane's share of the sum

  template <class Place>
  __device__ __forceinline__ RowState(const Terms<Score>&, const Place&) {
#pragma unroll
    for (int m = 0; m < M; ++m) max[m][0] = max[m][1] = -kInf, sum[m][0] = sum[m][1] = 0;
  }

  /// `s`, which times `scale` (> 0) are scores, become weights against the new maximum; `o` is rescaled if that grew.
  template <int N, int V>
  __device__ __forceinline__ void take(float (&s)[M][N][4], float scale, float (&o)[M][V][4]) {
    float shrink[M][2];
    bool grew = false;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = s[m][0][2 * half];
#pragma unroll
        for (int n = 0; n < N; ++n) top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        top = fmaxf(max[m][half], quad_max(top) * scale);
        const float ref = top == -kInf ? 0 : top;
        shrink[m][half] = math::exp2_bounded(max[m][half] - ref);
        grew |= top != max[m][half];
        max[m][half] = top;
        float total = 0;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[m][n][e] = Score::weight(s[m][n][e] * scale, ref);
            total += s[m][n][e];
          }
        sum[m][half] = sum[m][half] * shrink[m][half] + total;
      }
    if (__any_sync(0xFFFFFFFF, grew)) each<M, V>([&](int m, int n, int e) { o[m][n][e] *= shrink[m][e >> 1]; });
  }

  __device__ __forceinline__ RowEnd<Score> end(const Terms<Score>& t, int m, int half, int32_t i, int32_t h) const {
    return {t, max[m][half], quad_sum(sum[m][half]), i, h};
  }
};

/// Without a state a score becomes its weight at once.
template <class Score, int M>
struct RowState<Score, M, false> {
  float reference[2];  // of the heads of rows g and g+8

  template <class Place>
  __device__ __forceinline__ RowState(const Terms<Score>& t, const Place& at) {
    reference[0] = t.reference(at.head(0, 0, 0)), reference[1] = t.reference(at.head(0, 0, 2));
  }

  template <int N, int V>
  __device__ __forceinline__ void take(float (&s)[M][N][4], float scale, float (&)[M][V][4]) {
    each<M, N>([&](int m, int n, int e) { s[m][n][e] = Score::weight(s[m][n][e] * scale, reference[e >> 1]); });
  }

  __device__ __forceinline__ RowEnd<Score> end(const Terms<Score>& t, int, int, int32_t i, int32_t h) const {
    return {t, 0, 0, i, h};
  }
};

/// o += p·v over the elements of v that are not finite, where a weight of zero contributes nothing: an invisible row
/// cannot leak. One warp; such elements become zero before the product of tiles, so that all else keeps its bits.
template <class T, class Tile, int M, int K, int V>
__device__ __forceinline__ void add_nonfinite(float (&o)[M][V][4], const float (&p)[M][K][4], Tile v, int lane) {
#pragma unroll 1
  for (int r = 0; r < 8 * K; ++r) {
    if (v.finite_row(r, lane)) continue;
    float w[M][2] = {};
#pragma unroll
    for (int n = 0; n < K; ++n)
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float even = p[m][n][2 * half],
                      odd = p[m][n][2 * half + 1];  // values: a choice of places would be memory
          if (n == r / 8) w[m][half] = r & 1 ? odd : even;
        }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) w[m][half] = __shfl_sync(0xFFFFFFFF, w[m][half], (lane & ~3) | (r % 8 / 2));
#pragma unroll
    for (int n = 0; n < V; ++n) {
      float x[2];
      const int column = 8 * n + 2 * (lane & 3);
      if constexpr (Tile::kElement == 4) {
        x[0] = __uint_as_float(v.word(r, column)), x[1] = __uint_as_float(v.word(r, column + 1));
      } else {
        const uint32_t both = v.word(r, column);
        x[0] = T::load({static_cast<uint16_t>(both)}), x[1] = T::load({static_cast<uint16_t>(both >> 16)});
      }
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (w[m][e >> 1] != 0 && !(fabsf(x[e & 1]) < kInf)) o[m][n][e] += w[m][e >> 1] * x[e & 1];
    }
  }
}

}  // namespace saccade::cuda
