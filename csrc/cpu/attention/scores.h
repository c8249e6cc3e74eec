#pragma once
#include "cpu/attention/relative.h"
#include "cpu/attention/sequences.h"
#include "cpu/vec/convert.h"
#include "cpu/vec/mulhi.h"
#include "math/modifier.h"
#include "math/philox.h"
#include "math/score/maps.h"

// What happens to a row of products before it becomes a row of scores. Everything is in the score map's unit: log2 for
// maps that exponentiate.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr float kInf = __builtin_inff();

/// The score terms of one problem. Its tensors come at full rank, with stride 0 along broadcast axes (ops/check.h).
struct Terms {
  float unit;                    // what a natural score is multiplied by
  bool row_state;                // has the map a running maximum and sum?
  float scale2;                  // scale·unit, folded into a packed operand
  float softcap2;                // 0: none
  TensorView bias;               // (B|1, Hq|1, Nq|1, Nk|1)
  TensorView slopes;             // (B|1, Hq)
  TensorView temperature, gate;  // (B|1, Hq|1, Nq|1) or (Tq|1, Hq|1)
  TensorView sinks, biases;      // (Hq): sink logits, score biases
  float bias2;                   // score bias of every head
  uint32_t drop_below;           // 0: no dropout
  float keep_scale;              // 1/(1 − p)
  uint64_t seed;
  Relative relative;

  explicit Terms(const ScoreSpec& s)
      : unit(math::with_score(s.map, []<class Map>(Map) { return static_cast<float>(Map::kUnit); })),
        row_state(normalises(s.map)),
        scale2(static_cast<float>(s.scale * unit)),
        softcap2(static_cast<float>(s.softcap * unit)),
        bias(s.bias),
        slopes(s.alibi_slopes),
        temperature(s.temperature),
        gate(s.head_gate),
        sinks(s.sinks),
        biases(s.score_biases),
        bias2(static_cast<float>(s.score_bias * unit)),
        drop_below(s.dropout_p > 0 ? math::dropout_threshold(s.dropout_p) : 0),
        keep_scale(static_cast<float>(1 / (1 - s.dropout_p))),
        seed(s.seed),
        relative(s) {}

  bool modifies() const { return softcap2 != 0 || bias || slopes || temperature; }
  float sink2(int64_t h) const { return static_cast<const float*>(sinks.data)[h * sinks.stride[0]] * unit; }
  float slope2(int64_t b, int64_t h) const {
    return static_cast<const float*>(slopes.data)[b * slopes.stride[0] + h * slopes.stride[1]] * unit;
  }
};

/// The terms as one head of one sequence sees them.
struct HeadTerms {
  const Terms& all;
  math::Range range;
  Rows bias, temperature, gate;
  DType bias_type = DType::none;
  float slope2 = 0, bias2 = 0;
  uint32_t number;  // b·Hq + h, the dropout stream
  bool modifies;
  HeadRelative relative;

  HeadTerms(const Terms& t, const Sequences& q, const math::Range& visit, int64_t b, int64_t h)
      : all(t),
        range(visit),
        number(static_cast<uint32_t>(b * q.query_heads + h)),
        modifies(t.modifies()),
        relative(t.relative, h, t.scale2) {
    if (t.bias) {
      bias_type = t.bias.dtype;
      bias = {static_cast<char*>(t.bias.data) + (b * t.bias.stride[0] + h * t.bias.stride[1]) * dtype_size(bias_type),
              t.bias.stride[2], t.bias.stride[3]};
    }
    if (t.temperature) temperature = q.scalars(t.temperature, b, h);
    if (t.gate) gate = q.scalars(t.gate, b, h);
    if (t.slopes) slope2 = t.slope2(b, h);
    bias2 = t.bias2 + (t.biases ? static_cast<const float*>(t.biases.data)[h * t.biases.stride[0]] * t.unit : 0);
  }

  float gate_at(int64_t i) const { return all.gate ? *gate.at<const float>(i) : 1.0f; }
};

/// Bias element j of row i as fp32; a bool is 0 or −inf.
inline float bias_at(const HeadTerms& t, int64_t i, int64_t j) {
  const int64_t at = i * t.bias.row + j * t.bias.col;
  switch (t.bias_type) {
    case DType::f32:
      return reinterpret_cast<const float*>(t.bias.data)[at];
    case DType::bf16:
      return math::Bf16::load(reinterpret_cast<const math::Bf16::Storage*>(t.bias.data)[at]);
    case DType::f16:
      return math::F16::load(reinterpret_cast<const math::F16::Storage*>(t.bias.data)[at]);
    default:
      return t.bias.data[at] ? 0.0f : -kInf;
  }
}

