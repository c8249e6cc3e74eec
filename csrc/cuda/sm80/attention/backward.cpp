#include "cuda/sm80/attention/backward.h"

#include <algorithm>

#include "cuda/attention/limits.h"
#include "cuda/attention/repack.h"
#include "cuda/sm80/attention/attention.h"
#include "cuda/sm80/attention/dims.h"

namespace saccade {
namespace {

using namespace cuda;

/// Can rows of `t` be written 16 bytes at a time?
bool wide(const TensorView& t) { return rows_aligned(t) && t.shape[t.rank - 1] * dtype_size(t.dtype) % 16 == 0; }

/// Where operands are read and what lies between the sweeps; with a queue, copies of unaligned operands are launched.
struct BackwardPlan {
  BiasGradientParams params;
  int64_t bytes;

  BackwardPlan(const AttentionBackward& p, void* workspace, Queue* queue) : params{BackwardParams(p), 1, nullptr} {
    Arena arena{static_cast<char*>(workspace)};
    const auto aligned = [&](const TensorView& t) { return aligned_rows(t, params.packed, arena, queue); };
    params.query = aligned(p.query), params.key = aligned(p.key), params.value = aligned(p.value);
    params.dout = aligned(p.dout);
    params.wide_dquery = wide(p.dquery), params.wide_dkey = wide(p.dkey), params.wide_dvalue = wide(p.dvalue);
    const int64_t rows = params.query_heads * params.rows;
    if (normalises(p.score.map)) {
      params.out = aligned(p.out);
      params.statistics = arena.take<RowStatistics>(rows);
    }
    if (p.dtemperature) params.dtemperature = arena.take<float>(rows);
    if (p.dhead_gate) params.dgate = arena.take<float>(rows);
    if (p.dalibi_slopes) params.dslope = arena.take<float>(rows);
    if (p.dscore_biases) params.dscore_bias = arena.take<float>(rows);
    if (p.dbias && params.elements() > 0) {
      params.splits =
          with_kernels(p, [&]<class T, class Score>(T, Score) { return BiasGradient<T, Score>::splits(params); });
      if (params.splits > 1) params.partial = arena.take<float>(params.splits * params.elements());
    }
    bytes = arena.used;
  }
};

std::string supports(const AttentionBackward& p) {
  if (p.query.dtype == DType::f64) return refusal(p, 0);
  return refusal(p, with_kernels(p, [&]<class T, class Score>(T, Score) {
                   const Params params(p);
                   const int sweeps = std::max(QueryGradient<T, Score>::shared_bytes(params),
                                               KeyGradient<T, Score>::shared_bytes(params));
                   return p.dbias ? std::max(sweeps, BiasGradient<T, Score>::shared_bytes(params)) : sweeps;
                 }));
}

int64_t workspace(const AttentionBackward& p, int) { return BackwardPlan(p, nullptr, nullptr).bytes; }

/// Every parameter's gradient from the rows' shares; `axes` is how its tensor counts them.
void reduce_parameters(Queue& queue, const AttentionBackward& p, const BackwardParams& b) {
  const bool packed = b.packed;
  const auto rows = [&](const float* shares, const View& to, int64_t n0, int64_t n1, int64_t n2) {
    ReduceParams r{};
    r.shares = shares, r.statistics = b.statistics, r.sinks = b.sinks, r.to = to;
    r.size[0] = n0, r.size[1] = n1, r.size[2] = n2;
    r.batch = packed ? 1 : b.batch, r.heads = b.query_heads, r.queries = b.queries;
    return r;
  };
  const auto per_row = [&](const TensorView& t, const float* shares) {
    if (!t) return;
    launch_reduce(queue, packed ? rows(shares, row_view(t, true), 1, t.shape[1], t.shape[0])
                                : rows(shares, row_view(t, false), t.shape[0], t.shape[1], t.shape[2]));
  };
  per_row(p.dtemperature, b.dtemperature);
  per_row(p.dhead_gate, b.dgate);
  if (const TensorView& t = p.dalibi_slopes) {
    const View to{static_cast<char*>(t.data), t.stride[0], t.stride[1]};
    ReduceParams r = rows(b.dslope, to, t.shape[0], t.shape[1], 1);
    if (packed) r.cu = b.cu_q, r.cu_stride = b.cu_q_stride;
    launch_reduce(queue, r);
  }
  const auto per_head = [&](const TensorView& t, const float* shares) {
    if (t) launch_reduce(queue, rows(shares, View{static_cast<char*>(t.data), 0, t.stride[0]}, 1, t.shape[0], 1));
  };
  per_head(p.dscore_biases, b.dscore_bias);
  per_head(p.dsinks, nullptr);
}

void run(const AttentionBackward& p, const Context& context, void* memory) {
  Queue queue("attention_backward", p.query, context);
  const BackwardPlan plan(p, memory, &queue);
  with_kernels(p, [&]<class T, class Score>(T, Score) {
    QueryGradient<T, Score>::launch(queue, plan.params);
    KeyGradient<T, Score>::launch(queue, plan.params);
    if (p.dbias) BiasGradient<T, Score>::launch(queue, plan.params);
  });
  reduce_parameters(queue, p, plan.params);
  queue.finish();
}

}  // namespace

const Kernel<AttentionBackward> sm80_attention_backward = {"cuda.sm80.attention", supports, workspace, run};

}  // namespace saccade
