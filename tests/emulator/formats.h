#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

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

/// Of an f32 or f64. A NaN gives F::nan; what is too large gives infinity (or F::nan in a format without it), or with
/// `satfinite` F::max.
template <class F, Round R = Round::rn, bool satfinite = false, class V>
inline uint32_t encode(V value) {
  using B = std::conditional_t<sizeof(V) == 4, uint32_t, uint64_t>;
  constexpr int width = 8 * sizeof(V), digits = sizeof(V) == 4 ? 23 : 52, shift = digits - F::mantissa;
  constexpr B one = 1, magnitude = ~B{0} >> 1, infinity = magnitude >> digits << digits;
  constexpr B rebias = (sizeof(V) == 4 ? 127 : 1023) - F::bias;
  const auto less = [](B a, B b) {  // of what has no top bit: AVX2 compares signed numbers alone
    return static_cast<std::make_signed_t<B>>(a) < static_cast<std::make_signed_t<B>>(b);
  };
  const B bits = std::bit_cast<B>(value), x = bits & magnitude, sign = bits >> (width - 1);
  B kept = x, places = shift - 1;
  if constexpr (rebias != 0) {
    const bool normal = less(((rebias + 1) << digits) - 1, x);
    const B subnormal = (x & ((one << digits) - 1)) | (less((one << digits) - 1, x) ? one << digits : 0);
    kept = normal ? x - (rebias << digits) : subnormal;
    const B drop = shift + rebias - (x >> digits);
    places = normal ? shift - 1 : less(drop, width - 1) ? drop : width - 1;
  }
  const B more = kept >> places, half = more & 1;  // with the bit below the last
  const B rest = less(more << places, kept) ? 1 : 0;
  kept = more >> 1;
  if constexpr (R == Round::rn) kept += half & (rest | (kept & 1));
  if constexpr (R == Round::rna) kept += half;
  if constexpr (R == Round::rm) kept += (half | rest) & sign;
  if constexpr (R == Round::rp) kept += (half | rest) & (sign ^ 1);
  constexpr B beyond = satfinite ? F::max : F::infinity ? F::max + 1 : F::nan;
  B limit = beyond;  // of what is above F::max; rounding toward zero reaches infinity from itself alone
  if constexpr (R == Round::rz) limit = x == infinity ? beyond : F::max;
  if constexpr (R == Round::rm) limit = (x == infinity) | (sign != 0) ? beyond : F::max;
  if constexpr (R == Round::rp) limit = (x == infinity) | (sign == 0) ? beyond : F::max;
  kept = less(F::max, kept) ? limit : kept;
  kept |= sign << (F::exponent + F::mantissa);
  return static_cast<uint32_t>(less(infinity, x) ? B{F::nan} : kept);
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

/// A NaN stays one, −0 becomes 0.
template <class V>
inline V relu(V v) {
  return v > 0 ? v : v != v ? std::bit_cast<V>(~std::conditional_t < sizeof(V) == 4, uint32_t, uint64_t > {0} >> 1) : 0;
}

/// a + b rounded to odd: rounding the result again, to a format at least two bits narrower, is as good as rounding
/// once.
template <class V>
inline V add_odd(V a, V b) {
  using B = std::conditional_t<sizeof(V) == 4, uint32_t, uint64_t>;
  const V sum = a + b, part = sum - a, error = (a - (sum - part)) + (b - part);
  const B bits = std::bit_cast<B>(sum);
  const B inward = (std::bit_cast<B>(error) ^ bits) >> (8 * sizeof(V) - 1);  // 1: the exact sum lies toward zero
  const B step = (bits & 1) == 0 ? 1 - 2 * inward : 0;
  return std::bit_cast<V>(bits + (error < 0 ? step : error > 0 ? step : 0));  // a NaN: the sum is infinite or NaN
}

}  // namespace emu
