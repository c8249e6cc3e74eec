#pragma once
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "bindings/problem.h"
#include "saccade/linear.h"

// As problem.h, for linear attention.
namespace saccade::bindings {

/// The scalars of a call, in the order of the torch schema.
struct LinearOptions {
  double scale;
  bool normalize;
  double epsilon;
  std::string feature;
  bool causal, reverse;
  int64_t chunk;
  std::string kernel;

  template <class Problem>
  void apply(Problem& problem, const char* op) const {
    const auto name = std::find(std::begin(kLinearFeatureNames), std::end(kLinearFeatureNames), feature);
    if (name == std::end(kLinearFeatureNames))
      throw Error(std::string(op) + ": feature: got \"" + feature +
                  "\", wanted none or taylor2; choose a feature of this build");
    problem.feature = static_cast<LinearFeature>(name - std::begin(kLinearFeatureNames));
    problem.scale = scale;
    problem.normalize = normalize;
    problem.epsilon = epsilon;
    if constexpr (requires { problem.chunk; }) {
      problem.global = !causal;
      problem.reverse = reverse;
      problem.chunk = chunk;
    }
  }
};

/// The tensor arguments of a call, in the order of the torch schema.
constexpr std::array<const char*, 6> kLinearOperandNames = {"query",     "key",           "value",
                                                            "log_decay", "initial_state", "cu_seqlens"};
constexpr std::array<const char*, 5> kLinearStepNames = {"query", "key", "value", "log_decay", "state"};
constexpr size_t kLinearParameters = 2;  // of them, log_decay and initial_state, have gradients

inline std::array<TensorView*, 6> operands(LinearProblem& p) {
  return {&p.query, &p.key, &p.value, &p.log_decay, &p.initial_state, &p.cu_seqlens};
}
inline std::array<TensorView*, 5> operands(LinearStep& p) {
  return {&p.query, &p.key, &p.value, &p.log_decay, &p.state};
}

/// The query's memory order with all heads and the value's channels. Whatever does not fit is the core's to refuse.
template <class Problem>
TensorView linear_out(const Problem& p) {
  TensorView like = p.query;
  if (like.rank > 1 && p.key.rank > 1 && p.value.rank > 1) {
    like.shape[1] = std::max({p.query.shape[1], p.key.shape[1], p.value.shape[1]});
    like.shape[like.rank - 1] = p.value.shape[p.value.rank - 1];
  }
  return dense_like(like);
}

/// Gives p.out and, if wanted, p.final_state shape, strides and type; their data is the host's to allocate.
inline void shape_outputs(LinearForward& p, bool final_state) {
  p.out = linear_out(p);
  if (!final_state || p.out.rank < 2) return;
  const int last = p.out.rank - 1;
  const int64_t batch = p.cu_seqlens ? std::max<int64_t>(p.cu_seqlens.shape[0] - 1, 0) : p.query.shape[0];
  const int64_t shape[4] = {batch, p.out.shape[1], state_rows(p.feature, std::min<int64_t>(p.query.shape[last], 1024)),
                            p.out.shape[last] + p.normalize};
  p.final_state = contiguous(p.query.dtype == DType::f64 ? DType::f64 : DType::f32, 4, shape);
}

/// The same for the gradients; `needs`: log_decay, initial_state.
inline void shape_gradients(LinearBackward& p, const std::array<bool, kLinearParameters>& needs) {
  p.dquery = dense_like(p.query);
  p.dkey = dense_like(p.key);
  p.dvalue = dense_like(p.value);
  const auto like = [](const TensorView& t) { return contiguous(t.dtype, t.rank, t.shape); };
  if (needs[0] && p.log_decay) p.dlog_decay = like(p.log_decay);
  if (needs[1] && p.initial_state) p.dinitial_state = like(p.initial_state);
}

inline std::array<TensorView*, 3 + kLinearParameters> gradients(LinearBackward& p) {
  return {&p.dquery, &p.dkey, &p.dvalue, &p.dlog_decay, &p.dinitial_state};
}

/// The candidates for a problem given without its outputs.
inline std::vector<Candidate> explain_inputs(const LinearProblem& inputs, bool backward, const Context& context) {
  static double place;
  LinearForward forward;
  static_cast<LinearProblem&>(forward) = inputs;
  shape_outputs(forward, true);
  forward.out.data = forward.final_state.data = &place;
  if (!backward) return explain(forward, context);
  LinearBackward problem;
  static_cast<LinearProblem&>(problem) = inputs;
  problem.dout = forward.out;
  if (inputs.normalize) problem.out = forward.out;
  shape_gradients(problem, {true, true});
  for (TensorView* gradient : gradients(problem)) gradient->data = &place;
  return explain(problem, context);
}

}  // namespace saccade::bindings
