#pragma once
#include "math/scalar.h"

namespace saccade::math {

/// exp(s) normalised over the row. Scores and row references are in units of log2: s₂ = s·log2 e.
struct Softmax {
  static constexpr bool kRowState = true;    // a running maximum and sum per row
  static constexpr bool kNeedsDelta = true;  // the gradient needs δ = Σ_j w·dw

  /// `reference` is the running maximum (forward) or lse₂ (backward), finite.
  template <class V>
  static SACCADE_FN V weight(V s, V reference) {
    return exp2_bounded(s - reference);
  }
  /// ∂L/∂s from the weight, ∂L/∂weight and δ − ∂L/∂lse.
  template <class V>
  static SACCADE_FN V grad(V w, V dw, V delta) {
    return w * (dw - delta);
  }
};

}  // namespace saccade::math
