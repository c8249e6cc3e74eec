#include "cuda/sm80/attention/query_gradient.cuh"

template struct saccade::cuda::QueryGradient<saccade::math::F32, saccade::math::Sigmoid>;
