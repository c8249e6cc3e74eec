#pragma once
#include "math/scalar.h"

// Terms between q·k and the score. They are linear in the unit of the score, so all may be used in log2 units.
namespace saccade::math {

template <class V>
SACCADE_FN V softcap(V x, V cap) {
  return cap * tanh(x / cap);
}

/// d softcap / dx, from the capped value.
template <class V>
SACCADE_FN V softcap_grad(V capped, V cap) {
  V t = capped / cap;
  return V(1) - t * t;
}

/// ALiBi with the full distance |p_i − j|.
template <class V>
SACCADE_FN V alibi(V s, V slope, V distance) {
  return s - slope * abs(distance);
}

}  // namespace saccade::math
