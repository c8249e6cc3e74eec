#pragma once
#include "saccade/attention.h"

namespace saccade::cpu {

/// Largest head_dim of the tiled kernels, of queries and of values: packed rows have this room.
constexpr int64_t kMaxHeadDim = 256;

}  // namespace saccade::cpu

// What each instruction set's translation units export to kernels.cpp.
#define SACCADE_DECLARE_ISA(isa)                                             \
  namespace saccade::cpu::isa {                                              \
  int64_t attention_workspace(const AttentionForward&, int threads);         \
  void attention(const AttentionForward&, const Context&, void* workspace);  \
  int64_t attention_workspace(const AttentionBackward&, int threads);        \
  void attention(const AttentionBackward&, const Context&, void* workspace); \
  }

#ifdef SACCADE_ISA
SACCADE_DECLARE_ISA(SACCADE_ISA)
#endif
