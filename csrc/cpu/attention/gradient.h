#pragma once
#include "cpu/attention/online.h"
#include "cpu/attention/work.h"

// One tile of the backward: weights and score gradients of kGradientRows queries against kGradientKeys keys,
// recomputed.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr int kGradientRows = 96;  // a multiple of every kMr
constexpr int kGradientKeys =
    128;  // a multiple of kNr and of 64 (dropout); with D = 128 one thread's tiles are about 600 KiB
constexpr int kGradientRow = kGradientKeys + kSkewGap;

/// Per query row: what the forward left, and what the sweep over keys adds up.
struct RowGradients {
  float *lse2,
      *delta;  // lse·log2 e (+inf for an empty row: all weights 0); D − dlse. Null where the map has no row sum
  float *temperature, *gate, *slope, *bias;  // null unless wanted
  int64_t rows;                              // of one head: B·Nq or Tq

  int64_t at(const Sequences& s, int64_t b, int64_t h) const {
    return h * rows + (s.packed ? s.query_start(b) : b * s.queries);
  }
};

/// Keys and values of one chunk of one head, in both orders.
struct KeyChunk {
  alignas(64) float key_panels[kGradientKeys * kMaxHeadDim];    // [panel][D][kNr], scaled
  alignas(64) float value_panels[kGradientKeys * kMaxHeadDim];  // [panel][Dv][kNr]
  alignas(64) float keys[kGradientKeys][kRowStride];
  int64_t first, count;
  bool keys_finite, values_finite;

  template <class T>
  void load(const Rows& k, const Rows& v, int64_t total, int64_t j0, float scale2, int64_t d, int64_t dv) {
    first = j0;
    count = total - j0 < kGradientKeys ? total - j0 : kGradientKeys;
    keys_finite = values_finite = true;
    for (int64_t j = 0; j < count; j += kNr) {
      pack_panel_transposed<T>(k, j0 + j, total, d, scale2, key_panels + j * d);
      pack_panel_transposed<T>(v, j0 + j, total, dv, 1.0f, value_panels + j * dv);
      values_finite &= all_finite(value_panels + j * dv, kNr * dv);
    }
    for (int64_t j = 0; j < count; ++j) {
      load_row<T>(k, j0 + j, d, 1.0f, keys[j]);
      keys_finite &= all_finite(keys[j], round_up(d, kNr));
    }
  }
};

struct GradientTile;

/// One row of a tile: products to weights, gradients of weights to gradients of scores.
struct GradientRow {
  bool flat_at_zero;
  void (*plain)(float* w, float* ds, int from, int to, float reference, float delta);
  void (*general)(GradientTile&, const HeadTerms&, int r, int from, int to, int64_t j0, float reference, float delta,
                  bool of_score);
};

struct GradientTile {
  alignas(64) float query[kGradientRows][kRowStride];
  alignas(64) float dout[kGradientRows][kRowStride];
  float weight_room[kSkewGap],
      weight[kGradientRows][kGradientRow];  // products, then gate·dropout·w: what multiplies dout
  float dscore_room[kSkewGap], dscore[kGradientRows][kGradientRow];  // dw, then the gradient of scale·q·k
  float row_temperature[kGradientRows], row_gate[kGradientRows], row_slope[kGradientRows], row_bias[kGradientRows];
  int lo[kGradientRows / kMr], hi[kGradientRows / kMr];  // columns that some row of the strip sees, lo on a panel
  int64_t first;
  int rows, strips;
  bool query_finite, dout_finite;

  int strip_rows(int t) const { return rows - t * kMr < kMr ? rows - t * kMr : kMr; }

  template <class T>
  void load(const Rows& q, const Rows& dq, int64_t i0, int64_t i1, int64_t d, int64_t dv) {
    first = i0;
    rows = static_cast<int>(i1 - i0);
    strips = (rows + kMr - 1) / kMr;
    query_finite = dout_finite = true;
    for (int r = 0; r < rows; ++r) {
      load_row<T>(q, i0 + r, d, 1.0f, query[r]);
      load_row<T>(dq, i0 + r, dv, 1.0f, dout[r]);
      query_finite &= all_finite(query[r], round_up(d, kNr));
      dout_finite &= all_finite(dout[r], round_up(dv, kNr));
    }
  }

