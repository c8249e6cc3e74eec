#include "cuda/sm80/attention/bias_gradient.cuh"

template struct saccade::cuda::BiasGradient<saccade::math::F32, saccade::math::Softmax>;