/// s[0, n) += bias of row i, keys from j; −inf wins over NaN, as an invisible key must.
inline void add_bias(const HeadTerms& t, float* s, int64_t i, int64_t j, int64_t n) {
  int64_t x = 0;
  const Vec minus_inf(-kInf), unit(t.all.unit);
  if (t.bias.col == 1 && t.bias_type == DType::f32) {
    const float* b = t.bias.at<const float>(i) + j;
    for (; x + kWidth <= n; x += kWidth) {
      const Vec v = Vec::load(b + x);
      select(v == minus_inf, minus_inf, fma(v, unit, Vec::load(s + x))).store(s + x);
    }
  } else if (t.bias.col == 0) {
    const float b = bias_at(t, i, 0);
    for (; x + kWidth <= n; x += kWidth) (b == -kInf ? minus_inf : Vec::load(s + x) + Vec(b * t.all.unit)).store(s + x);
  }
  for (; x < n; ++x) {
    const float b = bias_at(t, i, j + x);
    s[x] = b == -kInf ? -kInf : s[x] + b * t.all.unit;
  }
}

/// Turns products (scale and relative term included) into scores over s[0, n), keys from j, before masking.
/// `capped`, if given, receives temperature·product after the cap: the backward needs it.
inline void modify_row(const HeadTerms& t, float* s, int64_t i, int64_t j, int64_t n, float* capped = nullptr) {
  if (t.all.temperature) {
    const Vec f(*t.temperature.at<const float>(i));
    for (int64_t x = 0; x < n; x += kWidth) (Vec::load(s + x) * f).store(s + x);
  }
  if (t.all.softcap2 != 0) {
    const Vec cap(t.all.softcap2);
    for (int64_t x = 0; x < n; x += kWidth) math::softcap(Vec::load(s + x), cap).store(s + x);
  }
  if (capped)
    for (int64_t x = 0; x < n; x += kWidth) Vec::load(s + x).store(capped + x);
  if (t.all.slopes) {
    const Vec slope(t.slope2);
    Vec distance = Vec(__builtin_convertvector(iota(), vf)) + Vec(static_cast<float>(j - t.range.position(i)));
    for (int64_t x = 0; x < n; x += kWidth, distance = distance + Vec(kWidth))
      math::alibi(Vec::load(s + x), slope, distance).store(s + x);
  }
  if (t.all.bias) add_bias(t, s, i, j, n < t.range.keys - j ? n : t.range.keys - j);
}

/// Masks s[0, n), keys from j, to the keys that row i sees; whole vectors of visible keys are not touched.
inline void mask_row(const math::Range& r, float* s, int64_t i, int64_t j, int64_t n) {
  const int64_t begin = r.key_begin(i) - j, end = r.key_end(i) - j;
  const int lo = static_cast<int>(begin < 0   ? 0
                                  : begin < n ? begin
                                              : n),
            hi = static_cast<int>(end < lo  ? lo
                                  : end < n ? end
                                            : n);
  const vi lane = iota();
  const auto mask = [&](int from, int to) __attribute__((always_inline)) {
    for (int x = from; x < to; x += kWidth) {
      const vi at = lane + x;
      select((at >= lo) & (at < hi), Vec::load(s + x), Vec(-kInf)).store(s + x);
    }
  };
  const int first = (lo + kWidth - 1) / kWidth * kWidth, last = hi / kWidth * kWidth;  // the visible whole vectors
  if (first >= last) return mask(0, static_cast<int>(n));
  mask(0, first);
  mask(last, static_cast<int>(n));
}

/// Calls f(x, keep) for every vector of s[0, n) with the dropout mask of row i, keys from j (a multiple of 64).
template <class F>
SACCADE_FN void for_dropout(const HeadTerms& t, int64_t i, int64_t j, int64_t n, F&& f) {
  const vi lane = iota();
  for (int64_t block = 0; block < n; block += 64)
    for (int part = 0; part < 16; part += kWidth) {
      Word c[4] = {Word((vu)(lane + static_cast<int32_t>((j + block) / 4 + part))), Word(static_cast<uint32_t>(i)),
                   Word(t.number), Word(0u)};
      math::philox(c, static_cast<uint32_t>(t.all.seed), static_cast<uint32_t>(t.all.seed >> 32));
      for (int r = 0; r < 4; ++r) {
        const int64_t x = block + 16 * r + part;
        if (x < n) f(x, (Mask)(c[r].v >= t.all.drop_below));
      }
    }
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
