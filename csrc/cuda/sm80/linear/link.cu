#include "cuda/sm80/linear/steps.cuh"

// From segments' own states to the states before them, a thread an element.
namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) link_kernel(const __grid_constant__ LinkParams params) {
  const ScanParams& p = params.scan;
  const int64_t size = static_cast<int64_t>(p.state_rows()) * p.columns;
  const int64_t element = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (element >= p.batch * p.heads * size) return;
  const auto b = static_cast<int32_t>(element / size / p.heads), h = static_cast<int32_t>(element / size % p.heads);
  const auto row = static_cast<int32_t>(element % size / p.columns), column = static_cast<int32_t>(element % p.columns);
  const Steps s(p, b);
  const int64_t segments = (s.count + kSegment - 1) / kSegment;
  const int64_t place = p.packed ? s.first / kSegment + b : b * segments;
  const auto at = [&](const States& t, int64_t x) {
    return reinterpret_cast<float*>(t.at.data) + t.offset(b, x, h) + row * t.at.row + column * t.at.column;
  };
  float state = p.initial.at ? *at(p.initial, 0) : 0;
  const float* lambda = p.lambda + (place * p.heads + h) * p.lambdas() +
                        (p.decay_of == DecayOf::token ? 0
                         : p.decay_of == DecayOf::key ? row
                                                      : column);
#pragma unroll 4
  for (int64_t x = 0; x < segments; ++x) {
    float* to = at(params.states, place + x);
    const float own = *to;
    *to = state;
    state = fmaf(lambda[x * p.heads * p.lambdas()], state, own);
  }
  if (p.final.at) *at(p.final, 0) = state * s.last_decay(p, h, row, column);
  for (int64_t x = 0; p.global && x < segments; ++x) *at(params.states, place + x) = state;
}

}  // namespace

void launch_link(Queue& queue, const LinkParams& p) {
  const int64_t elements = p.scan.batch * p.scan.heads * p.scan.state_rows() * p.scan.columns;
  queue.launch<LinkParams>(link_kernel, dim3(static_cast<unsigned>((elements + kThreads - 1) / kThreads)), kThreads, 0,
                           p);
}

}  // namespace saccade::cuda
