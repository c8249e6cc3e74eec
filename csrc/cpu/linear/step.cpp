#include "cpu/linear/tokens.h"
#include "math/feature.h"

// One token: every element of the state is read and written once, so memory sets the pace.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr int kStepVectors = kWidth == 8 ? 4 : 8;  // columns held at once: as many sums and values in registers
constexpr int64_t kStepStride = kMaxHeadDim + 48;

struct StepScratch {
  alignas(64) float query[kStepStride], key[kStepStride], decay[kStepStride], value[kStepStride], out[kStepStride];
};

/// state = decay·state + key·value and out = query·state for NV vectors of columns.
template <int NV>
__attribute__((noinline)) void step_columns(const StepScratch& w, int64_t d, const float* value, float* state,
                                            int64_t row, float* out) {
  Vec v[NV], acc[NV];
#pragma GCC unroll 8
  for (int n = 0; n < NV; ++n) v[n] = Vec::load(value + n * kWidth), acc[n] = Vec(0.0f);
  for (int64_t c = 0; c < d; ++c, state += row) {
    const Vec f(w.decay[c]), k(w.key[c]), q(w.query[c]);
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) {
      const Vec s = fma(f, Vec::load(state + n * kWidth), k * v[n]);
      s.store(state + n * kWidth);
      acc[n] = fma(q, s, acc[n]);
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < NV; ++n) acc[n].store(out + n * kWidth);
}

inline void step_column(const StepScratch& w, int64_t d, float value, float* state, int64_t row, float* out) {
  float sum = 0;
  for (int64_t c = 0; c < d; ++c, state += row) {
    *state = w.decay[c] * *state + w.key[c] * value;
    sum += w.query[c] * *state;
  }
  *out = sum;
}

template <class T>
void step_head(const LinearStep& p, StepScratch& w, int64_t heads, int64_t b, int64_t h) {
  const auto rows = [&](const TensorView& t) {
    const int64_t at = b * t.stride[0] + h / (heads / t.shape[1]) * t.stride[1];
    return Rows{static_cast<char*>(t.data) + at * dtype_size(t.dtype), 0, t.stride[2]};
  };
  const int64_t dim = p.query.shape[2], d = state_rows(p.feature, dim), dv = p.value.shape[2],
                columns = dv + p.normalize;
  const float scale = static_cast<float>(p.scale);
  if (p.feature == LinearFeature::taylor2) {
    load_row<T>(rows(p.query), 0, dim, 1.0f, w.out);
    math::Taylor2::of_query(scale).expand(w.out, dim, w.query);
    load_row<T>(rows(p.key), 0, dim, 1.0f, w.out);
    math::Taylor2::of_key().expand(w.out, dim, w.key);
  } else {
    load_row<T>(rows(p.query), 0, d, scale, w.query);
    load_row<T>(rows(p.key), 0, d, 1.0f, w.key);
  }
  load_row<T>(rows(p.value), 0, dv, 1.0f, w.value);
  if (p.normalize) w.value[dv] = 1;
  const int64_t factors = p.log_decay ? p.log_decay.shape[2] : 1;
  if (p.log_decay)
    load_row<math::F32>(rows(p.log_decay), 0, factors, static_cast<float>(math::kLog2e), w.decay);
  else
    w.decay[0] = 0;
  for (int64_t c = 0; c < factors; c += kWidth) exp2(Vec::load(w.decay + c)).store(w.decay + c);
  if (factors == 1)
    for (int64_t c = 1; c < d; ++c) w.decay[c] = w.decay[0];

  float* state = static_cast<float*>(p.state.data) + b * p.state.stride[0] + h * p.state.stride[1];
  const int64_t row = p.state.stride[2], step = p.state.stride[3];
  int64_t e = 0;
  if (step == 1) {
    for (; e + kStepVectors * kWidth <= columns; e += kStepVectors * kWidth)
      step_columns<kStepVectors>(w, d, w.value + e, state + e, row, w.out + e);
    for (; e + 2 * kWidth <= columns; e += 2 * kWidth) step_columns<2>(w, d, w.value + e, state + e, row, w.out + e);
    for (; e + kWidth <= columns; e += kWidth) step_columns<1>(w, d, w.value + e, state + e, row, w.out + e);
  }
  for (; e < columns; ++e) step_column(w, d, w.value[e], state + e * step, row, w.out + e);
  const float f = p.normalize ? 1 / (w.out[dv] + static_cast<float>(p.epsilon)) : 1.0f;
  store_row<T>(rows(p.out), 0, dv, f, w.out);
}

}  // namespace

int64_t linear_workspace(const LinearStep&, int threads) { return threads * static_cast<int64_t>(sizeof(StepScratch)); }

void linear(const LinearStep& p, const Context& context, void* workspace) {
  const int64_t heads = p.out.shape[1];
  with_operand(p.query.dtype, [&]<class T>(T) {
    for_units(context, p.query.shape[0] * heads, [&](int64_t worker, int64_t unit) {
      step_head<T>(p, static_cast<StepScratch*>(workspace)[worker], heads, unit / heads, unit % heads);
    });
  });
}

}  // namespace saccade::cpu::SACCADE_ISA
