#pragma once
#include "cuda/attention/params.h"
#include "math/operand/float.h"

// The list of instances: operand types, score maps (with_score), head dims, and which maps have plain kernels.
namespace saccade::cuda {

template <int n>
struct Dim {
  static constexpr int value = n;
};

/// Has the map kernels of its own for scores that are scale·q·k? The others run their general ones.
template <class Score>
inline constexpr bool kPlain = false;
template <>
inline constexpr bool kPlain<math::Softmax> = true;
template <>
inline constexpr bool kPlain<math::Sigmoid> = true;

/// f(operand type) of a dtype that `size_refusal` let through.
template <class F>
auto with_operand(DType t, F f) {
  return t == DType::bf16 ? f(math::Bf16{}) : t == DType::f16 ? f(math::F16{}) : f(math::F32{});
}

/// f(operand type, score map) of a problem that `refusal` let through.
template <class F>
auto with_kernels(const AttentionProblem& p, F f) {
  return math::with_score(p.score.map, [&]<class Score>(Score score) {
    return with_operand(p.query.dtype, [&]<class T>(T operand) { return f(operand, score); });
  });
}

/// The head dims that kernels are compiled for: f(Dim) of the first that holds d, or both D and Dv.
template <class F>
auto with_dim(int d, F f) {
  return d <= 64 ? f(Dim<64>{}) : d <= 128 ? f(Dim<128>{}) : f(Dim<256>{});
}
template <class F>
auto with_dim(const Params& p, F f) {
  return with_dim(p.head_dim > p.value_dim ? p.head_dim : p.value_dim, f);
}

}  // namespace saccade::cuda
