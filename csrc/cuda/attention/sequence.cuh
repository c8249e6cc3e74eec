#pragma once
#include "cuda/attention/params.h"
#include "math/visit/range.h"

// Where a sequence lies. cu_seqlens are read on the device only, and clamped to the tensors' rows: a bad entry gives
// wrong rows, never an access out of bounds.
namespace saccade::cuda {

struct Rows {
  int64_t first, count;
};

__device__ inline Rows packed_rows(const int32_t* cu, int64_t stride, int64_t b, int64_t total) {
  int64_t from = cu[b * stride], to = cu[(b + 1) * stride];
  from = from < 0 ? 0 : from > total ? total : from;
  to = to < from ? from : to > total ? total : to;
  return {from, to - from};
}
__device__ inline Rows query_rows(const Params& p, int64_t b) {
  return p.packed ? packed_rows(p.cu_q, p.cu_q_stride, b, p.queries) : Rows{0, p.queries};
}
__device__ inline Rows key_rows(const Params& p, int64_t b) {
  return p.packed ? packed_rows(p.cu_k, p.cu_k_stride, b, p.keys) : Rows{0, p.keys};
}

using Range = math::BasicRange<int32_t>;  // kernels refuse more rows (attention/limits.h); half the registers

struct alignas(16) Sequence {
  int32_t batch, query0, key0;  // query0, key0: first rows, 0 when dense
  Range range;
  int32_t first =
      0;  // of a tile's rows; and all 16-byte words are written, for they are read as such from shared memory

  __device__ Sequence(const Params& p, int32_t b) : batch(b) {
    const Rows q = query_rows(p, b), k = key_rows(p, b);
    query0 = static_cast<int32_t>(q.first), key0 = static_cast<int32_t>(k.first);
    range = Range::make(static_cast<int32_t>(q.count), static_cast<int32_t>(k.count), p.causal, p.left, p.right);
  }

  /// First element of row i (a query) or j (a key) of one head.
  template <class X>
  __device__ X* query_row(const View& t, int32_t h, int32_t i) const {
    return reinterpret_cast<X*>(t.data) + batch * t.batch + h * t.head + static_cast<int64_t>(query0 + i) * t.row;
  }
  template <class X>
  __device__ X* key_row(const View& t, int32_t h, int32_t j) const {
    return reinterpret_cast<X*>(t.data) + batch * t.batch + h * t.head + static_cast<int64_t>(key0 + j) * t.row;
  }
};

/// Piece `index` of sequence `batch`; index may lie past the sequence's last piece, and is −1 for no piece at all.
struct Piece {
  int32_t batch, index;
};

/// Piece x of an axis of `total` rows (per sequence when dense) cut into pieces of `size`; see piece_count.
template <class P>
__device__ inline Piece find_piece(const P& p, const int32_t* cu, int64_t stride, int64_t total, int64_t size,
                                   int64_t x) {
  if (!p.packed) {
    const int64_t pieces = (total + size - 1) / size;
    return {static_cast<int32_t>(x / pieces), static_cast<int32_t>(x % pieces)};
  }
  const auto place = [&](int64_t b) { return packed_rows(cu, stride, b, total).first / size + b; };
  int64_t lo = 0, hi = p.batch;
  while (hi - lo > 1) {
    const int64_t mid = (lo + hi) / 2;
    (place(mid) <= x ? lo : hi) = mid;
  }
  const int64_t index = x - place(lo);
  return {static_cast<int32_t>(lo), index < 0 ? -1 : static_cast<int32_t>(index)};
}
__device__ inline Piece find_query_piece(const Params& p, int64_t size, int64_t x) {
  return find_piece(p, p.cu_q, p.cu_q_stride, p.queries, size, x);
}
__device__ inline Piece find_key_piece(const Params& p, int64_t size, int64_t x) {
  return find_piece(p, p.cu_k, p.cu_k_stride, p.keys, size, x);
}

}  // namespace saccade::cuda
