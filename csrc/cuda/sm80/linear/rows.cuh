#pragma once
#include "cuda/attention/sequence.cuh"
#include "cuda/sm80/linear/rows.h"
#include "math/operand/float.h"

// Memory sets the pace of all of these: a thread or a warp per element or row.
namespace saccade::cuda {

constexpr int kRowThreads = 256, kDecayThreads = 512, kDecayChannels = 32;

/// Row x of rows of a head, of all sequences.
struct Row {
  int64_t batch, token;
  __device__ Row(const RowParams& p, int64_t x) : batch(p.packed ? 0 : x / p.tokens), token(x - batch * p.tokens) {}
  template <class X>
  __device__ X* at(const View& v, int32_t h) const {
    return reinterpret_cast<X*>(v.data) + batch * v.batch + h * v.head + token * v.row;
  }
};

template <class X>
__device__ __forceinline__ X warp_sum(X x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, d);
  return x;
}

/// A warp's row: of head blockIdx.y.
__device__ __forceinline__ int64_t warp_row() { return blockIdx.x * (kRowThreads / 32LL) + (threadIdx.x >> 5); }

template <class T>
__global__ void __launch_bounds__(kRowThreads) normalize_kernel(const __grid_constant__ NormalizeParams p) {
  const int64_t x = warp_row();
  if (x >= p.rows) return;
  const Row row(p, x);
  const int32_t h = blockIdx.y, lane = threadIdx.x & 31;
  const auto *dout = row.at<const typename T::Storage>(p.dout, h), *out = row.at<const typename T::Storage>(p.out, h);
  float sum = 0;
  for (int c = lane; c < p.columns; c += 32)
    sum = fmaf(T::load(dout[c * p.dout.column]), T::load(out[c * p.out.column]), sum);
  sum = warp_sum(sum);
  if (lane != 0) return;
  p.extra[h * p.rows + x] = -sum;
  float& f = p.factor[h * p.rows + x];
  f = 1 / (f + p.epsilon);
  if (p.product) p.product[h * p.rows + x] = f * -sum;
}

template <class From, class To>
__global__ void __launch_bounds__(kRowThreads) sum_kernel(const __grid_constant__ SumParams p) {
  const int64_t element = blockIdx.x * static_cast<int64_t>(kRowThreads) + threadIdx.x;
  if (element >= p.rows * p.width) return;
  const Row row(p, element / p.width);
  const int64_t c = element % p.width;
  const int32_t h = blockIdx.y;
  float sum = 0;
  for (int32_t g = 0; g < p.group; ++g)
    sum += From::load(row.at<const typename From::Storage>(p.from, h * p.group + g)[c * p.from.column]);
  row.at<typename To::Storage>(p.to, h)[c * p.to.column] = To::store(sum);
}

/// q·dq − k·dk of one channel.
template <class T>
__device__ __forceinline__ double decay_term(const DecayParams& p, const Row& row, int32_t h, int64_t c) {
  using Storage = typename T::Storage;
  const auto of = [&](const Operand& x, const View& dx) {
    const double y = T::load(row.at<const Storage>(x.rows, h / x.group)[c * x.rows.column]);
    return y * row.at<const float>(dx, h)[c * dx.column];
  };
  return of(p.query, p.dquery) - of(p.key, p.dkey);
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) dot_kernel(const __grid_constant__ DecayParams p) {
  const int64_t x = warp_row();
  if (x >= p.rows) return;
  const int32_t h = blockIdx.y, lane = threadIdx.x & 31;
  double sum = 0;
  for (int c = lane; c < p.dim; c += 32) sum += decay_term<T>(p, Row(p, x), h, c);
  sum = warp_sum(sum);
  if (lane == 0) p.dots[h * p.rows + x] = static_cast<float>(sum);
}

