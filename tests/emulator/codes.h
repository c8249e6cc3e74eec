#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>

#include "test.h"

// Number formats by their definition, for expected values: what a code of each type is worth. Shares nothing with the
// emulator's formats.h.
namespace test {

enum class Type { b1, s4, u4, s8, u8, e4m3, e5m2, f16, bf16, tf32, f32, s32, f64 };

inline int bits_of(Type t) {
  switch (t) {
    case Type::b1:
      return 1;
    case Type::s4:
    case Type::u4:
      return 4;
    case Type::s8:
    case Type::u8:
    case Type::e4m3:
    case Type::e5m2:
      return 8;
    case Type::f16:
    case Type::bf16:
      return 16;
    case Type::f64:
      return 64;
    default:
      return 32;
  }
}

struct Fields {
  int exponent, mantissa;
};
inline Fields fields(Type t) {
  switch (t) {
    case Type::e4m3:
      return {4, 3};
    case Type::e5m2:
      return {5, 2};
    case Type::f16:
      return {5, 10};
    case Type::bf16:
      return {8, 7};
    default:
      return {8, 10};  // tf32
  }
}
inline long double value(Type t, uint64_t code) {
  switch (t) {
    case Type::b1:
    case Type::u4:
    case Type::u8:
      return code;
    case Type::s4:
      return code >= 8 ? static_cast<int>(code) - 16 : static_cast<int>(code);
    case Type::s8:
      return static_cast<int8_t>(code);
    case Type::s32:
      return static_cast<int32_t>(code);
    case Type::f32: {
      float v;
      std::memcpy(&v, &code, sizeof v);
      return v;
    }
    case Type::f64: {
      double v;
      std::memcpy(&v, &code, sizeof v);
      return v;
    }
    default:
      break;
  }
  if (t == Type::tf32) code >>= 13;
  const auto [e, m] = fields(t);
  const int exponent = static_cast<int>(code >> m) & ((1 << e) - 1), bias = (1 << (e - 1)) - 1;
  const long double fraction = code & ((1u << m) - 1), sign = code >> (e + m) & 1 ? -1 : 1;
  if (t == Type::e4m3) {
    if ((code & 0x7f) == 0x7f) return NAN;
  } else if (exponent == (1 << e) - 1) {
    return fraction != 0 ? NAN : sign * INFINITY;
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - m);
  return sign * std::ldexp(fraction + (1 << m), exponent - bias - m);
}
inline uint64_t code_of(Type t, int v) {  // small integers
  if (t == Type::f32 || t == Type::tf32) {
    const float x = static_cast<float>(v);
    uint32_t code;
    std::memcpy(&code, &x, sizeof code);
    return code;
  }
  if (t == Type::f64) {
    const double x = v;
    uint64_t code;
    std::memcpy(&code, &x, sizeof code);
    return code;
  }
  if (t == Type::s32) return static_cast<uint32_t>(v);
  static std::map<std::pair<Type, int>, uint64_t> known;
  const auto [it, fresh] = known.try_emplace({t, v}, 0);
  for (uint64_t code = 0; fresh && code < uint64_t{1} << bits_of(t); ++code) {
    if (value(t, code) == v) {
      it->second = code;
      break;
    }
  }
  EXPECT_EQ(value(t, it->second), v);
  return it->second;
}

/// Distance from a value to its neighbours in a format.
inline long double unit(Type t, long double v) {
  int digits = 11, least = -24;  // f16
  if (t == Type::f32) digits = 24, least = -149;
  if (t == Type::f64) digits = 53, least = -1074;
  return std::ldexp(1.0L, std::max(v == 0 ? least : std::ilogb(v) + 1 - digits, least));
}

/// A code with an exponent from −5 to 3, or of a subnormal.
inline uint64_t random_code(Type t, std::mt19937& rng, bool subnormal = false) {
  if (t == Type::f32 || t == Type::f64) {
    const double v = std::uniform_real_distribution<double>(-8, 8)(rng);
    const auto single = static_cast<float>(v);
    uint64_t code = 0;
    t == Type::f64 ? std::memcpy(&code, &v, 8) : std::memcpy(&code, &single, 4);
    return code;
  }
  const auto [e, m] = fields(t);
  const int exponent = subnormal ? 0 : (1 << (e - 1)) - 1 + std::uniform_int_distribution<int>(-5, 3)(rng);
  uint64_t code =
      (rng() & ((1u << m) - 1)) | static_cast<uint64_t>(exponent) << m | static_cast<uint64_t>(rng() & 1) << (e + m);
  if (t == Type::tf32) code = code << 13 | (rng() & 0x1fff);  // what must be ignored
  return code;
}

}  // namespace test
