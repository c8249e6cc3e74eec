#pragma once
#include "math/operand/float.h"
#include "saccade/tensor.h"

// Elements and last axes of a TensorView of any floating dtype, as double. `at` counts elements from `data`.
namespace saccade::reference {

template <class F>
auto with_format(DType t, F f) {
  switch (t) {
    case DType::f64:
      return f(math::F64{});
    case DType::bf16:
      return f(math::Bf16{});
    case DType::f16:
      return f(math::F16{});
    default:
      return f(math::F32{});
  }
}

inline double load(const TensorView& t, int64_t at) {
  return with_format(t.dtype, [&](auto format) -> double {
    return format.load(static_cast<const typename decltype(format)::Storage*>(t.data)[at]);
  });
}

inline void store(const TensorView& t, int64_t at, double x) {
  with_format(t.dtype,
              [&](auto format) { static_cast<typename decltype(format)::Storage*>(t.data)[at] = format.store(x); });
}

/// x·y over the last axis; both have one dtype.
inline double dot(const TensorView& x, int64_t at_x, const TensorView& y, int64_t at_y) {
  return with_format(x.dtype, [&](auto format) {
    using Storage = typename decltype(format)::Storage;
    const auto *px = static_cast<const Storage*>(x.data) + at_x, *py = static_cast<const Storage*>(y.data) + at_y;
    const int64_t step_x = x.stride[x.rank - 1], step_y = y.stride[y.rank - 1];
    double sum = 0;
    for (int64_t d = 0; d < x.shape[x.rank - 1]; ++d)
      sum += static_cast<double>(format.load(px[d * step_x])) * format.load(py[d * step_y]);
    return sum;
  });
}

/// sum += a·x over the last axis.
inline void add(double* sum, double a, const TensorView& x, int64_t at) {
  with_format(x.dtype, [&](auto format) {
    const auto* px = static_cast<const typename decltype(format)::Storage*>(x.data) + at;
    const int last = x.rank - 1;
    for (int64_t d = 0; d < x.shape[last]; ++d) sum[d] += a * format.load(px[d * x.stride[last]]);
  });
}

inline void store_row(const TensorView& t, int64_t at, const double* x, double factor) {
  const int last = t.rank - 1;
  for (int64_t d = 0; d < t.shape[last]; ++d) store(t, at + d * t.stride[last], factor * x[d]);
}

}  // namespace saccade::reference
