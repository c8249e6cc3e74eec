#pragma once
#include "cuda/attention/params.h"
#include "cuda/launch.h"

// Main loops copy rows 16 bytes at a time, so every row must be contiguous and begin at a multiple of 16 bytes.
// Operands that do not are copied into the workspace first, B·H·N rows of D rounded up to 16 bytes.
namespace saccade::cuda {

/// Bump allocation over the caller's workspace; with a null base it only measures.
struct Arena {
  char* base;
  int64_t used = 0;

  template <class X>
  X* take(int64_t count) {
    char* at = base ? base + used : nullptr;
    used += (count * static_cast<int64_t>(sizeof(X)) + 63) / 64 * 64;
    return reinterpret_cast<X*>(at);
  }
};

/// Are all rows of `t` whole and 16-byte aligned?
bool rows_aligned(const TensorView& t);

/// The rows of `t`, (B, H, N, D) or (T, H, D), where main loops may read them; a copy is launched if they are not
/// aligned. Without a queue only the workspace is measured.
View aligned_rows(const TensorView& t, bool packed, Arena& arena, Queue* queue);

}  // namespace saccade::cuda
