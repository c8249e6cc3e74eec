#include <torch/csrc/stable/library.h>

#include <string>

#include "bindings/torch/attention.h"
#include "bindings/torch/linear.h"
#include "saccade/kernels.h"

#define SACCADE_ATTENTION_ARGUMENTS                                                                                  \
  "Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? alibi_slopes, Tensor? temperature, Tensor? sinks, " \
  "Tensor? head_gate, Tensor? score_biases, Tensor? relative_keys, Tensor? relative_bias, Tensor? cu_seqlens_q, "    \
  "Tensor? cu_seqlens_k, str score, float scale, "                                                                   \
  "float softcap, float score_bias, bool causal, SymInt window_left, SymInt window_right, float dropout_p, "         \
  "SymInt seed, str kernel"

#define SACCADE_LINEAR_ARGUMENTS                                                                           \
  "Tensor query, Tensor key, Tensor value, Tensor? log_decay, Tensor? initial_state, Tensor? cu_seqlens, " \
  "float scale, bool normalize, float epsilon, str feature, bool causal, bool reverse, SymInt chunk, str kernel"
#define SACCADE_STEP_OPTIONS "float scale, bool normalize, float epsilon, str feature, str kernel"

namespace {

using torch::stable::detail::from;

void kernels(StableIValue* stack, uint64_t, uint64_t) {
  std::string text;
  for (const auto& k : saccade::list_kernels()) text += k.op + '\t' + k.name + '\t' + k.reason + '\n';
  stack[0] = from(text);
}

void cpu_isa(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(saccade::cpu_isa()); }

void version(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(saccade::version())); }

}  // namespace

STABLE_TORCH_LIBRARY(saccade, m) {
  m.def("attention(" SACCADE_ATTENTION_ARGUMENTS ") -> (Tensor out, Tensor lse)");
  m.def("attention_backward(Tensor dout, Tensor? dlse, Tensor? out, Tensor? lse, " SACCADE_ATTENTION_ARGUMENTS
        ", bool[8] needs) -> (Tensor dquery, Tensor dkey, Tensor dvalue, Tensor dbias, Tensor dalibi_slopes, "
        "Tensor dtemperature, Tensor dsinks, Tensor dhead_gate, Tensor dscore_biases, Tensor drelative_keys, "
        "Tensor drelative_bias)");
  m.def("explain_attention(" SACCADE_ATTENTION_ARGUMENTS ", bool backward) -> str");
  m.def("linear_attention(" SACCADE_LINEAR_ARGUMENTS ", bool return_state) -> (Tensor out, Tensor final_state)");
  m.def("linear_attention_backward(Tensor dout, Tensor? dfinal_state, Tensor? out, " SACCADE_LINEAR_ARGUMENTS
        ", bool[2] needs) -> (Tensor dquery, Tensor dkey, Tensor dvalue, Tensor dlog_decay, Tensor dinitial_state)");
  m.def(
      "linear_attention_step(Tensor query, Tensor key, Tensor value, Tensor? log_decay, Tensor(a!) "
      "state, " SACCADE_STEP_OPTIONS ") -> Tensor out");
  m.def("explain_linear_attention(" SACCADE_LINEAR_ARGUMENTS ", bool backward) -> str");
  m.def(
      "explain_linear_attention_step(Tensor query, Tensor key, Tensor value, Tensor? log_decay, Tensor "
      "state, " SACCADE_STEP_OPTIONS ") -> str");
  m.def("kernels() -> str");
  m.def("cpu_isa() -> str");
  m.def("version() -> str");
}

// Which device a kernel runs on is the core's to say; one registration serves both.
#define SACCADE_IMPLEMENT(op) m.impl(#op, saccade::bindings::op)
#define SACCADE_IMPLEMENT_ALL(m)                \
  SACCADE_IMPLEMENT(attention);                 \
  SACCADE_IMPLEMENT(attention_backward);        \
  SACCADE_IMPLEMENT(explain_attention);         \
  SACCADE_IMPLEMENT(linear_attention);          \
  SACCADE_IMPLEMENT(linear_attention_backward); \
  SACCADE_IMPLEMENT(linear_attention_step);     \
  SACCADE_IMPLEMENT(explain_linear_attention);  \
  SACCADE_IMPLEMENT(explain_linear_attention_step)

STABLE_TORCH_LIBRARY_IMPL(saccade, CPU, m) { SACCADE_IMPLEMENT_ALL(m); }
STABLE_TORCH_LIBRARY_IMPL(saccade, CUDA, m) { SACCADE_IMPLEMENT_ALL(m); }

STABLE_TORCH_LIBRARY_IMPL(saccade, CompositeExplicitAutograd, m) {
  m.impl("kernels", kernels);
  m.impl("cpu_isa", cpu_isa);
  m.impl("version", version);
}
