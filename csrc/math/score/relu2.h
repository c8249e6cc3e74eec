#pragma once
#include "math/scalar.h"

namespace saccade::math {

/// max(s, 0)²; NaN stays.
struct Relu2 {
  static constexpr double kUnit = 1;
  static constexpr bool kRowState = false, kFlatAtZero = true;

  template <class V>
  static SACCADE_FN V weight(V s, V reference) {
    const V x = s - reference;
    return select(x < V(0), V(0), x * x);
  }
  template <class V>
  static SACCADE_FN V grad(V x, V, V dw, V) {
    return select(x < V(0), V(0), V(2) * x * dw);
  }
};

}  // namespace saccade::math
