#pragma once
#include <math.h>

#include "cpu/attention/scores.h"

// From a row of scores to weights. With softmax a row has a state: maximum and sum of its weights so far, in log2
// units.
namespace saccade::cpu::SACCADE_ISA {
namespace {

/// Maps without a state have {0, 1} here, under which splits of a row merge by plain sums.
struct RowState {
  float max = -kInf, sum = 0;

  /// Takes in the sink, writes the row's lse, and returns the factor from the accumulated to the final output.
  float finish(const HeadTerms& t, int64_t h, int64_t i, float* lse) {
    if (!t.all.row_state) return t.gate_at(i);
    if (t.all.sinks) {
      const float sink = t.all.sink2(h), top = sink > max ? sink : max, ref = top == -kInf ? 0 : top;
      const float scale = ::exp2f(max - ref);
      sum = sum * scale + ::exp2f(sink - ref);
      *lse = sum == 0 ? -kInf : (ref + ::log2f(sum)) * static_cast<float>(math::kLn2);
      return sum == 0 ? 0 : t.gate_at(i) * scale / sum;
    }
    *lse = sum == 0 ? -kInf : (max + ::log2f(sum)) * static_cast<float>(math::kLn2);
    return sum == 0 ? 0 : t.gate_at(i) / sum;
  }
};

/// s[lo, hi) become weights against the new maximum; `out` is rescaled if that grew.
template <class Score>
SACCADE_FN void online_weights(float* s, int lo, int hi, RowState& row, float* out, int64_t columns) {
  Vec top0(row.max), top1(row.max);
  for (int x = lo; x < hi; x += 2 * kWidth) {
    top0 = max(top0, Vec::load(s + x));
    top1 = max(top1, Vec::load(s + x + kWidth));
  }
  const float top = hmax(max(top0, top1)), ref = top == -kInf ? 0 : top;
  Vec sum0(0.0f), sum1(0.0f);
  for (int x = lo; x < hi; x += 2 * kWidth) {
    const Vec p0 = Score::weight(Vec::load(s + x), Vec(ref)), p1 = Score::weight(Vec::load(s + x + kWidth), Vec(ref));
    p0.store(s + x);
    p1.store(s + x + kWidth);
    sum0 = sum0 + p0;
    sum1 = sum1 + p1;
  }
  if (top != row.max) {
    const float f = ::exp2f(row.max - ref);
    row.sum *= f;
    row.max = top;
    for (int64_t c = 0; c < columns; c += kWidth) (Vec::load(out + c) * Vec(f)).store(out + c);
  }
  row.sum += sum(sum0 + sum1);
}

/// Row i's products s[lo, hi) with keys from j0 become weights.
template <class Score>
void weight_row(const HeadTerms& t, float* s, int lo, int hi, int64_t i, int64_t j0, RowState& row, float* out,
                int64_t columns) {
  if (t.modifies) modify_row(t, s + lo, i, j0 + lo, hi - lo);
  if (t.range.key_begin(i) > j0 + lo || t.range.key_end(i) < j0 + hi) mask_row(t.range, s + lo, i, j0 + lo, hi - lo);
  if constexpr (Score::kRowState) {
    online_weights<Score>(s, lo, hi, row, out, columns);
  } else {
    const Vec reference(-t.bias2);
    for (int x = lo; x < hi; x += 2 * kWidth) {
      Score::weight(Vec::load(s + x), reference).store(s + x);
      Score::weight(Vec::load(s + x + kWidth), reference).store(s + x + kWidth);
    }
    row = {0, 1};
  }
  if (t.all.drop_below)
    for_dropout(t, i, j0, hi, [&](int64_t x, Mask keep) {
      if (x >= lo) select(keep, Vec::load(s + x) * Vec(t.all.keep_scale), Vec(0.0f)).store(s + x);
    });
}

using WeightRow = decltype(&weight_row<math::Softmax>);
inline WeightRow weight_row_of(ScoreMap map) {
  return math::with_score(map, []<class Score>(Score) -> WeightRow { return weight_row<Score>; });
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
