#pragma once
#include "saccade/linear.h"

// What each instruction set's translation units export to kernels.cpp.
#define SACCADE_DECLARE_LINEAR(isa)                                    \
  namespace saccade::cpu::isa {                                        \
  int64_t linear_workspace(const LinearForward&, int threads);         \
  void linear(const LinearForward&, const Context&, void* workspace);  \
  int64_t linear_workspace(const LinearBackward&, int threads);        \
  void linear(const LinearBackward&, const Context&, void* workspace); \
  int64_t linear_workspace(const LinearStep&, int threads);            \
  void linear(const LinearStep&, const Context&, void* workspace);     \
  }

#ifdef SACCADE_ISA
SACCADE_DECLARE_LINEAR(SACCADE_ISA)
#endif
