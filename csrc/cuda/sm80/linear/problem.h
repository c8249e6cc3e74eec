#pragma once
#include <algorithm>
#include <string>
#include <utility>

#include "cuda/attention/limits.h"
#include "cuda/sm80/attention/dims.h"
#include "cuda/sm80/linear/rows.h"

// From a problem to its scans.
namespace saccade::cuda {

/// What no scan whose keys have `dim` channels can run.
std::string linear_refusal(const LinearProblem& p, int64_t dim);

inline States states(const TensorView& t) {
  if (!t) return {};
  return {{static_cast<char*>(t.data), t.stride[0], t.stride[1], t.stride[2], t.stride[3]}, 0};
}
inline States transposed(States s) {
  std::swap(s.at.row, s.at.column);
  return s;
}
inline States from_column(States s, int64_t first) {
  if (s.at) s.at.data += first * s.at.column * static_cast<int64_t>(sizeof(float));
  return s;
}

/// Where operands are read, and what all scans of a problem share.
struct LinearPlan {
  Arena arena;
  Queue* queue;
  const Device& device;
  DType type;  // of the scans' operands
  int64_t value_dim;
  Operand query, key, value;
  ScanParams scan{};

  /// `exact`: a state or a decay's gradient is a result, in which the roundings of 16-bit products would show. Decay
  /// per channel changes every operand; they are fp32 then.
  LinearPlan(const LinearProblem& p, bool exact, void* workspace, Queue* q)
      : arena{static_cast<char*>(workspace)}, queue(q), device(device_of(p.query)), type(p.query.dtype) {
    scan.packed = static_cast<bool>(p.cu_seqlens);
    scan.cu_seqlens = static_cast<const int32_t*>(p.cu_seqlens.data), scan.cu_stride = p.cu_seqlens.stride[0];
    scan.batch = scan.packed ? p.cu_seqlens.shape[0] - 1 : p.query.shape[0];
    scan.tokens = p.query.shape[scan.packed ? 0 : 2];
    scan.rows = scan.packed ? scan.tokens : scan.batch * scan.tokens;
    scan.heads = static_cast<int32_t>(std::max({p.query.shape[1], p.key.shape[1], p.value.shape[1]}));
    scan.dim = static_cast<int32_t>(p.query.shape[p.query.rank - 1]);
    value_dim = p.value.shape[p.value.rank - 1];
    scan.columns = static_cast<int32_t>(value_dim);
    scan.limit = static_cast<int32_t>(p.chunk == 0 ? kSegment : std::min<int64_t>(p.chunk, kSegment));
    scan.flip = p.reverse, scan.global = p.global, scan.outputs = true;
    scan.query_scale = scan.key_scale = 1, scan.epsilon = static_cast<float>(p.epsilon);
    scan.decay = row_view(p.log_decay, scan.packed);
    if (p.log_decay && p.log_decay.shape[p.log_decay.rank - 1] > 1) scan.decay_of = DecayOf::key;
    if (exact && scan.decay_of == DecayOf::key) type = DType::f32;
    query = operand(p.query), key = operand(p.key), value = operand(p.value);
  }

  Operand operand(const TensorView& t) {
    const int32_t group = t.shape[1] ? static_cast<int32_t>(scan.heads / t.shape[1]) : 1;
    if (t.dtype == type) return {aligned_rows(t, scan.packed, arena, queue), group};
    const int64_t width = t.shape[t.rank - 1], stride = (width + 3) / 4 * 4;
    SumParams w = sizes<SumParams>();
    w.heads = static_cast<int32_t>(t.shape[1]), w.group = 1, w.width = static_cast<int32_t>(width);
    w.from = row_view(t, scan.packed);
    w.to = {reinterpret_cast<char*>(arena.take<float>(w.heads * scan.rows * stride)),
            scan.packed ? 0 : scan.tokens * stride, scan.rows * stride, stride, 1};
    if (queue) with_operand(t.dtype, [&]<class T>(T) { RowKernels<T>::widen(*queue, w); });
    return {w.to, group};
  }
  template <class P>
  P sizes() const {
    P r{};
    r.cu_seqlens = scan.cu_seqlens, r.cu_stride = scan.cu_stride, r.batch = scan.batch;
    r.tokens = scan.tokens, r.rows = scan.rows, r.heads = scan.heads;
    r.dim = scan.dim, r.columns = static_cast<int32_t>(value_dim), r.packed = scan.packed, r.flip = scan.flip;
    return r;
  }
  /// Numbers of every head's rows, as a tensor of `width` columns.
  View rows(float* data, int64_t width) const {
    return {reinterpret_cast<char*>(data), scan.packed ? 0 : scan.tokens * width, scan.rows * width, width, 1};
  }
  float* numbers(int64_t width = 1) { return arena.take<float>(scan.heads * scan.rows * width); }

  /// The scan of the forward's denominators: that of its state's last column, into `to`.
  ScanParams denominators(const LinearProblem& p, float* to) const {
    ScanParams s = scan;
    s.query = query, s.key = key, s.query_scale = static_cast<float>(p.scale);
    s.columns = 1;
    s.out = rows(to, 1), s.out_type = DType::f32;
    s.initial = from_column(states(p.initial_state), value_dim);
    return s;
  }

  static const Device& device_of(const TensorView& t) {
    std::string reason;
    static const Device none{};
    const Device* d = find_device(t, reason);
    return d ? *d : none;  // asked for the workspace only where `supports` found one
  }
};

}  // namespace saccade::cuda
