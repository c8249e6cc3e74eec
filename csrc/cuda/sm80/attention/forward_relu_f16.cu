#include "cuda/sm80/attention/forward_launch.cuh"

template struct saccade::cuda::Forward<saccade::math::F16, saccade::math::Relu>;
