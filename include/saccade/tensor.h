#pragma once
#include <cstdint>

#include "saccade/dtype.h"

namespace saccade {

enum class DeviceType : uint8_t { cpu, cuda };

/// A borrowed strided tensor: the fields of a DLTensor, shape and strides held inline.
/// Strides count elements and may be zero (broadcast) or, for inputs, negative. A default-made view is an absent
/// tensor.
struct TensorView {
  static constexpr int kMaxRank = 6;

  void* data = nullptr;
  DType dtype = DType::none;
  DeviceType device = DeviceType::cpu;
  int16_t device_index = 0;
  int32_t rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};

  /// False for an absent optional tensor; a tensor of zero elements is present.
  explicit operator bool() const { return dtype != DType::none; }

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
};

/// A C-contiguous view of `data`; `shape` holds `rank` sizes.
inline TensorView contiguous_view(void* data, DType dtype, int rank, const int64_t* shape) {
  TensorView t{.data = data, .dtype = dtype, .rank = rank};
  int64_t step = 1;
  for (int i = rank - 1; i >= 0; --i) {
    t.shape[i] = shape[i];
    t.stride[i] = step;
    step *= shape[i];
  }
  return t;
}

}  // namespace saccade
