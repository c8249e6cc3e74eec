#pragma once
#include "cuda/attention/params.h"

namespace saccade::cuda {

template <int n>
struct Dim {
  static constexpr int value = n;
};

/// The head dims that kernels are compiled for: f(Dim) of the first that holds both D and Dv.
template <class F>
auto with_dim(const Params& p, F f) {
  const int d = p.head_dim > p.value_dim ? p.head_dim : p.value_dim;
  return d <= 64 ? f(Dim<64>{}) : d <= 128 ? f(Dim<128>{}) : f(Dim<256>{});
}

}  // namespace saccade::cuda
