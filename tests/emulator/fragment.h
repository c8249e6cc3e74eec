#pragma once
#include <bit>
#include <cstdint>

#ifdef __FMA__
#include <immintrin.h>
#endif

#include "formats.h"

// Fragments of warp-wide matrices, m rows or n columns by k (PTX ISA, "Matrix Fragments for mma.*").
//
// Counted in words (32 bits; 64 for f64) every fragment lies alike: lane 4 g + t holds, in register r of a 16-row A,
// the word of row g + 8 (r & 1) and word column t + 4 (r >> 1); of an 8-row A or of B, that of row (B: column) g and
// word column t + 4 r. Elements of a word are consecutive along k. An accumulator's register i holds row g + 8 (i >>
// 1), column 2 t + (i & 1). So a register array, indexed by lane, is 8 rows of 4 words, and nothing is moved to get a
// matrix.
namespace emu::fragment {

/// Element types: how many a word has, and element e of it, exactly.
template <class Format>
struct Float {
  static constexpr int kBits = 1 + Format::exponent + Format::mantissa, kCount = 32 / kBits;
  static float get(uint32_t word, int e) { return decode<Format>(word >> kBits * e & ((1u << kBits) - 1)); }
};
template <>
struct Float<Tf32> {  // hardware ignores the low 13 bits
  static constexpr int kCount = 1;
  static float get(uint32_t word, int) { return std::bit_cast<float>(word & 0xffffe000u); }
};
template <int kBits, bool kSigned>
struct Integer {
  static constexpr int kCount = 32 / kBits;
  static float get(uint32_t word, int e) {
    const uint32_t top = word << (32 - kBits - kBits * e);
    return kSigned ? static_cast<float>(static_cast<int32_t>(top) >> (32 - kBits))
                   : static_cast<float>(static_cast<int32_t>(top >> (32 - kBits)));
  }
};

/// Element e of the lanes' words.
template <class Format, class Real>
inline void widen(const uint32_t* words, int e, Real* out) {
  for (int l = 0; l < 32; ++l) out[l] = Format::get(words[l], e);
}

/// B's register, 8 columns of 4 words, to 4 word rows of 8 columns, the even columns first: as an accumulator's two
/// registers of a row follow one another.
template <class Word>
inline void turn(const Word* in, Word* out) {
  for (int j = 0; j < 4; ++j) {
    for (int n = 0; n < 8; ++n) out[j * 8 + (n & 1) * 4 + (n >> 1)] = in[n * 4 + j];
  }
}

#ifdef __AVX__
#define EMU_VECTOR_BYTES 32
#else
#define EMU_VECTOR_BYTES 16
#endif
template <class Real>
struct Vector;
template <>
struct Vector<double> {
  using Type [[gnu::vector_size(EMU_VECTOR_BYTES), gnu::may_alias]] = double;
};
template <>
struct Vector<float> {
  using Type [[gnu::vector_size(EMU_VECTOR_BYTES), gnu::may_alias]] = float;
};
#undef EMU_VECTOR_BYTES

template <class Real>
inline void add_product(typename Vector<Real>::Type& sum, Real a, const typename Vector<Real>::Type& b) {
#ifdef __FMA__
  if constexpr (sizeof(Real) == 8)
    sum = _mm256_fmadd_pd(_mm256_set1_pd(a), b, sum);
  else
    sum = _mm256_fmadd_ps(_mm256_set1_ps(a), b, sum);
#else
  sum += a * b;  // only f64's products are inexact; there the second rounding is within any tolerance
#endif
}

/// c[row half][column parity][lane] += A B of kRows (8, 16) by k = kBlocks 4 kCount: a[e][register][lane] as widened,
/// b[e][register][4][8] as turned and widened. k runs with e slowest: the order of a sum is not defined.
template <class Real, int kRows, int kBlocks, int kCount>
inline void multiply(const Real (*a)[kBlocks * kRows / 8][32], const Real (*b)[kBlocks][32], Real (*c)[2][32]) {
  using V = typename Vector<Real>::Type;
  constexpr int kWidth = sizeof(V) / sizeof(Real), kParts = 8 / kWidth, kHalves = kRows / 8, kStep = 4;
  for (int half = 0; half < kHalves; ++half) {
    for (int m = 0; m < 8; m += kStep) {
      V sum[kStep][kParts];
      const auto at = [&](int i, int n) { return c[half][n / 4] + (m + i) * 4 + n % 4; };
#pragma GCC unroll 4
      for (int i = 0; i < kStep; ++i) {
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) {
          if constexpr (kWidth <= 4) {
            sum[i][p] = *reinterpret_cast<const V*>(at(i, p * kWidth));
          } else {
            const Real *even = at(i, 0), *odd = at(i, 4);
            sum[i][p] = V{even[0], even[1], even[2], even[3], odd[0], odd[1], odd[2], odd[3]};
          }
        }
      }
      for (int e = 0; e < kCount; ++e) {
        for (int block = 0; block < kBlocks; ++block) {
          const Real* lanes = a[e][block * kHalves + half] + m * 4;
          for (int j = 0; j < 4; ++j) {
            V column[kParts];
            for (int p = 0; p < kParts; ++p) column[p] = *reinterpret_cast<const V*>(b[e][block] + j * 8 + p * kWidth);
#pragma GCC unroll 4
            for (int i = 0; i < kStep; ++i) {
#pragma GCC unroll 4
              for (int p = 0; p < kParts; ++p) add_product<Real>(sum[i][p], lanes[i * 4 + j], column[p]);
            }
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < kStep; ++i) {
#pragma GCC unroll 4
        for (int n = 0; n < 8; n += kWidth < 4 ? kWidth : 4)
          __builtin_memcpy(at(i, n), reinterpret_cast<const Real*>(sum[i]) + n,
                           (kWidth < 4 ? kWidth : 4) * sizeof(Real));
      }
    }
  }
}

/// Rounds once. A NaN becomes hardware's canonical one. (No branch and no comparison of floats: these would not
/// vectorise.)
inline uint32_t to_f32(double x) {
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(x));
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fffffffu : bits;
}
inline uint32_t to_f16(double x) {
  constexpr int64_t kExponent = int64_t{0x7ff} << 52, kOverflow = int64_t{1023 + 16} << 52,
                    kNormal = int64_t{1023 - 14} << 52;
  const auto bits = std::bit_cast<int64_t>(x);
  const int64_t size = bits & INT64_MAX, bounded = size < kOverflow ? size : kOverflow;
  const int64_t binade = bounded & kExponent;
  // Adding 2^42 units of f16's last place (2^-10 of the binade, at least 2^-24) leaves no finer digits.
  const double shift = std::bit_cast<double>((binade > kNormal ? binade : kNormal) + (int64_t{42} << 52));
  const float rounded = static_cast<float>(std::bit_cast<double>(bounded) + shift - shift);
  const uint32_t half = std::bit_cast<uint32_t>(rounded * 0x1p-112f) >> 13;
  const uint32_t value = half | (static_cast<uint32_t>(bits >> 48) & 0x8000);
  return size > kExponent ? 0x7fffu : value;
}

}  // namespace emu::fragment
