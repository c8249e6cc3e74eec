#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bindings/problem.h"
#include "saccade/tensor.h"

namespace saccade::bindings {

namespace py = pybind11;

// The ABI of DLPack 1.x (dlpack.h, https://dmlc.github.io/dlpack/latest/c_api.html), as far as a CPU library needs it.
namespace dl {
enum DeviceType : int32_t { kCPU = 1, kCUDAHost = 3 };
enum TypeCode : uint8_t { kInt = 0, kFloat = 2, kBfloat = 4, kBool = 6 };
struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // elements; before 1.2 null means C-contiguous
  uint64_t byte_offset;
};
struct Managed {  // capsule "dltensor"
  Tensor tensor;
  void* owner;
  void (*deleter)(Managed*);
};
struct ManagedVersioned {  // capsule "dltensor_versioned"
  uint32_t major, minor;
  void* owner;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;  // bit 0: read-only
  Tensor tensor;
};

inline DType dtype_of(DataType t) {
  if (t.lanes != 1) return DType::none;
  if (t.code == kFloat)
    return t.bits == 64 ? DType::f64 : t.bits == 32 ? DType::f32 : t.bits == 16 ? DType::f16 : DType::none;
  if (t.code == kBfloat && t.bits == 16) return DType::bf16;
  if (t.code == kInt && t.bits == 32) return DType::i32;
  if (t.code == kBool && t.bits == 8) return DType::boolean;
  return DType::none;
}

inline DataType type_of(DType t) {
  const auto bits = static_cast<uint8_t>(8 * dtype_size(t));
  const uint8_t code = t == DType::bf16 ? kBfloat : t == DType::i32 ? kInt : t == DType::boolean ? kBool : kFloat;
  return {code, bits, 1};
}

inline std::string type_name(DataType t) {
  constexpr const char* kNames[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  return (t.code < 7 ? kNames[t.code] : "float8_") + std::to_string(t.bits) +
         (t.lanes == 1 ? "" : "x" + std::to_string(t.lanes));
}
}  // namespace dl

/// An argument borrowed for the length of a call: through `__dlpack__`, else through the buffer protocol.
class Input {
 public:
  Input() = default;
  Input(py::handle object, const char* op, const char* name) {
    if (object.is_none()) return;
    const bool capsules = py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__");
    if (!capsules || !borrow_capsule(object, op, name)) borrow_buffer(object, op, name);
  }
  const TensorView& view() const { return view_; }

 private:
  /// False when the producer has no capsule for this array (read-only, or of a type it cannot name) but a buffer may
  /// do.
  bool borrow_capsule(py::handle object, const char* op, const char* name) {
    const auto device = object.attr("__dlpack_device__")().cast<std::pair<int32_t, int32_t>>();
    if (device.first != dl::kCPU && device.first != dl::kCUDAHost)
      throw Error(std::string(op) + ": " + name + ": got an array on DLPack device type " +
                  std::to_string(device.first) + ", wanted the CPU (1); copy it to the CPU first");
    try {
      try {
        owner_ = object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
      } catch (py::error_already_set& e) {
        if (!e.matches(PyExc_TypeError)) throw;  // a producer from before DLPack 1.0 knows no max_version
        owner_ = object.attr("__dlpack__")();
      }
    } catch (py::error_already_set& e) {
      if (!PyObject_CheckBuffer(object.ptr())) throw;
      return false;
    }
    // Not renamed to "used_…": the tensor stays the capsule's, which frees it when this Input goes.
    if (PyCapsule_IsValid(owner_.ptr(), "dltensor_versioned")) {
      const auto* m = static_cast<dl::ManagedVersioned*>(PyCapsule_GetPointer(owner_.ptr(), "dltensor_versioned"));
      if (m->major != 1)
        throw Error(std::string(op) + ": " + name + ": got DLPack version " + std::to_string(m->major) +
                    ", wanted 1; pass an array of a library that honours max_version");
      set(m->tensor, op, name);
    } else {
      const auto* m = static_cast<dl::Managed*>(PyCapsule_GetPointer(owner_.ptr(), "dltensor"));
      if (!m) throw py::error_already_set();
      set(m->tensor, op, name);
    }
    return true;
  }

  void set(const dl::Tensor& t, const char* op, const char* name) {
    view_.dtype = dl::dtype_of(t.dtype);
    if (view_.dtype == DType::none) throw dtype_error(op, name, dl::type_name(t.dtype));
    if (t.ndim > TensorView::kMaxRank) throw rank_error(op, name, t.ndim);
    view_ = contiguous_view(static_cast<char*>(t.data) + t.byte_offset, view_.dtype, t.ndim, t.shape);
    for (int i = 0; t.strides && i < t.ndim; ++i) view_.stride[i] = t.strides[i];
  }

