#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

// The narrow floating-point formats of PTX, to and from f32, without branches so that loops over lanes vectorise.
namespace emu {

enum class Round : uint8_t { rn, rz, rm, rp, rna };

template <int Exponent, int Mantissa, bool Infinity, uint32_t Max, uint32_t Nan>
struct Format {
  static constexpr int exponent = Exponent, mantissa = Mantissa, bias = (1 << (Exponent - 1)) - 1;
  static constexpr bool infinity = Infinity;
  static constexpr uint32_t max = Max, nan = Nan;  // the largest finite value; what a NaN becomes
};
using F16 = Format<5, 10, true, 0x7bff, 0x7fff>;
using Bf16 = Format<8, 7, true, 0x7f7f, 0x7fff>;
using Tf32 = Format<8, 10, true, 0x3fbff, 0x3ffff>;  // the upper 19 bits of an f32
using E4m3 = Format<4, 3, false, 0x7e, 0x7f>;
using E5m2 = Format<5, 2, true, 0x7b, 0x7f>;
using E2m3 = Format<2, 3, false, 0x1f, 0x1f>;  // no NaN: it becomes the largest value, as do the next two's
using E3m2 = Format<3, 2, false, 0x1f, 0x1f>;
using E2m1 = Format<2, 1, false, 0x7, 0x7>;

template <class F>
inline float decode(uint32_t v) {
  constexpr int shift = 23 - F::mantissa;
  constexpr uint32_t sign_bit = 1u << (F::exponent + F::mantissa);
  const uint32_t magnitude = v & (sign_bit - 1), sign = (v & sign_bit) << (31 - F::exponent - F::mantissa);
  if constexpr (F::exponent == 8) return std::bit_cast<float>(magnitude << shift | sign);
  // the exponent's bias is put right by a product, which normalises subnormals too
  const float scaled = std::bit_cast<float>(magnitude << shift) * std::bit_cast<float>((254u - F::bias) << 23);
  uint32_t out = std::bit_cast<uint32_t>(scaled);
  if constexpr (F::infinity)
    out = magnitude >= (sign_bit - 1) >> F::mantissa << F::mantissa ? 0x7f800000 | magnitude << shift : out;
  if constexpr (F::nan == 0x7f && !F::infinity) out = magnitude == F::nan ? 0x7fffffff : out;
  return std::bit_cast<float>(out | sign);
}

/// A NaN gives F::nan; what is too large gives infinity (or F::nan in a format without it), or with `satfinite` F::max.
template <class F, Round R = Round::rn, bool satfinite = false>
inline uint32_t encode(float value) {
  constexpr int shift = 23 - F::mantissa;
  constexpr uint32_t rebias = 127 - F::bias;
  const uint32_t bits = std::bit_cast<uint32_t>(value), x = bits & 0x7fffffff, sign = bits >> 31;
  const bool normal = F::exponent == 8 || x >= (rebias + 1) << 23;
  const uint32_t digits =
      normal ? x - (F::exponent == 8 ? 0 : rebias << 23) : (x & 0x7fffff) | (x >= 0x800000 ? 0x800000u : 0u);
  const uint32_t places = normal ? shift : std::min(31u, shift + rebias + 1 - (x >> 23));
  const uint32_t kept = digits >> places, rest = digits & ((1u << places) - 1), half = 1u << (places - 1);
  uint32_t up = 0;
  if constexpr (R == Round::rn) up = rest > half - (kept & 1);
  if constexpr (R == Round::rna) up = rest >= half;
  if constexpr (R == Round::rm) up = (rest != 0) & sign;
  if constexpr (R == Round::rp) up = (rest != 0) & (sign ^ 1);
  uint32_t out = kept + up;
  constexpr bool nearest = R == Round::rn || R == Round::rna;
  const bool to_infinity = nearest || x == 0x7f800000 || (R == Round::rm && sign != 0) || (R == Round::rp && sign == 0);
  const uint32_t beyond = satfinite || !to_infinity ? F::max : F::infinity ? F::max + 1 : F::nan;
  out = out > F::max ? beyond : out;
  out |= sign << (F::exponent + F::mantissa);
  return x > 0x7f800000 ? F::nan : out;
}

template <Round R = Round::rn, bool satfinite = false>
inline uint32_t encode_tf32(float value) {  // an f32 whose lower 13 bits are zero, except the canonical NaN
  const uint32_t out = encode<Tf32, R, satfinite>(value) << 13;
  return value != value ? 0x7fffffff : out;
}
/// Scale 2^(v - 127), 255: NaN. Encoding: rz or rp of the magnitude.
inline float decode_ue8m0(uint32_t v) {
  return std::bit_cast<float>(v == 255 ? 0x7fffffffu : v == 0 ? 0x00400000u : v << 23);
}
template <Round R, bool satfinite = false>
inline uint32_t encode_ue8m0(float value) {
  const uint32_t x = std::bit_cast<uint32_t>(value) & 0x7fffffff;
  const uint32_t tiny = x < 0x800000 ? (R == Round::rp && x > 0x400000) : 0;
  const uint32_t out = x < 0x800000 ? tiny : (x >> 23) + (R == Round::rp && (x & 0x7fffff) != 0);
  return x > 0x7f800000 ? 255 : satfinite ? std::min(out, 254u) : out;
}

inline float relu(float v) {  // a NaN stays one, −0 becomes 0
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  return std::bit_cast<float>(v != v ? 0x7fffffff : bits >> 31 ? 0 : bits);
}

/// Rounded to odd: rounding the result again, to a format at least two bits narrower, is as good as rounding `v` once.
inline float round_odd(double v) {
  const float near = static_cast<float>(v);
  const double back = near;
  uint32_t bits = std::bit_cast<uint32_t>(near);
  const double far = back < 0 ? -back : back, exact = v < 0 ? -v : v;
  const bool inexact = (far < exact) | (far > exact);
  bits += inexact & ((bits & 1) == 0) ? (far > exact ? -1u : 1u) : 0u;
  return std::bit_cast<float>(bits);
}
/// a + b rounded to odd.
inline double add_odd(double a, double b) {
  const double sum = a + b, part = sum - a, error = (a - (sum - part)) + (b - part);
  uint64_t bits = std::bit_cast<uint64_t>(sum);
  const bool inexact = (error < 0) | (error > 0);
  bits += inexact & ((bits & 1) == 0) ? ((error > 0) == (sum > 0) ? uint64_t{1} : ~uint64_t{0}) : uint64_t{0};
  return std::bit_cast<double>(bits);
}

}  // namespace emu
