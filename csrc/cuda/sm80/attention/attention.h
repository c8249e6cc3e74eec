#pragma once
#include "kernel.h"
#include "saccade/attention.h"

namespace saccade {

extern const Kernel<AttentionForward> sm80_attention;
extern const Kernel<AttentionBackward> sm80_attention_backward;

}  // namespace saccade
