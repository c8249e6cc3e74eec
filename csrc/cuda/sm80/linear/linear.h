#pragma once
#include "kernel.h"
#include "saccade/linear.h"

namespace saccade {

extern const Kernel<LinearForward> sm80_linear;
extern const Kernel<LinearBackward> sm80_linear_backward;
extern const Kernel<LinearStep> sm80_linear_step;

}  // namespace saccade
