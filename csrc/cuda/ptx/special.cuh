#pragma once
#include "math/scalar.h"

namespace saccade::math {

/// Relative error 2^-22; −inf gives 0, results below 2^-126 are 0.
__device__ __forceinline__ float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float exp2_bounded(float x) { return exp2(x); }

/// Relative error 2^-23; +inf gives 0, results below 2^-126 are 0.
__device__ __forceinline__ float rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace saccade::math
