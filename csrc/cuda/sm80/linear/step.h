#pragma once
#include "cuda/sm80/linear/scan.h"

namespace saccade::cuda {

/// One token of every head; rows of operands are (batch, head, column).
struct StepParams {
  Operand query, key, value, decay;
  View out, state;  // state (B, H, D, Dv), with normalize one column more
  int64_t batch;
  int32_t heads, dim, value_dim;
  float scale, epsilon;
  bool normalize, channels, wide;  // wide: rows of the state take 16-byte accesses
};

template <class T>
struct Step {
  static void launch(Queue&, const StepParams&);
};

}  // namespace saccade::cuda
