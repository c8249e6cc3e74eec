#pragma once
#include "cpu/vec/vec.h"
#include "math/philox.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace saccade::cpu::SACCADE_ISA {
namespace {

/// A vector of 32-bit words for counter-based random numbers.
struct Word {
  vu v;
  Word() = default;
  SACCADE_FN Word(vu x) : v(x) {}
  SACCADE_FN Word(uint32_t x) : v(x - vu{}) {}
};
SACCADE_FN Word operator^(Word a, Word b) { return a.v ^ b.v; }
SACCADE_FN Word operator*(Word a, Word b) { return a.v * b.v; }

/// High halves of the lane products. gcc 12 does not find the widening multiply by itself, hence even and odd lanes by
/// hand.
SACCADE_FN Word mulhi(Word a, Word b) {
#if defined(__AVX512F__)
  const __m512i x = (__m512i)a.v, y = (__m512i)b.v;
  const __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(x, y), 32);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32));
  return (vu)_mm512_mask_blend_epi32(0xAAAA, even, odd);
#elif defined(__AVX2__)
  const __m256i x = (__m256i)a.v, y = (__m256i)b.v;
  const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(x, y), 32);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32));
  return (vu)_mm256_blend_epi32(even, odd, 0xAA);
#else
  vu r;
  for (int i = 0; i < kWidth; ++i) r[i] = math::mulhi(a.v[i], b.v[i]);
  return r;
#endif
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
