#pragma once
#include <string>

#include "cuda/attention/params.h"
#include "cuda/launch.h"

namespace saccade::cuda {

constexpr int64_t kMaxRows = 1 << 28;  // positions and their distances are 32-bit; so are the grids

/// What the device of `t` cannot run, or ""; `shared_bytes`: of the largest block.
inline std::string device_refusal(const TensorView& t, int shared_bytes) {
  std::string reason;
  const Device* device = find_device(t, reason);
  if (!device) return reason;
  const std::string name = "cuda:" + std::to_string(device->index);
  if (device->arch < 80)
    return "needs compute capability 8.0, " + name + " has " + std::to_string(device->arch / 10) + "." +
           std::to_string(device->arch % 10);
  if (device->shared_bytes < shared_bytes)
    return "needs " + std::to_string(shared_bytes >> 10) + " KiB of shared memory a block, " + name + " has " +
           std::to_string(device->shared_bytes >> 10);
  return "";
}

/// Head dims, rows and heads that no CUDA kernel of either loop can run; "" where none of this applies.
inline std::string size_refusal(const TensorView& query, const TensorView& key, const TensorView& value) {
  if (query.dtype == DType::f64) return "computes in float32, got float64";
  for (const TensorView* t : {&query, &value})
    if (const int64_t d = t->shape[t->rank - 1]; d > kMaxHeadDim)
      return "head_dim up to " + std::to_string(kMaxHeadDim) + ", got " + std::to_string(d);
  for (const TensorView* t : {&query, &key})
    if (const int64_t n = t->shape[t->rank == 3 ? 0 : 2]; n > kMaxRows)
      return "up to 2^28 rows, got " + std::to_string(n);
  for (const TensorView* t : {&query, &key, &value})
    if (t->shape[1] > 65535) return "up to 65535 heads, got " + std::to_string(t->shape[1]);
  return "";
}

/// What no CUDA attention kernel can run; "" where none of this applies. `shared_bytes`: of the largest block.
inline std::string refusal(const AttentionProblem& p, int shared_bytes) {
  if (const std::string reason = size_refusal(p.query, p.key, p.value); !reason.empty()) return reason;
  if (p.score.relative_keys || p.score.relative_bias) return "no relative_keys or relative_bias";
  return device_refusal(p.query, shared_bytes);
}

}  // namespace saccade::cuda
