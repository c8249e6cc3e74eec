#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
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

inline AtenTensorHandle empty(int64_t rank, const int64_t* shape, const int64_t* stride, int32_t dtype,
                              const TensorView& like) {
  const bool cpu = like.device == DeviceType::cpu;
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      rank, shape, stride, dtype, cpu ? aoti_torch_device_type_cpu() : aoti_torch_device_type_cuda(), like.device_index,
      &handle));
  return handle;
}

/// Allocates what a shaped view describes, on the device of `like`, and points it there; an absent view gives a tensor
/// of shape (0).
inline Tensor allocate(TensorView& v, const TensorView& like) {
  constexpr int64_t kZero = 0, kOne = 1;
  Tensor t(empty(v ? v.rank : 1, v ? v.shape : &kZero, v ? v.stride : &kOne,
                 v ? torch_dtype(v.dtype) : aoti_torch_dtype_float32(), like));
  if (v) v.data = t.mutable_data_ptr();
  return t;
}

/// Scratch memory on the device of `like`: on the CPU, up to 32 MiB are a thread's own, kept for its next call; beyond
/// that, and on CUDA (whose allocator orders its reuse by stream), torch's allocator's.
class Workspace {
 public:
  /// `fresh`: never kept, so that memory checkers see reads of what nobody wrote.
  Workspace(int64_t bytes, const TensorView& like, bool fresh)
      : kept_(like.device == DeviceType::cpu && bytes <= kKeptBytes && !fresh ? kept(bytes + kWorkspaceAlignment)
                                                                              : nullptr),
        tensor_(kept_ ? nullptr : make(bytes + kWorkspaceAlignment, like)) {}
  ~Workspace() {
    if (!kept_) aoti_torch_delete_tensor_object(tensor_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const {
    void* data = kept_;
    if (!data) STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor_, &data));
    return align(data);
  }

 private:
  // torch's CPU allocator gives blocks of this size back to the system at once; faulting their pages in again took a
  // sixth of a windowed backward of (1, 8, 2048, 64).
  static constexpr int64_t kKeptBytes = 32 << 20;

  static char* kept(int64_t bytes) {
    thread_local std::unique_ptr<char[]> memory;
    thread_local int64_t size = 0;
    if (size < bytes) {
      size = 0;
      memory.reset();  // before the larger one is asked for
      memory.reset(new char[bytes]);
      size = bytes;
    }
    return memory.get();
  }
  static AtenTensorHandle make(int64_t size, const TensorView& like) {
    constexpr int64_t kStride = 1;
    return empty(1, &size, &kStride, aoti_torch_dtype_uint8(), like);
  }
  char* kept_;
  AtenTensorHandle tensor_;
};

}  // namespace saccade::bindings
