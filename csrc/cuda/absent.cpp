#include "cuda/kernels.h"

// What a build without CUDA has of it.
namespace saccade {

KernelList<AttentionForward> cuda_attention() { return {nullptr, nullptr}; }
KernelList<AttentionBackward> cuda_attention_backward() { return {nullptr, nullptr}; }
KernelList<LinearForward> cuda_linear() { return {nullptr, nullptr}; }
KernelList<LinearBackward> cuda_linear_backward() { return {nullptr, nullptr}; }
KernelList<LinearStep> cuda_linear_step() { return {nullptr, nullptr}; }
bool cuda_copy_to_host(void*, const void*, int64_t, int) { return false; }

}  // namespace saccade
