#pragma once
#include "cuda/attention/params.h"
#include "math/operand/float.h"

namespace saccade::cuda {

template <int n>
struct Dim {
  static constexpr int value = n;
};

/// The head dims that kernels are compiled for: f(Dim) of the first that holds d, or both D and Dv.
template <class F>
auto with_dim(int d, F f) {
  return d <= 64 ? f(Dim<64>{}) : d <= 128 ? f(Dim<128>{}) : f(Dim<256>{});
}
template <class F>
auto with_dim(const Params& p, F f) {
  return with_dim(p.head_dim > p.value_dim ? p.head_dim : p.value_dim, f);
}

/// f(operand type) of a dtype that `refusal` let through.
template <class F>
auto with_operand(DType t, F f) {
  return t == DType::bf16 ? f(math::Bf16{}) : t == DType::f16 ? f(math::F16{}) : f(math::F32{});
}

}  // namespace saccade::cuda
