#pragma once
#include <stdint.h>

// The axes are compiled by g++ (once per instruction set) and by nvcc. Everything here is inlined, so no symbol carries
// one instruction set's code into another's path.
#if defined(__CUDACC__)
#define SACCADE_FN __host__ __device__ __forceinline__
#define SACCADE_UNROLL _Pragma("unroll")
#else
#define SACCADE_FN inline __attribute__((always_inline))
#define SACCADE_UNROLL _Pragma("GCC unroll 16")
#endif

// A value type V is double (reference) or a vector (cpu/vec/vec.h). It offers + − * /, V(float) and, found by
// argument-dependent lookup or in scalar.h: exp2, exp2_bounded (x < 128 is promised), tanh, abs, rcp (x ≥ 1),
// select.
namespace saccade::math {

inline constexpr double kLog2e = 1.4426950408889634;
inline constexpr double kLn2 = 0.6931471805599453;

}  // namespace saccade::math
