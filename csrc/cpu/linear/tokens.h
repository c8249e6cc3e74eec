#pragma once
#include "cpu/attention/work.h"
#include "cpu/linear/entry.h"

// Where the tokens of each head lie, in the order of the recurrence.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr Rows kNoRows{nullptr, 0, 0};

inline Rows flipped(Rows r, int64_t count, int64_t element) {
  if (!r.data || count == 0) return r;
  return {r.data + (count - 1) * r.row * element, -r.row, r.col};
}

struct Tokens {
  bool packed, reverse;
  int64_t batch, heads, dim, value_dim;
  int64_t features,
      columns;     // rows and columns of a state: D, or what a feature makes of it; Dv, with normalize Dv + 1
  int64_t tokens;  // of every sequence; packed: rows in all
  TensorView cu;

  explicit Tokens(const LinearProblem& p)
      : packed(static_cast<bool>(p.cu_seqlens)), reverse(p.reverse), cu(p.cu_seqlens) {
    batch = packed ? cu.shape[0] - 1 : p.query.shape[0];
    heads = 0;
    for (const TensorView* t : {&p.query, &p.key, &p.value}) heads = t->shape[1] > heads ? t->shape[1] : heads;
    dim = p.query.shape[p.query.rank - 1];
    value_dim = p.value.shape[p.value.rank - 1];
    features = state_rows(p.feature, dim);
    columns = value_dim + p.normalize;
    tokens = p.query.shape[packed ? 0 : 2];
  }

  int64_t offset(int64_t b) const { return static_cast<const int32_t*>(cu.data)[b * cu.stride[0]]; }
  int64_t start(int64_t b) const { return packed ? offset(b) : 0; }
  int64_t count(int64_t b) const { return packed ? offset(b + 1) - offset(b) : tokens; }
  int64_t rows_in_all() const { return packed ? tokens : batch * tokens; }

  /// Row s is what step s of head h reads or writes; `t` has any divisor of the heads, or is broadcast.
  Rows rows(const TensorView& t, int64_t b, int64_t h) const {
    const int64_t step = t.stride[packed ? 0 : 2], head = h / (heads / t.shape[1]);
    const int64_t first = (packed ? start(b) * step : b * t.stride[0]) + head * t.stride[1];
    const int64_t size = dtype_size(t.dtype);
    const Rows r{static_cast<char*>(t.data) + first * size, step, t.stride[t.rank - 1]};
    return reverse ? flipped(r, count(b), size) : r;
  }

  /// fp32 rows of every head in the workspace, [H][row][width] or [B][H][row][width].
  TensorView view(float* data, int64_t width) const {
    const int64_t dense[4] = {batch, heads, tokens, width}, flat[3] = {tokens, heads, width};
    TensorView t = contiguous_view(data, DType::f32, packed ? 3 : 4, packed ? flat : dense);
    if (packed) t.stride[0] = width, t.stride[1] = tokens * width;
    return t;
  }
};

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
