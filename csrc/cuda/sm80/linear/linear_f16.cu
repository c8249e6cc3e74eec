#include "cuda/sm80/linear/rows.cuh"
#include "cuda/sm80/linear/scan.cuh"
#include "cuda/sm80/linear/step.cuh"

template struct saccade::cuda::Scan<saccade::math::F16>;
template struct saccade::cuda::RowKernels<saccade::math::F16>;
template struct saccade::cuda::Step<saccade::math::F16>;
