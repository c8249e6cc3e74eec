#pragma once
#include <cstdint>

namespace saccade {

/// Element type of a TensorView. `none` marks an absent optional tensor.
enum class DType : uint8_t { none, f64, f32, bf16, f16, i32, boolean };

/// Size of one element in bytes; 0 for `none`.
constexpr int64_t dtype_size(DType t) {
  switch (t) {
    case DType::f64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::boolean:
      return 1;
    case DType::none:
      break;
  }
  return 0;
}

/// Name as users know it: "float32", "bfloat16", …
constexpr const char* dtype_name(DType t) {
  switch (t) {
    case DType::f64:
      return "float64";
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    case DType::i32:
      return "int32";
    case DType::boolean:
      return "bool";
    case DType::none:
      break;
  }
  return "none";
}

}  // namespace saccade
