#pragma once
#include "cpu/attention/gradient.h"

// From one number per row to the gradients of temperature, head gate, slopes and sinks, in whatever shape they were
// broadcast from: one thread, a fixed order, fp64 sums.
namespace saccade::cpu::SACCADE_ISA {
namespace {

enum class Axes { rows, batch_heads, heads };

/// Sums value(b, h, i) into `to` (fp32), whose axes are those of lse, (B, Hq) or (Hq); an axis of size 1 is summed
/// over.
template <class F>
void reduce_rows(const TensorView& to, Axes axes, const Sequences& s, double* sums, const F& value) {
  int64_t step[4] = {}, count = 1;
  for (int axis = to.rank - 1; axis >= 0; --axis) {
    step[axis] = to.shape[axis] == 1 ? 0 : count;
    count *= to.shape[axis];
  }
  for (int64_t n = 0; n < count; ++n) sums[n] = 0;
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.query_heads; ++h)
      for (int64_t i = 0; i < s.query_count(b); ++i) {
        const int64_t n = axes == Axes::heads         ? h * step[0]
                          : axes == Axes::batch_heads ? b * step[0] + h * step[1]
                          : s.packed                  ? (s.query_start(b) + i) * step[0] + h * step[1]
                                                      : b * step[0] + h * step[1] + i * step[2];
        sums[n] += value(b, h, i);
      }
  for (int64_t n = 0; n < count; ++n) {
    int64_t offset = 0, rest = n;
    for (int axis = to.rank - 1; axis >= 0; --axis) {
      offset += rest % to.shape[axis] * to.stride[axis];
      rest /= to.shape[axis];
    }
    static_cast<float*>(to.data)[offset] = static_cast<float>(sums[n]);
  }
}

inline void reduce_parameters(const AttentionBackward& p, const Sequences& s, const Terms& t, const RowGradients& g,
                              double* sums) {
  const auto row_value = [&](const float* rows) {
    return [&s, &g, rows](int64_t b, int64_t h, int64_t i) { return static_cast<double>(rows[g.at(s, b, h) + i]); };
  };
  if (p.dtemperature) reduce_rows(p.dtemperature, Axes::rows, s, sums, row_value(g.temperature));
  if (p.dhead_gate) reduce_rows(p.dhead_gate, Axes::rows, s, sums, row_value(g.gate));
  if (p.dalibi_slopes) reduce_rows(p.dalibi_slopes, Axes::batch_heads, s, sums, row_value(g.slope));
  if (p.dscore_biases) reduce_rows(p.dscore_biases, Axes::heads, s, sums, row_value(g.bias));
  if (p.dsinks)
    reduce_rows(p.dsinks, Axes::heads, s, sums, [&](int64_t b, int64_t h, int64_t i) {
      const int64_t row = g.at(s, b, h) + i;  // ∂L/∂sink = Σ e^{sink − lse}·(dlse − D)
      return g.lse2[row] == kInf ? 0.0 : -static_cast<double>(::exp2f(t.sink2(h) - g.lse2[row])) * g.delta[row];
    });
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