  void borrow_buffer(py::handle object, const char* op, const char* name) {
    if (!PyObject_CheckBuffer(object.ptr()))
      throw py::type_error(std::string(op) + ": " + name + ": got " + Py_TYPE(object.ptr())->tp_name +
                           ", wanted an array with __dlpack__ or the buffer protocol");
    std::shared_ptr<py::buffer_info> info;
    try {
      info = std::make_shared<py::buffer_info>(py::reinterpret_borrow<py::buffer>(object).request());
    } catch (py::error_already_set&) {  // NumPy with a dtype that is none of its own, such as ml_dtypes.bfloat16
      const std::string dtype = py::str(py::getattr(object, "dtype", py::str("unknown")));
      throw dtype_error(op, name, dtype + " that its library exports neither as a capsule nor as a buffer");
    }
    const std::string& f = info->format;
    const DType dtype = f == "d"                                        ? DType::f64
                        : f == "f"                                      ? DType::f32
                        : f == "e"                                      ? DType::f16
                        : f == "?"                                      ? DType::boolean
                        : f == "i" || (f == "l" && info->itemsize == 4) ? DType::i32
                                                                        : DType::none;
    if (dtype == DType::none) throw dtype_error(op, name, "'" + f + "' (buffer format)");
    if (info->ndim > TensorView::kMaxRank) throw rank_error(op, name, info->ndim);
    view_ = TensorView{.data = info->ptr, .dtype = dtype, .rank = static_cast<int32_t>(info->ndim)};
    for (int i = 0; i < view_.rank; ++i) {
      view_.shape[i] = info->shape[i];
      view_.stride[i] = info->strides[i] / info->itemsize;
      if (info->strides[i] % info->itemsize)
        throw Error(std::string(op) + ": " + name + ": got a stride of " + std::to_string(info->strides[i]) +
                    " bytes, wanted a multiple of the element's " + std::to_string(info->itemsize) + "; copy it first");
    }
    buffer_ = std::move(info);
  }

  py::object owner_;
  std::shared_ptr<py::buffer_info> buffer_;
  TensorView view_;
};

/// A result: memory of ours that every capsule made from it keeps alive.
class Array {
 public:
  /// Allocates what a shaped view describes and points it there.
  explicit Array(TensorView& view)
      : memory_(::operator new(std::max<int64_t>(view.numel() * dtype_size(view.dtype), 1), std::align_val_t(64)),
                [](void* p) { ::operator delete(p, std::align_val_t(64)); }) {
    view.data = memory_.get();
    view_ = view;
  }

  py::tuple shape() const {
    py::tuple t(view_.rank);
    for (int i = 0; i < view_.rank; ++i) t[i] = view_.shape[i];
    return t;
  }
  const char* dtype() const { return dtype_name(view_.dtype); }

  /// For NumPy before 2.1, which takes what comes as a capsule for read-only. bfloat16 has no buffer format.
  py::buffer_info buffer() const {
    const char* format = view_.dtype == DType::f64 ? "d" : view_.dtype == DType::f32 ? "f" : "e";
    if (view_.dtype == DType::bf16) throw py::buffer_error("saccade: bfloat16 has no buffer format; use from_dlpack");
    const int64_t size = dtype_size(view_.dtype);
    std::vector<py::ssize_t> shape(view_.shape, view_.shape + view_.rank),
        strides(view_.stride, view_.stride + view_.rank);
    for (auto& s : strides) s *= size;
    return {view_.data, size, format, view_.rank, shape, strides};
  }

  /// The array API's `__dlpack__`: a versioned capsule for a consumer that takes DLPack 1.x, else the older kind.
  py::capsule capsule(const py::object& max_version, const py::object& device, const py::object& copy) const {
    if (!device.is_none() && device.cast<std::pair<int32_t, int32_t>>().first != dl::kCPU)
      throw py::buffer_error("saccade: the array lies on the CPU; other devices take a copy made by their own library");
    if (!copy.is_none() && copy.cast<bool>())
      throw py::buffer_error("saccade: the array is shared, not copied; copy the result");
    if (!max_version.is_none() && max_version.cast<std::pair<uint32_t, uint32_t>>().first >= 1) {
      auto* m = new Exported<dl::ManagedVersioned>(*this);
      m->managed.major = 1;
      return wrap(m, "dltensor_versioned");
    }
    return wrap(new Exported<dl::Managed>(*this), "dltensor");
  }

 private:
  template <class M>
  struct Exported {
    explicit Exported(const Array& a) : memory(a.memory_), view(a.view_) {
      managed.tensor = {memory.get(), {dl::kCPU, 0}, view.rank, dl::type_of(view.dtype), view.shape, view.stride, 0};
      managed.owner = this;
      managed.deleter = [](M* m) { delete static_cast<Exported*>(m->owner); };
    }
    M managed{};
    std::shared_ptr<void> memory;
    TensorView view;
  };

  /// A consumer renames the capsule and calls the deleter itself; otherwise it is called with the capsule's end.
  template <class M>
  static py::capsule wrap(Exported<M>* e, const char* name) {
    return py::reinterpret_steal<py::capsule>(PyCapsule_New(&e->managed, name, [](PyObject* c) {
      const char* now = PyCapsule_GetName(c);
      if (!now || std::string(now).starts_with("used")) return;
      auto* m = static_cast<M*>(PyCapsule_GetPointer(c, now));
      m->deleter(m);
    }));
  }

  std::shared_ptr<void> memory_;
  TensorView view_;
};

}  // namespace saccade::bindings
