#include "cuda/sm80/attention/forward_launch.cuh"

template struct saccade::cuda::Forward<saccade::math::Bf16, saccade::math::Identity>;
