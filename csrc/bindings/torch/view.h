#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "bindings/problem.h"
#include "saccade/tensor.h"

namespace saccade::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(ScalarType t) {
  switch (t) {
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::Int:
      return DType::i32;
    case ScalarType::Bool:
      return DType::boolean;
    default:
      return DType::none;
  }
}

/// The names users write for the types that the core does not have.
inline std::string dtype_text(ScalarType t) {
  switch (t) {
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(t);
  }
}

inline int32_t torch_dtype(DType t) {
  switch (t) {
    case DType::f64:
      return aoti_torch_dtype_float64();
    case DType::f32:
      return aoti_torch_dtype_float32();
    case DType::bf16:
      return aoti_torch_dtype_bfloat16();
    case DType::f16:
      return aoti_torch_dtype_float16();
    case DType::i32:
      return aoti_torch_dtype_int32();
    case DType::boolean:
      return aoti_torch_dtype_bool();
    case DType::none:
      break;
  }
  return aoti_torch_dtype_uint8();
}

inline TensorView view(const Tensor& t, const char* op, const char* name) {
  TensorView v;
  v.dtype = dtype_of(t.scalar_type());
  if (v.dtype == DType::none) throw dtype_error(op, name, dtype_text(t.scalar_type()));
  v.device = t.is_cpu() ? DeviceType::cpu : DeviceType::cuda;
  v.device_index = static_cast<int16_t>(t.is_cpu() ? 0 : t.get_device_index());
  if (t.dim() > TensorView::kMaxRank) throw rank_error(op, name, t.dim());
  v.rank = static_cast<int32_t>(t.dim());
  const auto sizes = t.sizes(), strides = t.strides();
  for (int i = 0; i < v.rank; ++i) v.shape[i] = sizes[i], v.stride[i] = strides[i];
  v.data = const_cast<void*>(t.const_data_ptr());
  return v;
}

inline TensorView view(const std::optional<Tensor>& t, const char* op, const char* name) {
  return t ? view(*t, op, name) : TensorView{};
}

/// Allocates what a shaped view describes and points it there; an absent view gives a tensor of shape (0).
inline Tensor allocate(TensorView& v) {
  constexpr int64_t kZero = 0, kOne = 1;
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(v ? v.rank : 1, v ? v.shape : &kZero, v ? v.stride : &kOne,
                                                         v ? torch_dtype(v.dtype) : aoti_torch_dtype_float32(),
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  Tensor t(handle);
  if (v) v.data = t.mutable_data_ptr();
  return t;
}

/// A workspace that torch's allocator owns and counts.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : tensor_(make(bytes + kWorkspaceAlignment)) {}
  void* data() const { return align(tensor_.mutable_data_ptr()); }

 private:
  static AtenTensorHandle make(int64_t size) {
    constexpr int64_t kStride = 1;
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &size, &kStride, aoti_torch_dtype_uint8(),
                                                           aoti_torch_device_type_cpu(), 0, &handle));
    return handle;
  }
  Tensor tensor_;
};

}  // namespace saccade::bindings
