#pragma once
#include "math/scalar.h"

namespace saccade::math {

/// σ(s) = 1/(1 + 2^−s₂). 2^−s₂ may overflow to infinity, which gives 0; small weights keep their relative accuracy,
/// which ½ + ½·tanh(s/2) does not. (Ramapuram et al., arXiv:2409.04431.)
struct Sigmoid {
  static constexpr double kUnit = kLog2e;
  static constexpr bool kRowState = false, kFlatAtZero = true;

  template <class V>
  static SACCADE_FN V weight(V s, V reference) {
    return rcp(V(1) + exp2(reference - s));
  }
  template <class V>
  static SACCADE_FN V grad(V, V w, V dw, V) {
    return w * (V(1) - w) * dw;
  }
};

}  // namespace saccade::math
