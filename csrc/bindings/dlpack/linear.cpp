#include "bindings/linear.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/dlpack/call.h"
#include "bindings/dlpack/linear.h"

namespace saccade::bindings {
namespace {

template <size_t n>
struct Arguments {
  std::array<Input, n> inputs;
  LinearOptions options;

  Arguments(const std::array<const char*, n>& names, const py::tuple& tensors, const py::tuple& scalars,
            const char* op) {
    for (size_t i = 0; i < n; ++i) inputs[i] = Input(py::object(tensors[i]), op, names[i]);
    const bool scan = scalars.size() == 8;
    options = {scalars[0].cast<double>(),
               scalars[1].cast<bool>(),
               scalars[2].cast<double>(),
               scalars[3].cast<std::string>(),
               !scan || scalars[4].cast<bool>(),
               scan && scalars[5].cast<bool>(),
               scan ? scalars[6].cast<int64_t>() : 0,
               scalars[scalars.size() - 1].cast<std::string>()};
  }

  template <class Problem>
  void fill(Problem& problem, const char* op) const {
    const auto views = operands(problem);
    for (size_t i = 0; i < n; ++i) *views[i] = inputs[i].view();
    options.apply(problem, op);
  }
};

template <class Problem, class Run>
void call(const Problem& problem, const std::string& kernel, Run run) {
  py::gil_scoped_release release;
  const Context context = named_context(kernel);
  const Workspace workspace(workspace_bytes(problem, context));
  run(problem, context, workspace.data());
}

std::pair<Array, std::optional<Array>> forward(const py::tuple& tensors, const py::tuple& scalars, bool return_state) {
  constexpr const char* kOp = "linear_attention";
  const Arguments arguments(kLinearOperandNames, tensors, scalars, kOp);
  LinearForward problem;
  arguments.fill(problem, kOp);
  shape_outputs(problem, return_state);
  Array out(problem.out);
  std::optional<Array> state;
  if (problem.final_state) state.emplace(problem.final_state);
  call(problem, arguments.options.kernel, linear_forward);
  return {out, state};
}

std::vector<std::optional<Array>> backward(const py::object& dout, const py::object& dstate, const py::object& out,
                                           const py::tuple& tensors, const py::tuple& scalars,
                                           const std::array<bool, kLinearParameters>& needs) {
  constexpr const char* kOp = "linear_attention_backward";
  const Arguments arguments(kLinearOperandNames, tensors, scalars, kOp);
  const Input dout_in(dout, kOp, "dout"), dstate_in(dstate, kOp, "dfinal_state"), out_in(out, kOp, "out");
  LinearBackward problem;
  arguments.fill(problem, kOp);
  problem.dout = dout_in.view();
  problem.dfinal_state = dstate_in.view();
  problem.out = out_in.view();
  shape_gradients(problem, needs);
  std::vector<std::optional<Array>> results;
  for (TensorView* gradient : gradients(problem))
    results.push_back(*gradient ? std::optional<Array>(*gradient) : std::nullopt);
  call(problem, arguments.options.kernel, linear_backward);
  return results;
}

py::list explain_linear(const py::tuple& tensors, const py::tuple& scalars, bool backward) {
  const char* op = backward ? "linear_attention_backward" : "linear_attention";
  const Arguments arguments(kLinearOperandNames, tensors, scalars, op);
  LinearProblem problem;
  arguments.fill(problem, op);
  return rows(explain_inputs(problem, backward, named_context(arguments.options.kernel)));
}

LinearStep step_problem(const Arguments<kLinearStepNames.size()>& arguments) {
  LinearStep problem;
  arguments.fill(problem, "linear_attention_step");
  problem.out = linear_out(problem);
  return problem;
}

Array step(const py::tuple& tensors, const py::tuple& scalars) {
  const Arguments arguments(kLinearStepNames, tensors, scalars, "linear_attention_step");
  LinearStep problem = step_problem(arguments);
  Array out(problem.out);
  call(problem, arguments.options.kernel, linear_step);
  return out;
}

py::list explain_step(const py::tuple& tensors, const py::tuple& scalars) {
  const Arguments arguments(kLinearStepNames, tensors, scalars, "linear_attention_step");
  LinearStep problem = step_problem(arguments);
  problem.out.data = problem.query.data;  // explaining writes nothing
  return rows(explain(problem, named_context(arguments.options.kernel)));
}

}  // namespace

void define_linear(py::module_& m) {
  m.def("linear_attention", &forward, py::arg("tensors"), py::arg("scalars"), py::arg("return_state"));
  m.def("linear_attention_backward", &backward, py::arg("dout"), py::arg("dfinal_state"), py::arg("out"),
        py::arg("tensors"), py::arg("scalars"), py::arg("needs"));
  m.def("linear_attention_step", &step, py::arg("tensors"), py::arg("scalars"));
  m.def("explain_linear_attention", &explain_linear, py::arg("tensors"), py::arg("scalars"), py::arg("backward"));
  m.def("explain_linear_attention_step", &explain_step, py::arg("tensors"), py::arg("scalars"));
}

}  // namespace saccade::bindings
