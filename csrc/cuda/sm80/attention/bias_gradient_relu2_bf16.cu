#include "cuda/sm80/attention/bias_gradient.cuh"

template struct saccade::cuda::BiasGradient<saccade::math::Bf16, saccade::math::Relu2>;
