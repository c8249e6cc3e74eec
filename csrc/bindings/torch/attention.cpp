#include "bindings/torch/attention.h"

#include <optional>
#include <string>
#include <vector>

#include "bindings/problem.h"
#include "bindings/torch/context.h"
#include "bindings/torch/stack.h"
#include "bindings/torch/view.h"
#include "saccade/attention.h"

namespace saccade::bindings {
namespace {

struct AttentionArguments {
  std::array<std::optional<Tensor>, kOperandNames.size()> tensors;
  AttentionOptions options;

  explicit AttentionArguments(Stack& stack) {
    for (size_t i = 0; i < tensors.size(); ++i)
      tensors[i] = i < 3 ? stack.take<Tensor>() : stack.take<std::optional<Tensor>>();
    options = {stack.take<std::string>(), stack.take<double>(),     stack.take<double>(),  stack.take<double>(),
               stack.take<bool>(),        stack.take<int64_t>(),    stack.take<int64_t>(), stack.take<double>(),
               stack.take<int64_t>(),     stack.take<std::string>()};
  }

  void fill(AttentionProblem& problem, const char* op) const {
    const auto views = operands(problem);
    for (size_t i = 0; i < views.size(); ++i) *views[i] = view(tensors[i], op, kOperandNames[i]);
    options.apply(problem);
  }
};

/// Is a CUDA kernel forced (on host tensors perhaps)?
bool device_kernel(const Context& context) { return context.kernel.starts_with("cuda."); }

}  // namespace

void attention(StableIValue* stack, uint64_t, uint64_t) {
  Stack in(stack);
  const AttentionArguments arguments(in);
  AttentionForward problem;
  arguments.fill(problem, "attention");
  shape_outputs(problem);
  const Tensor out = allocate(problem.out, problem.query), lse = allocate(problem.lse, problem.query);
  const Context context = torch_context(arguments.options.kernel, problem.query);
  const Workspace workspace(workspace_bytes(problem, context), problem.query, device_kernel(context));
  attention_forward(problem, context, workspace.data());
  stack[0] = from(out);
  stack[1] = from(lse);
}

void attention_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* kOp = "attention_backward";
  Stack in(stack);
  const auto dout = in.take<Tensor>();
  const auto dlse = in.take<std::optional<Tensor>>();
  const auto out = in.take<std::optional<Tensor>>();
  const auto lse = in.take<std::optional<Tensor>>();
  const AttentionArguments arguments(in);
  const auto flags = in.take<std::vector<bool>>();
  std::array<bool, kParameters> needs;
  if (flags.size() != needs.size())
    throw Error("attention_backward: needs: got " + std::to_string(flags.size()) +
                " flags, wanted 8; pass one per optional input");
  std::copy(flags.begin(), flags.end(), needs.begin());

  AttentionBackward problem;
  arguments.fill(problem, kOp);
  problem.dout = view(dout, kOp, "dout");
  problem.dlse = view(dlse, kOp, "dlse");
  problem.out = view(out, kOp, "out");
  problem.lse = view(lse, kOp, "lse");
  shape_gradients(problem, needs);
  std::vector<Tensor> results;
  for (TensorView* gradient : gradients(problem)) results.push_back(allocate(*gradient, problem.query));
  const Context context = torch_context(arguments.options.kernel, problem.query);
  const Workspace workspace(workspace_bytes(problem, context), problem.query, device_kernel(context));
  saccade::attention_backward(problem, context, workspace.data());
  for (size_t i = 0; i < results.size(); ++i) stack[i] = from(results[i]);
}

void explain_attention(StableIValue* stack, uint64_t, uint64_t) {
  Stack in(stack);
  const AttentionArguments arguments(in);
  const bool backward = in.take<bool>();
  AttentionProblem problem;
  arguments.fill(problem, backward ? "attention_backward" : "attention");
  stack[0] = from(lines(explain_inputs(problem, backward, torch_context(arguments.options.kernel, problem.query))));
}

}  // namespace saccade::bindings
