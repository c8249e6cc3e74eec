#pragma once
#include <string>

#include "saccade/attention.h"
#include "saccade/linear.h"

namespace saccade {

/// Every rule of a public problem, once; throws Error. Returns the problem as kernels get it: bias, alibi_slopes,
/// temperature, head_gate and their gradients at full rank, with stride 0 along axes of size 1. Shapes then are bias
/// (B|1, Hq|1, Nq|1, Nk|1), alibi_slopes (B|1, Hq), temperature and head_gate (B|1, Hq|1, Nq|1), packed (Tq|1, Hq|1).
AttentionForward check(AttentionForward problem);
AttentionBackward check(AttentionBackward problem);

/// log_decay and its gradient come back as (B|1, H, N|1, D|1), packed (T|1, H, D|1), of a step (B|1, H, D|1).
LinearForward check(LinearForward problem);
LinearBackward check(LinearBackward problem);
LinearStep check(LinearStep problem);

/// Shapes, dtypes and options in one line, for messages.
std::string describe(const AttentionProblem& problem);
std::string describe(const LinearProblem& problem);
std::string describe(const LinearStep& problem);

}  // namespace saccade
