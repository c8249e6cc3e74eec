#pragma once
#include "cuda/ptx/special.cuh"
#include "cuda/sm80/linear/rows.cuh"
#include "cuda/sm80/linear/step.h"

// Every element of the state is read and written once, so memory sets the pace: a block has 32 columns of a head, a
// thread four of them in every 32nd row.
namespace saccade::cuda {

constexpr int kStepColumns = 32, kStepWarps = 8, kStepThreads = 32 * kStepWarps, kStepRows = kStepThreads / 8;

template <class T>
__global__ void __launch_bounds__(kStepThreads) step_kernel(const __grid_constant__ StepParams p) {
  using Storage = typename T::Storage;
  __shared__ float sums[kStepWarps][kStepColumns];
  const int64_t b = blockIdx.x / p.heads;
  const auto h = static_cast<int32_t>(blockIdx.x % p.heads);
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const auto row = [&]<class X>(X*, const Operand& o) {
    return reinterpret_cast<const X*>(o.rows.data) + b * o.rows.batch + h / o.group * o.rows.head;
  };
  const auto *query = row(static_cast<Storage*>(nullptr), p.query), *key = row(static_cast<Storage*>(nullptr), p.key),
             *value = row(static_cast<Storage*>(nullptr), p.value);
  const float* decay = row(static_cast<float*>(nullptr), p.decay);
  auto* state = reinterpret_cast<float*>(p.state.data) + b * p.state.batch + h * p.state.head;
  const auto factor = [&](int r) {
    return p.decay.rows
               ? math::exp2_bounded(decay[p.channels ? r * p.decay.rows.column : 0] * static_cast<float>(math::kLog2e))
               : 1.0f;
  };
  const auto q = [&](int r) { return p.scale * T::load(query[r * p.query.rows.column]); };
  const auto k = [&](int r) { return T::load(key[r * p.key.rows.column]); };

  float end = 1;
  if (p.normalize) {
    float sum = 0;
    for (int r = thread; r < p.dim; r += kStepThreads) {
      float& z = state[r * p.state.row + p.value_dim * p.state.column];
      z = fmaf(factor(r), z, k(r));
      sum = fmaf(q(r), z, sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[warp][0] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int w = 0; w < kStepWarps; ++w) sum += sums[w][0];
    end = 1 / (sum + p.epsilon);
    __syncthreads();
  }
  for (int c0 = blockIdx.y * kStepColumns; c0 < p.value_dim; c0 += gridDim.y * kStepColumns) {
    const int c = c0 + thread % 8 * 4, inside = min(max(p.value_dim - c, 0), 4);
    float v[4], sum[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = i < inside ? T::load(value[(c + i) * p.value.rows.column]) : 0;
#pragma unroll 4
    for (int r = thread / 8; r < p.dim; r += kStepRows) {
      float* at = state + r * p.state.row + c * p.state.column;
      const bool whole = p.wide && inside == 4;
      float x[4];
      if (whole) {
        const float4 four = *reinterpret_cast<const float4*>(at);
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = i < inside ? at[i * p.state.column] : 0;
      }
      const float f = factor(r), kr = k(r), qr = q(r);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] = fmaf(f, x[i], kr * v[i]);
        sum[i] = fmaf(qr, x[i], sum[i]);
      }
      if (whole) {
        *reinterpret_cast<float4*>(at) = make_float4(x[0], x[1], x[2], x[3]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (i < inside) at[i * p.state.column] = x[i];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum[i] += __shfl_xor_sync(0xFFFFFFFF, sum[i], 8);
      sum[i] += __shfl_xor_sync(0xFFFFFFFF, sum[i], 16);
      if (lane < 8) sums[warp][lane * 4 + i] = sum[i];
    }
    __syncthreads();
    if (thread < kStepColumns && c0 + thread < p.value_dim) {
      float all = 0;
#pragma unroll
      for (int w = 0; w < kStepWarps; ++w) all += sums[w][thread];
      reinterpret_cast<Storage*>(p.out.data)[b * p.out.batch + h * p.out.head + (c0 + thread) * p.out.column] =
          T::store(all * end);
    }
    __syncthreads();
  }
}

template <class T>
void Step<T>::launch(Queue& queue, const StepParams& p) {
  // The denominator is of all columns: one block a head then.
  const unsigned slices = p.normalize ? 1 : (p.value_dim + kStepColumns - 1) / kStepColumns;
  queue.launch<StepParams>(step_kernel<T>, dim3(static_cast<unsigned>(p.batch * p.heads), slices), kStepThreads, 0, p);
}

}  // namespace saccade::cuda
