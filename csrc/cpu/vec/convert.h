#pragma once
#include "cpu/vec/vec.h"
#include "math/operand/float.h"
#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

// Vectors of stored elements to fp32 and back, bit-equal to math/operand/float.h.
namespace saccade::cpu::SACCADE_ISA {
namespace {

typedef uint16_t vh __attribute__((vector_size(kWidth * 2)));
typedef uint16_t vh_unaligned __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

template <class T>
struct Convert;

template <>
struct Convert<math::F32> {
  static SACCADE_FN Vec load(const float* p) { return Vec::load(p); }
  static SACCADE_FN void store(float* p, Vec x) { x.store(p); }
};

template <>
struct Convert<math::Bf16> {
  static SACCADE_FN Vec load(const math::Bf16::Storage* p) {
    const vh bits = *reinterpret_cast<const vh_unaligned*>(p);
    return (vf)(__builtin_convertvector(bits, vu) << 16);
  }
  static SACCADE_FN void store(math::Bf16::Storage* p, Vec x) {
    const vu u = (vu)x.v, rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
    const vu nan = (u >> 16) | 0x40;
    const vu bits = (vu)select(x.v == x.v, Vec((vf)rounded), Vec((vf)nan)).v;
    *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector(bits, vh);
  }
};

template <>
struct Convert<math::F16> {
  using Storage = math::F16::Storage;
#if defined(__AVX512F__)
  static SACCADE_FN Vec load(const Storage* p) {
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static SACCADE_FN void store(Storage* p, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)x.v, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__)
  static SACCADE_FN Vec load(const Storage* p) {
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static SACCADE_FN void store(Storage* p, Vec x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x.v, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__ARM_NEON)
  static SACCADE_FN Vec load(const Storage* p) {
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
  }
  static SACCADE_FN void store(Storage* p, Vec x) {
    vst1_u16(reinterpret_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x.v)));
  }
#else
  static SACCADE_FN Vec load(const Storage* p) {
    vf r;
    for (int i = 0; i < kWidth; ++i) r[i] = math::F16::load(p[i]);
    return r;
  }
  static SACCADE_FN void store(Storage* p, Vec x) {
    for (int i = 0; i < kWidth; ++i) p[i] = math::F16::store(x.v[i]);
  }
#endif
};

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
