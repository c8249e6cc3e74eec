#include "cuda/kernels.h"

#include "cuda/sm80/attention/attention.h"
#include "cuda/sm80/linear/linear.h"

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
KernelList<LinearForward> cuda_linear() {
  static const Kernel<LinearForward> list[] = {sm80_linear};
  return {list, list + 1};
}
KernelList<LinearBackward> cuda_linear_backward() {
  static const Kernel<LinearBackward> list[] = {sm80_linear_backward};
  return {list, list + 1};
}
KernelList<LinearStep> cuda_linear_step() {
  static const Kernel<LinearStep> list[] = {sm80_linear_step};
  return {list, list + 1};
}

}  // namespace saccade
