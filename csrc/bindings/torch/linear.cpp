#include "bindings/torch/linear.h"

#include <optional>
#include <string>
#include <vector>

#include "bindings/linear.h"
#include "bindings/torch/context.h"
#include "bindings/torch/stack.h"
#include "bindings/torch/view.h"

namespace saccade::bindings {
namespace {

template <size_t n>
struct Arguments {
  const std::array<const char*, n>& names;
  std::array<std::optional<Tensor>, n> tensors;
  LinearOptions options;

  Arguments(Stack& stack, const std::array<const char*, n>& names, bool scan) : names(names) {
    for (size_t i = 0; i < n; ++i)
      tensors[i] = i < 3 || !scan && i == 4 ? stack.take<Tensor>() : stack.take<std::optional<Tensor>>();
    options.scale = stack.take<double>(), options.normalize = stack.take<bool>();
    options.epsilon = stack.take<double>(), options.feature = stack.take<std::string>();
    options.causal = !scan || stack.take<bool>();
    options.reverse = scan && stack.take<bool>();
    options.chunk = scan ? stack.take<int64_t>() : 0;
    options.kernel = stack.take<std::string>();
  }

  template <class Problem>
  void fill(Problem& problem, const char* op) const {
    const auto views = operands(problem);
    for (size_t i = 0; i < n; ++i) *views[i] = view(tensors[i], op, names[i]);
    options.apply(problem, op);
  }
};

using ScanArguments = Arguments<kLinearOperandNames.size()>;
using StepArguments = Arguments<kLinearStepNames.size()>;

/// Runs a problem whose outputs lie in memory.
template <class Problem, class Run>
void call(const Problem& problem, const std::string& kernel, Run run) {
  const Context context = torch_context(kernel, problem.query);
  const Workspace workspace(workspace_bytes(problem, context), problem.query, context.kernel.starts_with("cuda."));
  run(problem, context, workspace.data());
}

}  // namespace

void linear_attention(StableIValue* stack, uint64_t, uint64_t) {
  Stack in(stack);
  const ScanArguments arguments(in, kLinearOperandNames, true);
  const bool return_state = in.take<bool>();
  LinearForward problem;
  arguments.fill(problem, "linear_attention");
  shape_outputs(problem, return_state);
  const Tensor out = allocate(problem.out, problem.query), state = allocate(problem.final_state, problem.query);
  call(problem, arguments.options.kernel, linear_forward);
  stack[0] = from(out);
  stack[1] = from(state);
}

void linear_attention_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* kOp = "linear_attention_backward";
  Stack in(stack);
  const auto dout = in.take<Tensor>();
  const auto dstate = in.take<std::optional<Tensor>>();
  const auto out = in.take<std::optional<Tensor>>();
  const ScanArguments arguments(in, kLinearOperandNames, true);
  const auto flags = in.take<std::vector<bool>>();
  if (flags.size() != kLinearParameters)
    throw Error(std::string(kOp) + ": needs: got " + std::to_string(flags.size()) +
                " flags, wanted 2; pass one per optional input");
  LinearBackward problem;
  arguments.fill(problem, kOp);
  problem.dout = view(dout, kOp, "dout");
  problem.dfinal_state = view(dstate, kOp, "dfinal_state");
  problem.out = view(out, kOp, "out");
  shape_gradients(problem, {flags[0], flags[1]});
  std::vector<Tensor> results;
  for (TensorView* gradient : gradients(problem)) results.push_back(allocate(*gradient, problem.query));
  call(problem, arguments.options.kernel, linear_backward);
  for (size_t i = 0; i < results.size(); ++i) stack[i] = from(results[i]);
}

void linear_attention_step(StableIValue* stack, uint64_t, uint64_t) {
  Stack in(stack);
  const StepArguments arguments(in, kLinearStepNames, false);
  LinearStep problem;
  arguments.fill(problem, "linear_attention_step");
  problem.out = linear_out(problem);
  const Tensor out = allocate(problem.out, problem.query);
  call(problem, arguments.options.kernel, linear_step);
  stack[0] = from(out);
}

void explain_linear_attention(StableIValue* stack, uint64_t, uint64_t) {
  Stack in(stack);
  const ScanArguments arguments(in, kLinearOperandNames, true);
  const bool backward = in.take<bool>();
  LinearProblem problem;
  arguments.fill(problem, backward ? "linear_attention_backward" : "linear_attention");
  stack[0] = from(lines(explain_inputs(problem, backward, torch_context(arguments.options.kernel, problem.query))));
}

void explain_linear_attention_step(StableIValue* stack, uint64_t, uint64_t) {
  Stack in(stack);
  const StepArguments arguments(in, kLinearStepNames, false);
  LinearStep problem;
  arguments.fill(problem, "linear_attention_step");
  problem.out = linear_out(problem);
  problem.out.data = problem.query.data;  // explaining writes nothing
  stack[0] = from(lines(explain(problem, torch_context(arguments.options.kernel, problem.query))));
}

}  // namespace saccade::bindings
