#pragma once
#include "kernel.h"
#include "saccade/attention.h"
#include "saccade/linear.h"

namespace saccade {

KernelList<AttentionForward> cpu_attention();
KernelList<AttentionBackward> cpu_attention_backward();
KernelList<LinearForward> cpu_linear();
KernelList<LinearBackward> cpu_linear_backward();
KernelList<LinearStep> cpu_linear_step();

}  // namespace saccade
