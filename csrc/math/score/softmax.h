#pragma once
#include "math/scalar.h"

// A score map turns a score s into a weight, given one number of the row or head, `reference`. Invisible pairs have
// s = −inf and must get weight 0. Each header of this folder offers one as a type with
//   kUnit         scores and references come multiplied by it (log2 e for maps that exponentiate)
//   kRowState     does the row need a running maximum and sum? If not, `reference` is −(score bias of the head)
//   kFlatAtZero   is the derivative 0 wherever the weight is 0?
//   weight(s, reference) and grad(s − reference, w, ∂L/∂w, δ − ∂L/∂lse) = ∂L/∂s, with ∂/∂s per natural unit
namespace saccade::math {

/// exp(s) normalised over the row; `reference` is the running maximum (forward) or lse (backward), finite.
struct Softmax {
  static constexpr double kUnit = kLog2e;
  static constexpr bool kRowState = true, kFlatAtZero = true;

  template <class V>
  static SACCADE_FN V weight(V s, V reference) {
    return exp2_bounded(s - reference);
  }
  template <class V>
  static SACCADE_FN V grad(V, V w, V dw, V delta) {
    return w * (dw - delta);
  }
};

}  // namespace saccade::math
