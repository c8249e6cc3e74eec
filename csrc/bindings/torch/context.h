#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "saccade/context.h"

namespace saccade::bindings {

/// A context on torch's own threads (`torch.set_num_threads`): a second OpenMP runtime or pool beside them would
/// oversubscribe.
inline Context torch_context(std::string kernel) {
  Context context;
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
