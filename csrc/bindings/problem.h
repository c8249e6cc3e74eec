#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "saccade/attention.h"
#include "saccade/error.h"

// What both bindings do around a call, on views alone: options into a problem, and the shapes and strides of what it
// returns.
namespace saccade::bindings {

/// The scalars of a call, in the order of the torch schema.
struct AttentionOptions {
  std::string score;
  double scale, softcap, score_bias;
  bool causal;
  int64_t window_left, window_right;
  double dropout_p;
  int64_t seed;  // the bits of a uint64
  std::string kernel;

  void apply(AttentionProblem& problem) const {
    const auto name = std::find(std::begin(kScoreMapNames), std::end(kScoreMapNames), score);
    if (name == std::end(kScoreMapNames))
      throw Error("attention: score: got \"" + score +
                  "\", wanted softmax, sigmoid, relu, relu2 or identity; choose a score map of this build");
    problem.score.map = static_cast<ScoreMap>(name - std::begin(kScoreMapNames));
    problem.score.score_bias = score_bias;
    problem.score.scale = scale;
    problem.score.softcap = softcap;
    problem.score.dropout_p = dropout_p;
    problem.score.seed = static_cast<uint64_t>(seed);
    problem.visit.causal = causal;
    problem.visit.window_left = window_left;
    problem.visit.window_right = window_right;
  }
};

/// The tensor arguments of a call, in the order of the torch schema.
constexpr std::array<const char*, 13> kOperandNames = {
    "query",     "key",          "value",         "bias",          "alibi_slopes", "temperature", "sinks",
    "head_gate", "score_biases", "relative_keys", "relative_bias", "cu_seqlens_q", "cu_seqlens_k"};
constexpr size_t kParameters = 8;  // of them, bias to relative_bias, have gradients

inline std::array<TensorView*, 13> operands(AttentionProblem& p) {
  return {&p.query,
          &p.key,
          &p.value,
          &p.score.bias,
          &p.score.alibi_slopes,
          &p.score.temperature,
          &p.score.sinks,
          &p.score.head_gate,
          &p.score.score_biases,
          &p.score.relative_keys,
          &p.score.relative_bias,
          &p.visit.cu_seqlens_q,
          &p.visit.cu_seqlens_k};
}

/// The error for an element type the core has no name for.
inline Error dtype_error(const char* op, const char* name, const std::string& got) {
  const bool index = std::string(name).starts_with("cu_seqlens");
  return Error(std::string(op) + ": " + name + ": got dtype " + got + ", wanted " +
               (index ? "int32" : "float32, bfloat16, float16 or float64") + "; convert it first");
}

/// The error for more dimensions than a view holds.
inline Error rank_error(const char* op, const char* name, int64_t got) {
  return Error(std::string(op) + ": " + name + ": got " + std::to_string(got) + " dimensions, wanted at most " +
               std::to_string(TensorView::kMaxRank) + "; reshape it first");
}

/// Dense strides for t's shape in the order of t's strides, the last dimension innermost. With a zero stride among them
/// there is no order to keep, and the result is C-contiguous. The fake kernels (python/saccade/_torch.py) follow the
/// same rule.
inline TensorView dense_like(const TensorView& t) {
  TensorView out = t;
  out.data = nullptr;
  std::array<int, TensorView::kMaxRank> order = {0, 1, 2, 3, 4, 5};
  if (t.rank > 2 && std::none_of(t.stride, t.stride + t.rank - 1, [](int64_t s) { return s == 0; }))
    std::stable_sort(order.begin(), order.begin() + t.rank - 1,
                     [&](int a, int b) { return std::abs(t.stride[a]) > std::abs(t.stride[b]); });
  int64_t step = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    const int d = order[i];
    out.stride[d] = step;
    step *= std::max<int64_t>(out.shape[d], 1);
  }
  return out;
}

/// C-contiguous strides; those of an empty tensor are torch's (sizes of 0 count as 1).
inline TensorView contiguous(DType dtype, int rank, const int64_t* shape) {
  return dense_like(contiguous_view(nullptr, dtype, rank, shape));
}

/// Gives p.out and p.lse shape, strides and type; their data is the host's to allocate.
inline void shape_outputs(AttentionForward& p) {
  TensorView like = p.query;
  const int last = like.rank - 1;
  if (last >= 0 && p.value.rank > 0) like.shape[last] = p.value.shape[p.value.rank - 1];
  p.out = dense_like(like);
  if (normalises(p.score.map))
    p.lse = contiguous(p.query.dtype == DType::f64 ? DType::f64 : DType::f32, std::max(last, 0), p.query.shape);
}

/// The same for the gradients; `needs`: bias, alibi_slopes, temperature, sinks, head_gate,
/// score_biases, relative_keys, relative_bias.
inline void shape_gradients(AttentionBackward& p, const std::array<bool, kParameters>& needs) {
  p.dquery = dense_like(p.query);
  p.dkey = dense_like(p.key);
  p.dvalue = dense_like(p.value);
  const std::array<const TensorView*, kParameters> of = {
      &p.score.bias,      &p.score.alibi_slopes, &p.score.temperature,   &p.score.sinks,
      &p.score.head_gate, &p.score.score_biases, &p.score.relative_keys, &p.score.relative_bias};
  const std::array<TensorView*, kParameters> to = {&p.dbias,          &p.dalibi_slopes, &p.dtemperature,
                                                   &p.dsinks,         &p.dhead_gate,    &p.dscore_biases,
                                                   &p.drelative_keys, &p.drelative_bias};
  for (size_t i = 0; i < kParameters; ++i)
    if (needs[i] && *of[i]) *to[i] = contiguous(of[i]->dtype, of[i]->rank, of[i]->shape);
}

inline std::array<TensorView*, 3 + kParameters> gradients(AttentionBackward& p) {
  return {&p.dquery, &p.dkey,       &p.dvalue,        &p.dbias,          &p.dalibi_slopes, &p.dtemperature,
          &p.dsinks, &p.dhead_gate, &p.dscore_biases, &p.drelative_keys, &p.drelative_bias};
}

/// The candidates for a problem given without its outputs; explaining reads no data, so all of them may lie in one
/// place.
inline std::vector<Candidate> explain_inputs(const AttentionProblem& inputs, bool backward, const Context& context) {
  static double place;
  AttentionForward forward;
  static_cast<AttentionProblem&>(forward) = inputs;
  shape_outputs(forward);
  forward.out.data = forward.lse.data = &place;
  if (!backward) return explain(forward, context);
  AttentionBackward problem;
  static_cast<AttentionProblem&>(problem) = inputs;
  problem.dout = forward.out;
  if (normalises(inputs.score.map)) problem.out = forward.out, problem.lse = forward.lse;
  shape_gradients(problem, {inputs.score.bias.dtype != DType::boolean, true, true, true, true, true, true, true});
  for (TensorView* gradient : gradients(problem)) gradient->data = &place;
  return explain(problem, context);
}

constexpr int64_t kWorkspaceAlignment = 64;  // bytes, as saccade/attention.h asks

inline void* align(void* p) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(p) + kWorkspaceAlignment - 1) &
                                 ~uintptr_t(kWorkspaceAlignment - 1));
}

}  // namespace saccade::bindings
