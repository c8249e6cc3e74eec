#pragma once
#include "kernel.h"
#include "saccade/linear.h"

namespace saccade {

/// "cpu.reference.linear": scalar, fp64 accumulators, every option and dtype.
extern const Kernel<LinearForward> reference_linear;
extern const Kernel<LinearBackward> reference_linear_backward;
extern const Kernel<LinearStep> reference_linear_step;

}  // namespace saccade
