#include "cuda/sm80/attention/forward_launch.cuh"

template struct saccade::cuda::Forward<saccade::math::F32, saccade::math::Relu>;
