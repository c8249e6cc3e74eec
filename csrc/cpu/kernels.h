#pragma once
#include "kernel.h"
#include "saccade/attention.h"

namespace saccade {

KernelList<AttentionForward> cpu_attention();
KernelList<AttentionBackward> cpu_attention_backward();

}  // namespace saccade
