#include "cuda/sm80/linear/linear.h"

#include "cuda/sm80/linear/problem.h"
#include "cuda/sm80/linear/step.h"

namespace saccade {
namespace {

using namespace cuda;

/// Launches everything; without a queue only the workspace is measured.
int64_t forward(const LinearForward& p, void* workspace, Queue* queue) {
  LinearPlan plan(p, static_cast<bool>(p.final_state), workspace, queue);
  if (p.final_state) plan.scan.rounding = Rounding::not_state;
  float* denominators = p.normalize ? plan.numbers() : nullptr;
  Scans scans(plan.device, plan.arena, plan.type, queue);
  if (p.normalize) {
    ScanParams s = plan.denominators(p, denominators);
    s.final = from_column(states(p.final_state), plan.value_dim);
    scans.run(s);
  }
  ScanParams s = plan.scan;
  s.query = plan.query, s.key = plan.key, s.value = plan.value, s.query_scale = static_cast<float>(p.scale);
  s.denominator = denominators;
  s.out = row_view(p.out, s.packed), s.out_type = p.out.dtype, s.wide_out = rows_aligned(p.out);
  s.initial = states(p.initial_state), s.final = states(p.final_state);
  scans.run(s);
  return scans.bytes();
}

/// A step's row of each head: no axis of tokens.
View step_view(const TensorView& t) { return {static_cast<char*>(t.data), t.stride[0], t.stride[1], 0, t.stride[2]}; }

void step(const LinearStep& p, const Context& context, void*) {
  Queue queue("linear_attention_step", p.query, context);
  StepParams s{};
  s.heads = static_cast<int32_t>(p.out.shape[1]);
  const auto operand = [&](const TensorView& t) {
    return Operand{t ? step_view(t) : View{}, t && t.shape[1] ? static_cast<int32_t>(s.heads / t.shape[1]) : 1};
  };
  s.query = operand(p.query), s.key = operand(p.key), s.value = operand(p.value), s.decay = operand(p.log_decay);
  s.decay.group = 1;
  s.channels = p.log_decay && p.log_decay.shape[2] > 1;
  s.out = step_view(p.out), s.state = states(p.state).at;
  s.batch = p.query.shape[0];
  s.dim = static_cast<int32_t>(p.query.shape[2]), s.value_dim = static_cast<int32_t>(p.value.shape[2]);
  s.scale = static_cast<float>(p.scale), s.epsilon = static_cast<float>(p.epsilon);
  s.normalize = p.normalize;
  s.wide = rows_aligned(p.state);
  with_operand(p.query.dtype, [&]<class T>(T) { Step<T>::launch(queue, s); });
  queue.finish();
}

std::string features(LinearFeature f) { return f == LinearFeature::none ? "" : "no features"; }

}  // namespace

std::string cuda::linear_refusal(const LinearProblem& p, int64_t dim) {
  std::string reason = features(p.feature);
  if (reason.empty()) reason = size_refusal(p.query, p.key, p.value);
  if (!reason.empty()) return reason;
  const bool channels = p.log_decay && p.log_decay.shape[p.log_decay.rank - 1] > 1;
  return with_operand(p.query.dtype, [&]<class T>(T) {
    return device_refusal(p.query, Scan<T>::shared_bytes(static_cast<int>(dim), channels));
  });
}

const Kernel<LinearForward> sm80_linear = {
    "cuda.sm80.linear", [](const LinearForward& p) { return linear_refusal(p, p.query.shape[p.query.rank - 1]); },
    [](const LinearForward& p, int) { return forward(p, nullptr, nullptr); },
    [](const LinearForward& p, const Context& context, void* workspace) {
      Queue queue("linear_attention", p.query, context);
      forward(p, workspace, &queue);
      queue.finish();
    }};

const Kernel<LinearStep> sm80_linear_step = {"cuda.sm80.linear",
                                             [](const LinearStep& p) {
                                               std::string reason = features(p.feature);
                                               if (reason.empty()) reason = size_refusal(p.query, p.key, p.value);
                                               return reason.empty() ? device_refusal(p.query, 0) : reason;
                                             },
                                             [](const LinearStep&, int) { return int64_t{0}; }, step};

}  // namespace saccade
