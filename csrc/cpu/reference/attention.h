#pragma once
#include "kernel.h"
#include "saccade/attention.h"

namespace saccade {

/// "cpu.reference.attention": scalar, fp64 accumulators, every option and dtype.
extern const Kernel<AttentionForward> reference_attention;
extern const Kernel<AttentionBackward> reference_attention_backward;

}  // namespace saccade
