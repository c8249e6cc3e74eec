#include "cuda/sm80/attention/attention.h"

#include "cuda/attention/limits.h"
#include "cuda/attention/repack.h"
#include "cuda/sm80/attention/dims.h"
#include "cuda/sm80/attention/forward.h"

namespace saccade {
namespace {

using namespace cuda;

/// Where the operands are read and the splits of few queries kept; with a queue, copies of unaligned operands are
/// launched.
struct ForwardPlan {
  DecodeParams params;
  bool tiled, split;
  int64_t bytes;

  ForwardPlan(const AttentionForward& p, void* workspace, Queue* queue) : params{Params(p)} {
    Arena arena{static_cast<char*>(workspace)};
    params.out = row_view(p.out, params.packed);
    params.lse = row_view(p.lse, params.packed);
    params.wide_out = rows_aligned(p.out);
    params.columns = (params.value_dim + 3) / 4 * 4;
    params.slots_by_query = params.queries < kDecodeRows * params.batch;
    const bool some = params.batch > 0 && params.queries > 0 && params.query_heads > 0;
    tiled = some && params.queries > kDecodeRows;
    split = some && (params.packed || params.queries <= kDecodeRows);
    if (some) {
      params.query = aligned_rows(p.query, params.packed, arena, queue);
      params.key = aligned_rows(p.key, params.packed, arena, queue);
      params.value = aligned_rows(p.value, params.packed, arena, queue);
    }
    if (split) {
      const int64_t rows = params.slots() * params.query_heads;
      params.partial = arena.take<float>(rows * params.columns);
      if (normalises(p.score.map)) params.state = arena.take<float2>(rows);
    }
    bytes = arena.used;
  }
};

std::string supports(const AttentionForward& p) {
  if (p.query.dtype == DType::f64) return refusal(p, 0);
  return refusal(
      p, with_kernels(p, [&]<class T, class Score>(T, Score) { return Forward<T, Score>::shared_bytes(Params(p)); }));
}

int64_t workspace(const AttentionForward& p, int) { return ForwardPlan(p, nullptr, nullptr).bytes; }

void run(const AttentionForward& p, const Context& context, void* memory) {
  Queue queue("attention", p.query, context);
  const ForwardPlan plan(p, memory, &queue);
  with_kernels(p, [&]<class T, class Score>(T, Score) {
    Forward<T, Score>::launch(queue, plan.params, plan.tiled, plan.split);
  });
  queue.finish();
}

}  // namespace

const Kernel<AttentionForward> sm80_attention = {"cuda.sm80.attention", supports, workspace, run};

}  // namespace saccade