/// The sum over later tokens: parts of the tokens side by side, each first summed and then walked from its end. Blocks
/// have a head of a sequence, with per_head one of all, and kDecayChannels channels.
template <class T>
__global__ void __launch_bounds__(kDecayThreads) decay_kernel(const __grid_constant__ DecayParams p) {
  __shared__ double sums[kDecayThreads];
  const bool channels = !p.dots;
  const int width = channels ? kDecayChannels : 1, parts = kDecayThreads / width;
  const int thread = threadIdx.x, part = thread / width, h = blockIdx.y;
  const int c = blockIdx.z * kDecayChannels + thread % width;
  const bool mine = c < (channels ? p.dim : 1);
  // Of the threads of one channel; afterwards `sums` may be used again.
  const auto later_parts = [&](double x, bool all) {
    sums[thread] = x;
    __syncthreads();
    double sum = 0;
    for (int i = parts - 1; i >= (all ? 0 : part + 1); --i) sum += sums[i * width + thread % width];
    __syncthreads();
    return sum;
  };
  double total = 0;
  for (int64_t b = blockIdx.x; b < p.batch; b += gridDim.x) {
    const Rows rows = p.packed ? packed_rows(p.cu_seqlens, p.cu_stride, b, p.tokens) : Rows{0, p.tokens};
    const auto row = [&](int64_t step) {
      const int64_t token = rows.first + (p.flip ? rows.count - 1 - step : step);
      return p.packed ? token : b * p.tokens + token;
    };
    const auto term = [&](int64_t step) {
      return channels ? decay_term<T>(p, Row(p, row(step)), h, c) : double{p.dots[h * p.rows + row(step)]};
    };
    double final = 0;
    if (p.dstate) {
      const int64_t from = channels ? part : thread, step = channels ? parts : kDecayThreads;
      for (int64_t x = from; mine && x < (channels ? 1 : p.dim) * static_cast<int64_t>(p.columns); x += step) {
        const auto at = [&](const View& v) {
          return double{reinterpret_cast<const float*>(
              v.data)[b * v.batch + h * v.head + (channels ? c : x / p.columns) * v.row + x % p.columns * v.column]};
        };
        final += at(p.state) * at(p.dstate);
      }
      final = later_parts(final, true);
    }
    const int64_t length = (rows.count + parts - 1) / parts, begin = part * length,
                  end = begin + length < rows.count ? begin + length : rows.count;
    double own = 0;
    for (int64_t t = end - 1; mine && t >= begin; --t) own += term(t);
    double later = final + later_parts(own, false), part_total = 0;
    for (int64_t t = end - 1; mine && t >= begin; --t) {
      later += term(t);
      part_total += later;
      if (!p.per_head) Row(p, row(t)).at<float>(p.to, h)[c * p.to.column] = static_cast<float>(later);
    }
    if (p.per_head) total += later_parts(part_total, true);
  }
  if (p.per_head && thread == 0) reinterpret_cast<float*>(p.to.data)[h * p.to.head] = static_cast<float>(total);
}

template <class T>
void RowKernels<T>::normalize(Queue& queue, const NormalizeParams& p) {
  const dim3 grid(static_cast<unsigned>((p.rows + kRowThreads / 32 - 1) / (kRowThreads / 32)), p.heads);
  queue.launch<NormalizeParams>(normalize_kernel<T>, grid, kRowThreads, 0, p);
}

template <class From, class To>
void launch_sum(Queue& queue, const SumParams& p) {
  const dim3 grid(static_cast<unsigned>((p.rows * p.width + kRowThreads - 1) / kRowThreads), p.heads / p.group);
  queue.launch<SumParams>(sum_kernel<From, To>, grid, kRowThreads, 0, p);
}
template <class T>
void RowKernels<T>::sum(Queue& queue, const SumParams& p) {
  launch_sum<math::F32, T>(queue, p);
}
template <class T>
void RowKernels<T>::widen(Queue& queue, const SumParams& p) {
  launch_sum<T, math::F32>(queue, p);
}

template <class T>
void RowKernels<T>::decay(Queue& queue, const DecayParams& p) {
  if (p.dots) {
    const dim3 grid(static_cast<unsigned>((p.rows + kRowThreads / 32 - 1) / (kRowThreads / 32)), p.heads);
    queue.launch<DecayParams>(dot_kernel<T>, grid, kRowThreads, 0, p);
  }
  const unsigned channels = p.dots ? 1 : (p.dim + kDecayChannels - 1) / kDecayChannels;
  queue.launch<DecayParams>(decay_kernel<T>, dim3(p.per_head ? 1 : static_cast<unsigned>(p.batch), p.heads, channels),
                            kDecayThreads, 0, p);
}

}  // namespace saccade::cuda
