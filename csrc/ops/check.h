#pragma once
#include <string>

#include "saccade/attention.h"

namespace saccade {

/// Every rule of a public problem, once; throws Error. Returns the problem as kernels get it: bias, alibi_slopes,
/// temperature, head_gate and their gradients at full rank, with stride 0 along axes of size 1. Shapes then are bias
/// (B|1, Hq|1, Nq|1, Nk|1), alibi_slopes (B|1, Hq), temperature and head_gate (B|1, Hq|1, Nq|1), packed (Tq|1, Hq|1).
AttentionForward check(AttentionForward problem);
AttentionBackward check(AttentionBackward problem);

/// Shapes, dtypes and options in one line, for messages.
std::string describe(const AttentionProblem& problem);

/// "cpu" or "cuda:0".
std::string device_text(const TensorView& tensor);

}  // namespace saccade
