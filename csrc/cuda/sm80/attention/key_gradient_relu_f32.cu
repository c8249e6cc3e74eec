#include "cuda/sm80/attention/key_gradient.cuh"

template struct saccade::cuda::KeyGradient<saccade::math::F32, saccade::math::Relu>;
