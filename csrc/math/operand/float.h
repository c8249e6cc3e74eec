#pragma once
#include "math/fn.h"

// Floating-point operands: how a stored element becomes a number and back. Vector forms: cpu/vec/convert.h.
namespace saccade::math {

template <class To, class From>
SACCADE_FN To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  __builtin_memcpy(&y, &x, sizeof(To));
  return y;
}

struct F64 {
  using Storage = double;
  static SACCADE_FN double load(Storage x) { return x; }
  static SACCADE_FN Storage store(double x) { return x; }
};

struct F32 {
  using Storage = float;
  static SACCADE_FN float load(Storage x) { return x; }
  static SACCADE_FN Storage store(float x) { return x; }
};

struct Bf16 {
  struct Storage {
    uint16_t bits;
  };
  static SACCADE_FN float load(Storage x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
  /// Nearest, ties to even; NaN stays a quiet NaN.
  static SACCADE_FN Storage store(float x) {
    const uint32_t u = bit_cast<uint32_t>(x);
    if (x != x) return {static_cast<uint16_t>((u >> 16) | 0x40)};
    return {static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16)};
  }
};

struct F16 {
  struct Storage {
    uint16_t bits;
  };
  static SACCADE_FN float load(Storage x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7FFF;
    if (rest >= 0x7C00) return bit_cast<float>(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    // Moving the exponent by a product makes subnormals come out right: 2^112 = 2^(127−15).
    return bit_cast<float>(sign | bit_cast<uint32_t>(bit_cast<float>(rest << 13) * 0x1p112f));
  }
  /// Nearest, ties to even; overflow gives infinity, NaN a quiet NaN.
  static SACCADE_FN Storage store(float x) {
    const uint32_t u = bit_cast<uint32_t>(x), sign = u >> 16 & 0x8000, mag = u & 0x7FFFFFFF;
    if (mag > 0x7F800000) return {static_cast<uint16_t>(sign | 0x7E00)};
    if (mag >= 0x477FF000) return {static_cast<uint16_t>(sign | 0x7C00)};
    if (mag < 0x38800000)  // below 2^-14: adding ½ puts the 2^-24 grid at the end of the significand
      return {static_cast<uint16_t>(sign | (bit_cast<uint32_t>(bit_cast<float>(mag) + 0.5f) - 0x3F000000))};
    return {static_cast<uint16_t>(sign | ((mag + 0xFFF + (mag >> 13 & 1) - 0x38000000) >> 13))};
  }
};

}  // namespace saccade::math
