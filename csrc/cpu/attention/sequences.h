#pragma once
#include "math/visit/range.h"
#include "saccade/attention.h"

// Where each sequence lies in dense and packed tensors.
namespace saccade::cpu::SACCADE_ISA {
namespace {

/// Row r of one head: element c at data + (r·row + c·col)·sizeof(element).
struct Rows {
  char* data;
  int64_t row, col;

  template <class S>
  SACCADE_FN S* at(int64_t r) const {
    return reinterpret_cast<S*>(data) + r * row;
  }
};

struct Sequences {
  bool packed;
  int64_t batch, query_heads, key_heads, group, head_dim, value_dim;
  int64_t queries, keys;  // of every sequence; packed: rows in all
  TensorView cu_q, cu_k;

  explicit Sequences(const AttentionProblem& p)
      : packed(static_cast<bool>(p.visit.cu_seqlens_q)), cu_q(p.visit.cu_seqlens_q), cu_k(p.visit.cu_seqlens_k) {
    const int head_axis = 1, row_axis = packed ? 0 : 2;
    batch = packed ? cu_q.shape[0] - 1 : p.query.shape[0];
    query_heads = p.query.shape[head_axis];
    key_heads = p.key.shape[head_axis];
    group = key_heads ? query_heads / key_heads : 1;
    head_dim = p.query.shape[p.query.rank - 1];
    value_dim = p.value.shape[p.value.rank - 1];
    queries = p.query.shape[row_axis];
    keys = p.key.shape[row_axis];
  }

  static int64_t offset(const TensorView& cu, int64_t b) {
    return static_cast<const int32_t*>(cu.data)[b * cu.stride[0]];
  }
  int64_t query_start(int64_t b) const { return packed ? offset(cu_q, b) : 0; }
  int64_t key_start(int64_t b) const { return packed ? offset(cu_k, b) : 0; }
  int64_t query_count(int64_t b) const { return packed ? offset(cu_q, b + 1) - offset(cu_q, b) : queries; }
  int64_t key_count(int64_t b) const { return packed ? offset(cu_k, b + 1) - offset(cu_k, b) : keys; }

  math::Range range(int64_t b, const VisitSpec& v) const {
    return math::Range::make(query_count(b), key_count(b), v.causal, v.window_left, v.window_right);
  }

  /// Rows of `t` ((B, H, N, D) or (T, H, D)) that belong to sequence b and head h; `start` is its first row when
  /// packed.
  Rows rows(const TensorView& t, int64_t b, int64_t h, int64_t start) const {
    const int64_t first = packed ? start * t.stride[0] + h * t.stride[1] : b * t.stride[0] + h * t.stride[1];
    return {static_cast<char*>(t.data) + first * dtype_size(t.dtype), t.stride[packed ? 0 : 2],
            t.stride[packed ? 2 : 3]};
  }
  /// The same for one number per row: (B, H, N) or (T, H).
  Rows scalars(const TensorView& t, int64_t b, int64_t h) const {
    const int64_t first = packed ? query_start(b) * t.stride[0] + h * t.stride[1] : b * t.stride[0] + h * t.stride[1];
    return {static_cast<char*>(t.data) + first * dtype_size(t.dtype), t.stride[packed ? 0 : 2], 0};
  }
};

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
