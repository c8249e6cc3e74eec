#include "cuda/attention/repack.h"

namespace saccade::cuda {
namespace {

struct Repack {
  View from;
  char* to;
  int64_t units;  // of 16 bytes in all
  int64_t rows, heads;
  int columns, row_units;
};

template <class X>
__global__ void __launch_bounds__(256) repack(const __grid_constant__ Repack p) {
  constexpr int kElements = 16 / sizeof(X);
  for (int64_t u = blockIdx.x * 256LL + threadIdx.x; u < p.units; u += gridDim.x * 256LL) {
    const int64_t row = u / p.row_units, b = row / p.rows / p.heads;
    const int c = static_cast<int>(u % p.row_units) * kElements;
    const X* from = reinterpret_cast<const X*>(p.from.data) + b * p.from.batch + row / p.rows % p.heads * p.from.head +
                    row % p.rows * p.from.row;
    alignas(16) X x[kElements];
#pragma unroll
    for (int i = 0; i < kElements; ++i) x[i] = c + i < p.columns ? from[(c + i) * p.from.column] : X(0);
    reinterpret_cast<uint4*>(p.to)[u] = *reinterpret_cast<const uint4*>(x);
  }
}

}  // namespace

bool rows_aligned(const TensorView& t) {
  const int64_t element = dtype_size(t.dtype);
  if (t.numel() == 0) return true;
  if (reinterpret_cast<uintptr_t>(t.data) % 16) return false;
  for (int a = 0; a < t.rank; ++a) {
    if (t.shape[a] == 1) continue;
    if (a == t.rank - 1 ? t.stride[a] != 1 : t.stride[a] * element % 16 != 0) return false;
  }
  return true;
}

View aligned_rows(const TensorView& t, bool packed, Arena& arena, Queue* queue) {
  View v = row_view(t, packed);
  if (rows_aligned(t)) return v;
  const int row_axis = packed ? 0 : 2;
  const int64_t element = dtype_size(t.dtype), columns = t.shape[t.rank - 1], row_units = (columns * element + 15) / 16;
  Repack r{.from = v, .units = t.numel() / columns * row_units, .rows = t.shape[row_axis], .heads = t.shape[1]};
  r.columns = static_cast<int>(columns), r.row_units = static_cast<int>(row_units);
  r.to = arena.take<char>(r.units * 16);
  if (queue) {
    const int64_t blocks = (r.units + 255) / 256, most = queue->device().processors * 8;
    queue->launch(element == 2 ? repack<uint16_t> : repack<uint32_t>,
                  dim3(static_cast<unsigned>(blocks < most ? blocks : most)), 256, 0, r);
  }
  const int64_t stride = row_units * 16 / element;
  return {r.to, packed ? 0 : r.heads * r.rows * stride, r.rows * stride, stride, 1};
}

}  // namespace saccade::cuda
