#include "cuda/sm80/attention/query_gradient.cuh"

template struct saccade::cuda::QueryGradient<saccade::math::F16, saccade::math::Sigmoid>;
