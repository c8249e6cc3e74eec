#pragma once
#include <dlfcn.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "saccade/context.h"
#include "saccade/error.h"
#include "saccade/tensor.h"

namespace saccade::bindings {

/// torch's current stream of a CUDA device. Its accessor lives in libtorch_cuda, which CPU-only torch lacks: it is
/// looked up where torch has loaded it, never linked.
inline void* current_cuda_stream(int device_index) {
  using Accessor = AOTITorchError (*)(int32_t, void**);
  static const auto accessor = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Accessor>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  void* stream = nullptr;
  if (!accessor || accessor(device_index, &stream))
    throw Error("saccade: stream: got none from torch for cuda:" + std::to_string(device_index) +
                ", wanted torch's current stream; use a PyTorch built with CUDA");
  return stream;
}

/// A context on torch's own threads (`torch.set_num_threads`): a second OpenMP runtime or pool beside them would
/// oversubscribe. Work on CUDA tensors goes to the current stream of their device.
inline Context torch_context(std::string kernel, const TensorView& query) {
  Context context;
  if (query.device == DeviceType::cuda) context.stream = current_cuda_stream(query.device_index);
  context.threads = static_cast<int>(torch::stable::get_num_threads());
  context.kernel = std::move(kernel);
  context.parallel_for = [](void*, int64_t n, void (*body)(void*, int64_t), void* arg) {
    // at::parallel_for splits into equal ranges, but a causal tile costs up to twice the mean: the workers take indices
    // one by one.
    std::atomic<int64_t> next{0};
    const int64_t workers = std::min<int64_t>(n, torch::stable::get_num_threads());
    torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(arg, i);
    });
  };
  return context;
}

}  // namespace saccade::bindings
