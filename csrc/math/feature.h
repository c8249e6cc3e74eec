#pragma once
#include "math/fn.h"

// Features φ with φ(q)·φ(k) = 1 + s + s²/2, s = scale·q·k: 1, x_m, and x_m·x_n for m ≤ n, row by row of the upper
// triangle, each order with a factor (Arora et al., arXiv:2402.18668).
namespace saccade::math {

struct Taylor2 {
  float first, square, cross;  // factors of x_m, x_m², x_m·x_n

  static constexpr Taylor2 of_key() { return {1, 1, 1}; }
  static constexpr Taylor2 of_query(float scale) { return {scale, scale * scale / 2, scale * scale}; }

  /// to = φ(x), 1 + d + d(d + 1)/2 numbers.
  SACCADE_FN void expand(const float* x, int64_t d, float* to) const {
    *to++ = 1;
    for (int64_t m = 0; m < d; ++m) to[m] = first * x[m];
    to += d;
    for (int64_t m = 0; m < d; to += d - m, ++m) {
      const float f = cross * x[m];
      to[0] = square * x[m] * x[m];
      for (int64_t n = m + 1; n < d; ++n) to[n - m] = f * x[n];
    }
  }

  /// to = ∂L/∂x, d numbers, of g = ∂L/∂φ(x).
  SACCADE_FN void contract(const float* g, const float* x, int64_t d, float* to) const {
    ++g;
    for (int64_t m = 0; m < d; ++m) to[m] = first * g[m];
    g += d;
    for (int64_t m = 0; m < d; g += d - m, ++m) {
      const float f = cross * x[m];
      float sum = 2 * square * g[0] * x[m];
      for (int64_t n = m + 1; n < d; ++n) {
        sum += cross * g[n - m] * x[n];
        to[n] += f * g[n - m];
      }
      to[m] += sum;
    }
  }
};

}  // namespace saccade::math
