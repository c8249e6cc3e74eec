#include "cuda/sm80/attention/query_gradient.cuh"

template struct saccade::cuda::QueryGradient<saccade::math::Bf16, saccade::math::Relu2>;
