#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

// The .approx functions in double, to about 1e-13, without branches or calls so that loops over lanes vectorise. A
// NaN's result is not a NaN of use: the callers put it right.
namespace emu {

inline double exp2_double(double x) {
  constexpr double kShift = 0x1.8p52;  // adding it rounds to an integer, which the lower bits then hold
  x = std::clamp(x, -1000.0, 1000.0);
  const double shifted = x + kShift, f = (x - (shifted - kShift)) * 0x1.62e42fefa39efp-1;
  const double scale = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  double p = 1.0 / 39916800;  // e^f, |f| <= ln 2 / 2
  p = p * f + 1.0 / 3628800;
  p = p * f + 1.0 / 362880;
  p = p * f + 1.0 / 40320;
  p = p * f + 1.0 / 5040;
  p = p * f + 1.0 / 720;
  p = p * f + 1.0 / 120;
  p = p * f + 1.0 / 24;
  p = p * f + 1.0 / 6;
  p = p * f + 0.5;
  p = p * f + 1.0;
  p = p * f + 1.0;
  return p * scale;
}

/// Of a positive normal double.
inline double log2_double(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  constexpr uint64_t kRootHalf = 0x3fe6a09e667f3bcd;
  const uint64_t offset = (bits - kRootHalf) & 0xfff0000000000000;  // the exponent that leaves sqrt(1/2) … sqrt(2)
  const double m = std::bit_cast<double>(bits - offset);
  // its value: the shifted integer in the lower bits of 1.5 · 2^52
  const double exponent = std::bit_cast<double>(0x4338000000000000 + (((offset >> 52) ^ 0x800) - 0x800)) - 0x1.8p52;
  const double s = (m - 1) / (m + 1), t = s * s;
  double p = 1.0 / 17;
  p = p * t + 1.0 / 15;
  p = p * t + 1.0 / 13;
  p = p * t + 1.0 / 11;
  p = p * t + 1.0 / 9;
  p = p * t + 1.0 / 7;
  p = p * t + 1.0 / 5;
  p = p * t + 1.0 / 3;
  p = p * t + 1.0;
  return exponent + 2 * s * p * 0x1.71547652b82fep+0;
}

inline double tanh_double(double x) {
  const double e = exp2_double(x * 0x1.71547652b82fep+1), t = x * x;  // e^2x
  const double far = 1 - 2 / (e + 1), near = x * (1 - t * (1.0 / 3 - t * (2.0 / 15 - t * (17.0 / 315))));
  return t < 0x1p-10 ? near : far;
}

}  // namespace emu