  /// Fills weight and dscore for this tile against the chunk; with `of_score`, dscore is the gradient of the score (the
  /// bias's) instead of that of scale·q·k.
  void compute(const HeadTerms& t, const GradientRow& row, const KeyChunk& k, const RowGradients& g, int64_t row0,
               int64_t d, int64_t dv, bool of_score = false) {
    const int columns = static_cast<int>(round_up(k.count, kNr));
    for (int x = 0; x < strips; ++x) {
      const int64_t last = first + x * kMr + strip_rows(x) - 1;
      const int64_t from = t.range.key_begin(first + x * kMr) - k.first, to = t.range.key_end(last) - k.first;
      lo[x] = static_cast<int>(from < 0 ? 0 : from > columns ? columns : from / kNr * kNr);
      hi[x] = static_cast<int>(to < lo[x] ? lo[x] : to < k.count ? to : k.count);
    }
    for (int c = 0; c < columns; c += kNr)
      for (int x = 0; x < strips; ++x)
        if (lo[x] <= c && c < hi[x]) {
          tile<false, kRowStride, 1>(strip_rows(x), 2, d, query[x * kMr], k.key_panels + c * d, kNr,
                                     weight[x * kMr] + c, kGradientRow);
          tile<false, kRowStride, 1>(strip_rows(x), 2, dv, dout[x * kMr], k.value_panels + c * dv, kNr,
                                     dscore[x * kMr] + c, kGradientRow);
        }
    for (int x = 0; x < strips && t.relative.present; ++x)
      if (lo[x] < hi[x])
        add_relative<kGradientRow>(t.relative, t.range, first + x * kMr, strip_rows(x), k.first, lo[x], hi[x],
                                   query[x * kMr], t.all.scale2, weight[x * kMr]);
    const bool plain = !t.modifies && !t.all.gate && !t.all.drop_below && !g.bias && row.flat_at_zero &&
                       k.values_finite && dout_finite;
    for (int r = 0; r < rows; ++r) {
      const int from = lo[r / kMr], to = static_cast<int>(round_up(hi[r / kMr], kNr));
      float *w = weight[r], *ds = dscore[r];
      for (int x = 0; x < columns; x += kWidth)
        if (x < from || x >= to) {
          Vec(0.0f).store(w + x);
          Vec(0.0f).store(ds + x);
        }
      row_temperature[r] = row_gate[r] = row_slope[r] = row_bias[r] = 0;
      if (from == to) continue;
      const int64_t i = first + r;
      const float reference = g.lse2 ? g.lse2[row0 + i] : -t.bias2, delta = g.delta ? g.delta[row0 + i] : 0;
      if (plain && reference == reference && delta - delta == 0) {
        if (t.range.key_begin(i) > k.first + from || t.range.key_end(i) < k.first + to)
          mask_row(t.range, w + from, i, k.first + from, to - from);
        row.plain(w, ds, from, to, reference, delta);
      } else {
        row.general(*this, t, r, from, to, k.first, reference, delta, of_score);
      }
    }
  }

  /// A row under any modifier, or of statistics that are not finite. Where the weight is 0 (and the map flat) nothing
  /// flows, whatever stands in the operands.
  template <class Score>
  void general_row(const HeadTerms& t, int r, int from, int to, int64_t j0, float reference, float delta,
                   bool of_score) {
    alignas(64) float product[kGradientKeys], capped[kGradientKeys], keep[kGradientKeys];
    float *w = weight[r], *ds = dscore[r];
    const int64_t i = first + r;
    for (int x = from; x < to; x += kWidth) {
      Vec::load(w + x).store(product + x);
      Vec(1.0f).store(keep + x);
    }
    modify_row(t, w + from, i, j0 + from, to - from, capped + from);
    mask_row(t.range, w + from, i, j0 + from, to - from);
    if (t.all.drop_below)
      for_dropout(t, i, j0, to,
                  [&](int64_t x, Mask m) { select(m, Vec(t.all.keep_scale), Vec(0.0f)).store(keep + x); });

    const float factor = t.all.temperature ? *t.temperature.at<const float>(i) : 1.0f;
    const Vec gate(t.gate_at(i)), zero(0.0f), cap(t.all.softcap2);
    Vec distance = Vec(__builtin_convertvector(iota(), vf)) + Vec(static_cast<float>(j0 + from - t.range.position(i)));
    Vec dgate(0.0f), dslope(0.0f), dtemperature(0.0f), dbias(0.0f);
    for (int x = from; x < to; x += kWidth, distance = distance + Vec(kWidth)) {
      const Vec score = Vec::load(w + x), m = Vec::load(keep + x);
      Vec p = Score::weight(score, Vec(reference));
      Mask none = score == Vec(-kInf);
      if constexpr (Score::kFlatAtZero) none = none | (p == zero);
      p = select(none, zero, p);
      const Vec dp = select(none, zero, Vec::load(ds + x));
      dgate = fma(p * m, dp, dgate);
      const Vec dscore = select(none, zero, Score::grad(score - Vec(reference), p, gate * m * dp, Vec(delta)));
      dbias = dbias + dscore;
      dslope = dslope - dscore * abs(distance);
      Vec dx = dscore;
      if (t.all.softcap2 != 0) dx = select(none, zero, dx * math::softcap_grad(Vec::load(capped + x), cap));
      dtemperature = fma(dx, select(none, zero, Vec::load(product + x)), dtemperature);
      (p * m * gate).store(w + x);
      (of_score ? dscore : dx * Vec(factor)).store(ds + x);
    }
    row_gate[r] = sum(dgate);
    row_slope[r] = sum(dslope);
    row_bias[r] = sum(dbias);
    row_temperature[r] = sum(dtemperature) / t.all.unit;
  }
};

template <class Score>
void plain_row(float* w, float* ds, int from, int to, float reference, float delta) {
  for (int x = from; x < to; x += kWidth) {
    const Vec s = Vec::load(w + x), p = Score::weight(s, Vec(reference));
    p.store(w + x);
    Score::grad(s - Vec(reference), p, Vec::load(ds + x), Vec(delta)).store(ds + x);
  }
}

inline GradientRow gradient_row_of(ScoreMap map) {
  return math::with_score(map, []<class Score>(Score) {
    return GradientRow{
        Score::kFlatAtZero, plain_row<Score>,
        [](GradientTile& tile, const HeadTerms& t, int r, int from, int to, int64_t j0, float reference, float delta,
           bool of_score) { tile.general_row<Score>(t, r, from, to, j0, reference, delta, of_score); }};
  });
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
