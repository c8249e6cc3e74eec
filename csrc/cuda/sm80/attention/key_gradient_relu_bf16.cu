#include "cuda/sm80/attention/key_gradient.cuh"

template struct saccade::cuda::KeyGradient<saccade::math::Bf16, saccade::math::Relu>;
