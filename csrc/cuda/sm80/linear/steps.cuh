#pragma once
#include "cuda/attention/sequence.cuh"
#include "cuda/ptx/special.cuh"
#include "cuda/sm80/linear/scan.h"

// Where steps lie.
namespace saccade::cuda {

constexpr float kLowest = -700;  // e^−∞ and e^−700 are both 0, but differences of the latter are numbers

/// What a block walks: steps [begin, end) of one sequence.
struct alignas(16) Steps {
  int32_t batch = -1, count = 0, begin = 0, end = 0;
  int64_t first = 0, place = 0;

  __device__ explicit Steps(const ScanParams& p) : place(blockIdx.x) {
    const Piece piece = p.segments ? find_piece(p, p.cu_seqlens, p.cu_stride, p.tokens, kSegment, blockIdx.x)
                                   : Piece{static_cast<int32_t>(blockIdx.x), 0};
    if (piece.index < 0) return;
    sequence(p, piece.batch);
    begin = piece.index * kSegment;
    if (p.segments && begin >= count) return;
    batch = piece.batch;
    if (p.segments && end - begin > kSegment) end = begin + kSegment;
  }
  /// All of a sequence.
  __device__ Steps(const ScanParams& p, int32_t b) : batch(b) { sequence(p, b); }

  __device__ void sequence(const ScanParams& p, int32_t b) {
    const Rows rows = p.packed ? packed_rows(p.cu_seqlens, p.cu_stride, b, p.tokens) : Rows{0, p.tokens};
    first = rows.first, end = count = static_cast<int32_t>(rows.count);
  }
  __device__ int64_t row(const ScanParams& p, int32_t step) const { return first + (p.flip ? count - 1 - step : step); }
  __device__ int64_t stride(const ScanParams& p, const View& v) const { return p.flip ? -v.row : v.row; }
  template <class X>
  __device__ X* at(const ScanParams& p, const View& v, int32_t h, int32_t step) const {
    return reinterpret_cast<X*>(v.data) + batch * v.batch + h * v.head + row(p, step) * v.row;
  }
  __device__ int64_t number(const ScanParams& p, int32_t h, int32_t step) const {
    return h * p.rows + (p.packed ? 0 : batch * p.tokens) + row(p, step);
  }

  /// Log decay of a step, of channel c.
  __device__ float decay(const ScanParams& p, int32_t h, int32_t step, int32_t c) const {
    if (!p.decay || (step -= p.shifted) < 0) return 0;
    const float g = at<const float>(p, p.decay, h, step)[c * p.decay.column];
    return g < kLowest ? kLowest : g;
  }
  /// What the final state still lacks where decays are shifted.
  __device__ float last_decay(const ScanParams& p, int32_t h, int32_t row, int32_t column) const {
    if (!p.shifted || !p.decay || count == 0) return 1;
    return expf(decay(p, h, count, p.decay_of == DecayOf::token ? 0 : p.decay_of == DecayOf::key ? row : column));
  }
};

}  // namespace saccade::cuda
