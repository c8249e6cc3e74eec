#include "cuda/kernels.h"

#include "cuda/sm80/attention/attention.h"

namespace saccade {

// In order of preference.
KernelList<AttentionForward> cuda_attention() {
  static const Kernel<AttentionForward> list[] = {sm80_attention};
  return {list, list + 1};
}
KernelList<AttentionBackward> cuda_attention_backward() {
  static const Kernel<AttentionBackward> list[] = {sm80_attention_backward};
  return {list, list + 1};
}
KernelList<LinearForward> cuda_linear() { return {nullptr, nullptr}; }
KernelList<LinearBackward> cuda_linear_backward() { return {nullptr, nullptr}; }
KernelList<LinearStep> cuda_linear_step() { return {nullptr, nullptr}; }

}  // namespace saccade
