#include "cpu/kernels.h"

#include "cpu/reference/attention.h"

namespace saccade {

KernelList<AttentionForward> cpu_attention() { return {&reference_attention, &reference_attention + 1}; }
KernelList<AttentionBackward> cpu_attention_backward() {
  return {&reference_attention_backward, &reference_attention_backward + 1};
}

}  // namespace saccade
