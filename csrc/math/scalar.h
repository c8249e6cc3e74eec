#pragma once
#include <math.h>

#include "math/fn.h"

// double's share of the operations that a V offers, and float's on a GPU.
namespace saccade::math {

SACCADE_FN double exp2(double x) { return ::exp2(x); }
SACCADE_FN double exp2_bounded(double x) { return ::exp2(x); }
SACCADE_FN double tanh(double x) { return ::tanh(x); }
SACCADE_FN double abs(double x) { return ::fabs(x); }
SACCADE_FN double rcp(double x) { return 1 / x; }
SACCADE_FN double select(bool yes, double a, double b) { return yes ? a : b; }

#if defined(__CUDACC__)
__device__ __forceinline__ float exp2(float x);  // one instruction each: cuda/ptx/special.cuh
__device__ __forceinline__ float exp2_bounded(float x);
__device__ __forceinline__ float rcp(float x);
__device__ __forceinline__ float tanh(float x) { return ::tanhf(x); }
__device__ __forceinline__ float abs(float x) { return ::fabsf(x); }
__device__ __forceinline__ float select(bool yes, float a, float b) { return yes ? a : b; }
#endif

}  // namespace saccade::math
