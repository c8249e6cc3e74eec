#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/dlpack/call.h"
#include "bindings/dlpack/linear.h"
#include "bindings/problem.h"
#include "saccade/attention.h"

namespace saccade::bindings {
namespace {

/// The tensor arguments and scalars of a call as Python passes them: two tuples in the order of the torch schema.
struct AttentionArguments {
  std::array<Input, kOperandNames.size()> inputs;
  AttentionOptions options;

  AttentionArguments(const py::tuple& tensors, const py::tuple& scalars, const char* op) {
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = Input(py::object(tensors[i]), op, kOperandNames[i]);
    options = {scalars[0].cast<std::string>(), scalars[1].cast<double>(), scalars[2].cast<double>(),
               scalars[3].cast<double>(),      scalars[4].cast<bool>(),   scalars[5].cast<int64_t>(),
               scalars[6].cast<int64_t>(),     scalars[7].cast<double>(), scalars[8].cast<int64_t>(),
               scalars[9].cast<std::string>()};
  }

  void fill(AttentionProblem& problem) const {
    const auto views = operands(problem);
    for (size_t i = 0; i < views.size(); ++i) *views[i] = inputs[i].view();
    options.apply(problem);
  }
};

std::pair<Array, std::optional<Array>> attention(const py::tuple& tensors, const py::tuple& scalars) {
  const AttentionArguments arguments(tensors, scalars, "attention");
  AttentionForward problem;
  arguments.fill(problem);
  shape_outputs(problem);
  Array out(problem.out);
  std::optional<Array> lse;
  if (problem.lse) lse.emplace(problem.lse);
  py::gil_scoped_release release;
  const Context context = named_context(arguments.options.kernel);
  const Workspace workspace(workspace_bytes(problem, context));
  attention_forward(problem, context, workspace.data());
  return {out, lse};
}

std::vector<std::optional<Array>> backward(const py::object& dout, const py::object& dlse, const py::object& out,
                                           const py::object& lse, const py::tuple& tensors, const py::tuple& scalars,
                                           const std::array<bool, kParameters>& needs) {
  constexpr const char* kOp = "attention_backward";
  const AttentionArguments arguments(tensors, scalars, kOp);
  const Input dout_in(dout, kOp, "dout"), dlse_in(dlse, kOp, "dlse"), out_in(out, kOp, "out"), lse_in(lse, kOp, "lse");
  AttentionBackward problem;
  arguments.fill(problem);
  problem.dout = dout_in.view();
  problem.dlse = dlse_in.view();
  problem.out = out_in.view();
  problem.lse = lse_in.view();
  shape_gradients(problem, needs);
  std::vector<std::optional<Array>> results;
  for (TensorView* gradient : gradients(problem))
    results.push_back(*gradient ? std::optional<Array>(*gradient) : std::nullopt);
  py::gil_scoped_release release;
  const Context context = named_context(arguments.options.kernel);
  const Workspace workspace(workspace_bytes(problem, context));
  attention_backward(problem, context, workspace.data());
  return results;
}

py::list explain_attention(const py::tuple& tensors, const py::tuple& scalars, bool backward) {
  const AttentionArguments arguments(tensors, scalars, backward ? "attention_backward" : "attention");
  AttentionProblem problem;
  arguments.fill(problem);
  return rows(explain_inputs(problem, backward, named_context(arguments.options.kernel)));
}

py::list kernels() {
  py::list rows;
  for (const KernelInfo& k : list_kernels()) rows.append(py::make_tuple(k.op, k.name, k.reason));
  return rows;
}

}  // namespace

PYBIND11_MODULE(_dlpack, m) {
  m.doc() = "saccade on any array with __dlpack__; python/saccade/_arrays.py wraps it.";
  py::class_<Array>(m, "Array", py::buffer_protocol(),
                    "A result of saccade in CPU memory, for any library's from_dlpack.")
      .def_buffer([](const Array& a) { return a.buffer(); })
      .def_property_readonly("shape", &Array::shape)
      .def_property_readonly("dtype", &Array::dtype)
      .def(
          "__dlpack__",
          [](const Array& a, const py::object& /*stream*/, const py::object& max_version, const py::object& dl_device,
             const py::object& copy) { return a.capsule(max_version, dl_device, copy); },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const Array&) { return py::make_tuple(int(dl::kCPU), 0); });
  m.def("attention", &attention, py::arg("tensors"), py::arg("scalars"));
  m.def("attention_backward", &backward, py::arg("dout"), py::arg("dlse"), py::arg("out"), py::arg("lse"),
        py::arg("tensors"), py::arg("scalars"), py::arg("needs"));
  m.def("explain_attention", &explain_attention, py::arg("tensors"), py::arg("scalars"), py::arg("backward"));
  define_linear(m);
  m.def("kernels", &kernels);
  m.def("cpu_isa", &cpu_isa);
  m.def("version", &version);
}

}  // namespace saccade::bindings
