#pragma once
#include "kernel.h"
#include "saccade/attention.h"
#include "saccade/linear.h"

namespace saccade {

/// The CUDA kernels in order of preference; none in a build without CUDA.
KernelList<AttentionForward> cuda_attention();
KernelList<AttentionBackward> cuda_attention_backward();
KernelList<LinearForward> cuda_linear();
KernelList<LinearBackward> cuda_linear_backward();
KernelList<LinearStep> cuda_linear_step();

/// Copies from device memory, waiting for the device: for SACCADE_CHECK=1 only. False: this build or machine cannot.
bool cuda_copy_to_host(void* to, const void* from, int64_t bytes, int device_index);

}  // namespace saccade
