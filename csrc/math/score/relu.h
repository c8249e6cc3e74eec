#pragma once
#include "math/scalar.h"

namespace saccade::math {

/// max(s, 0); NaN stays.
struct Relu {
  static constexpr double kUnit = 1;
  static constexpr bool kRowState = false, kFlatAtZero = true;

  template <class V>
  static SACCADE_FN V weight(V s, V reference) {
    const V x = s - reference;
    return select(x < V(0), V(0), x);
  }
  template <class V>
  static SACCADE_FN V grad(V, V w, V dw, V) {
    return select(w == V(0), V(0), dw);
  }
};

}  // namespace saccade::math
