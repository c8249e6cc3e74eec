#include "cuda/attention/sequence.cuh"
#include "cuda/sm80/attention/backward.h"

// From a number per row to the gradients of temperature, gate, slopes, score biases and sinks, in whatever shape they
// were broadcast from: fp64 sums in a fixed order.
namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;

/// The rows of one element of the result.
struct Span {
  int64_t head, head_count, batch, batch_count, query, query_count;

  __device__ Span(const ReduceParams& p, int64_t element) {
    const int64_t i = element % p.size[2], h = element / p.size[2] % p.size[1], b = element / p.size[2] / p.size[1];
    const auto axis = [](int64_t x, int64_t size, int64_t all, int64_t& first, int64_t& count) {
      first = size == 1 ? 0 : x, count = size == 1 ? all : 1;
    };
    axis(h, p.size[1], p.heads, head, head_count);
    if (p.cu && p.size[0] != 1) {
      const Rows rows = packed_rows(p.cu, p.cu_stride, b, p.queries);
      batch = 0, batch_count = 1, query = rows.first, query_count = rows.count;
      return;
    }
    axis(b, p.size[0], p.batch, batch, batch_count);
    axis(i, p.size[2], p.queries, query, query_count);
  }
  __device__ int64_t count() const { return head_count * batch_count * query_count; }
  __device__ double value(const ReduceParams& p, int64_t x) const {
    const int64_t i = query + x % query_count, b = batch + x / query_count % batch_count;
    const int64_t h = head + x / query_count / batch_count, row = (h * p.batch + b) * p.queries + i;
    if (p.shares) return p.shares[row];
    const RowStatistics s = p.statistics[row];
    if (s.reference == __builtin_inff()) return 0;
    const float sink2 =
        reinterpret_cast<const float*>(p.sinks.data)[h * p.sinks.head] * static_cast<float>(math::kLog2e);
    return -static_cast<double>(exp2f(sink2 - s.reference)) * s.delta;  // Σ e^{sink − lse}·(dlse − D)
  }
};

__device__ void store(const ReduceParams& p, int64_t element, double x) {
  const int64_t i = element % p.size[2], h = element / p.size[2] % p.size[1], b = element / p.size[2] / p.size[1];
  reinterpret_cast<float*>(p.to.data)[b * p.to.batch + h * p.to.head + i * p.to.row] = static_cast<float>(x);
}

/// A thread per element: few rows each.
__global__ void __launch_bounds__(kThreads) reduce_short(const __grid_constant__ ReduceParams p) {
  const int64_t element = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (element >= p.size[0] * p.size[1] * p.size[2]) return;
  const Span span(p, element);
  double sum = 0;
  for (int64_t x = 0; x < span.count(); ++x) sum += span.value(p, x);
  store(p, element, sum);
}

/// A block per element.
__global__ void __launch_bounds__(kThreads) reduce_long(const __grid_constant__ ReduceParams p) {
  __shared__ double sums[kThreads];
  const Span span(p, blockIdx.x);
  double sum = 0;
  for (int64_t x = threadIdx.x; x < span.count(); x += kThreads) sum += span.value(p, x);
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) store(p, blockIdx.x, sums[0]);
}

}  // namespace

void launch_reduce(Queue& queue, const ReduceParams& p) {
  const int64_t elements = p.size[0] * p.size[1] * p.size[2];
  const int64_t summed =
      (p.size[0] == 1 ? p.batch : 1) * (p.size[1] == 1 ? p.heads : 1) * (p.size[2] == 1 || p.cu ? p.queries : 1);
  if (summed <= 16)
    queue.launch<ReduceParams>(reduce_short, dim3(static_cast<unsigned>((elements + kThreads - 1) / kThreads)),
                               kThreads, 0, p);
  else
    queue.launch<ReduceParams>(reduce_long, dim3(static_cast<unsigned>(elements)), kThreads, 0, p);
}

}  // namespace saccade::cuda
