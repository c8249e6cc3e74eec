#pragma once
#include "cpu/attention/work.h"

// The relative term of a score, q_i·R_δ + β_δ with δ = p_i − j clipped to [−P, P], added to the product q·k. A table is
// kept in the order of the keys: column e = j − p_i holds R_{−e}, so that a row of scores takes in a run of columns,
// one place to the left of its predecessor's. All columns up to −P are one row of the table, all from P on another (the
// edges): far from the diagonal the term is one dot a query.
namespace saccade::cpu::SACCADE_ISA {
namespace {

// Room between rows of scores: a panel that starts up to kWidth − 1 columns early reaches kMr − 1 further in its last
// row. With it rows are an odd number of cache lines apart.
constexpr int kSkewGap = 48;

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/// The term of one problem. Columns low … low + columns − 1, whole panels that hold what any strip of queries reads
/// between the edges, are packed by `pack_relative`; the split-KV form reads the tables where they lie.
struct Relative {
  TensorView keys, bias;                                // (Hq|1, 2P+1, D), (Hq|1, 2P+1), stride 0 for one head
  int64_t reach = 0;                                    // P
  int64_t low = 0, columns = 0, head_dim = 0, row = 0;  // row: D up to a whole panel
  float *panels = nullptr, *edges = nullptr;            // [head][panel][D][kNr], [head][2][row]
  float* rows = nullptr;                                // for the backward: [head][columns][row]
  bool* finite = nullptr;                               // [head][panel] of rows
  float* bias2 = nullptr;                               // [head][columns + kNr], as the products in the map's unit

  explicit Relative(const ScoreSpec& s) : keys(s.relative_keys), bias(s.relative_bias) {
    if (*this) reach = (keys ? keys : bias).shape[1] / 2;
  }
  explicit operator bool() const { return keys || bias; }

  /// Room for what the sequences read of which `packs(b)` holds.
  template <class Packs>
  void reserve(Arena& a, const Sequences& s, const VisitSpec& visit, bool backward, const Packs& packs) {
    int64_t first = INT64_MAX, last = INT64_MIN;
    for (int64_t b = 0; b < s.batch && *this; ++b)
      if (const math::Range r = s.range(b, visit); packs(b) && r.queries > 0 && r.keys > 0) {
        first = smaller(first, -smaller(r.left, r.keys - 1));
        last = larger(last, smaller(r.right, r.queries - 1));
      }
    head_dim = s.head_dim;
    row = round_up(head_dim, kNr);
    if (first > last) return;
    // A strip starts on a panel of keys, and its rows together see kMr − 1 keys more than one of them.
    low = larger(1 - reach, first - kNr - kMr);
    columns = round_up(larger(smaller(reach, last + kNr + kMr) - low, 1), kNr);
    if (keys) {
      panels = a.take<float>(keys.shape[0] * columns * head_dim);
      edges = a.take<float>(keys.shape[0] * 2 * row);
      if (backward) {
        rows = a.take<float>(keys.shape[0] * columns * row);
        finite = a.take<bool>(keys.shape[0] * columns / kNr);
      }
    }
    if (bias) bias2 = a.take<float>(bias.shape[0] * (columns + kNr));
  }

  int64_t heads() const { return larger(keys ? keys.shape[0] : 0, bias ? bias.shape[0] : 0); }
  int64_t key_head(int64_t h) const { return keys.shape[0] == 1 ? 0 : h; }
  int64_t bias_head(int64_t h) const { return bias.shape[0] == 1 ? 0 : h; }
  /// The tables of head h with column e as row e.
  Rows key_columns(int64_t h) const {
    return {static_cast<char*>(keys.data) + (h * keys.stride[0] + reach * keys.stride[1]) * dtype_size(keys.dtype),
            -keys.stride[1], keys.stride[2]};
  }
  Rows bias_columns(int64_t h) const {
    return {static_cast<char*>(bias.data) + (h * bias.stride[0] + reach * bias.stride[1]) * dtype_size(bias.dtype),
            -bias.stride[1], 0};
  }
};

/// One panel of columns of one head of the tables.
template <class T>
void pack_panel_of_relative(const Relative& t, float scale, float scale2, int64_t h, int64_t c) {
  const int64_t e = t.low + c, end = smaller(t.reach, e + kNr);  // zeros from the edge on
  if (t.panels && h < t.keys.shape[0]) {
    const Rows from = t.key_columns(h);
    pack_panel_transposed<T>(from, e, end, t.head_dim, scale, t.panels + (h * t.columns + c) * t.head_dim);
    float* rows = t.rows ? t.rows + (h * t.columns + c) * t.row : nullptr;
    for (int64_t i = 0; rows && i < kNr; ++i)
      if (e + i < end)
        load_row<T>(from, e + i, t.head_dim, 1.0f, rows + i * t.row);
      else
        for (int64_t x = 0; x < t.row; ++x) rows[i * t.row + x] = 0;
    if (rows) t.finite[(h * t.columns + c) / kNr] = all_finite(rows, kNr * t.row);
    for (int side = 0; side < 2 && c == 0; ++side)
      load_row<T>(from, side ? t.reach : -t.reach, t.head_dim, 1.0f, t.edges + (h * 2 + side) * t.row);
  }
  if (t.bias2 && h < t.bias.shape[0]) {
    const Rows from = t.bias_columns(h);
    float* to = t.bias2 + h * (t.columns + kNr) + c;
    const int64_t count = c + kNr == t.columns ? 2 * kNr : kNr;
    for (int64_t i = 0; i < count; ++i) to[i] = e + i <= t.reach ? *from.at<const float>(e + i) * scale2 : 0;
  }
}

/// `scale` of the panels: what the queries they meet lack of `scale2`, the products'.
template <class T>
void pack_relative(const Relative& t, float scale, float scale2, const Context& context) {
  const int64_t panels = t.columns / kNr;
  for_units(context, panels * t.heads(),
            [&](int64_t, int64_t u) { pack_panel_of_relative<T>(t, scale, scale2, u / panels, u % panels * kNr); });
}

/// The term as one query head sees it.
struct HeadRelative {
  bool present = false;
  int64_t reach = 0, low = 0, columns = 0, head_dim = 0, row = 0;
  const float *panels = nullptr, *edges = nullptr, *rows = nullptr, *bias2 = nullptr;
  const bool* finite = nullptr;
  float bias2_edges[2] = {};

  HeadRelative(const Relative& t, int64_t h, float scale2) : present(t) {
    if (!present) return;
    reach = t.reach, low = t.low, columns = t.columns, head_dim = t.head_dim, row = t.row;
    if (t.panels) {
      const int64_t at = t.key_head(h);
      panels = t.panels + at * columns * head_dim, edges = t.edges + at * 2 * row;
      if (t.rows) rows = t.rows + at * columns * row, finite = t.finite + at * columns / kNr;
    }
    if (!t.bias) return;
    if (t.bias2) bias2 = t.bias2 + t.bias_head(h) * (columns + kNr);
    const Rows from = t.bias_columns(h);
    for (int side = 0; side < 2; ++side) bias2_edges[side] = *from.at<const float>(side ? reach : -reach) * scale2;
  }
};

inline float dot_rows(const float* x, const float* y, int64_t n) {
  Vec sums(0.0f);
  for (int64_t c = 0; c < n; c += kWidth) sums = fma(Vec::load(x + c), Vec::load(y + c), sums);
  return sum(sums);
}

/// s[lo, hi) += of[x] (null: 0) for x in [a, b), one edge before and the other behind; whole vectors are touched.
inline void add_run(float* s, int lo, int hi, int64_t a, int64_t b, const float* of, float below, float above) {
  for (int x = lo; x < hi; x += kWidth) {
    Vec term(below);
    if (x >= a && x + kWidth <= b) {
      if (!of) continue;
      term = Vec::load(of + x);
    } else if (x >= a && x >= b) {
      term = Vec(above);
    } else if (x + kWidth > a) {
      alignas(64) float mixed[kWidth];
      for (int i = 0; i < kWidth; ++i) mixed[i] = x + i < a ? below : x + i >= b ? above : of ? of[x + i] : 0;
      term = Vec::load(mixed);
    }
    (Vec::load(s + x) + term).store(s + x);
  }
}

/// Adds the term to score[lo, hi) of the m rows from i of a strip, keys from j0. Rows of scores are kRow apart, of
/// which the kSkewGap floats before every row are room: by rows of kRow + 1 a panel of columns lies on them as on those
/// of T. `factor` is what the edges lack of the panels' scale.
template <int kRow>
__attribute__((noinline)) void add_relative(const HeadRelative& t, const math::Range& range, int64_t i, int m,
                                            int64_t j0, int lo, int hi, const float* query, float factor,
                                            float* score) {
  const int64_t e0 = j0 - range.position(i);  // column of key j0 in the first row; e0 − r in row r
  const int64_t first = e0 + lo - (m - 1), last = e0 + hi - 1, end = smaller(last + 1, t.reach);
  const int64_t begin = t.low + (larger(first, 1 - t.reach) - t.low) / kWidth * kWidth;
  if (t.panels)
    for (int64_t e = begin, n; e < end; e += n) {
      const int64_t c = e - t.low, in_panel = c % kNr;
      n = in_panel || end - e <= kWidth ? kWidth : kNr;
      tile<true, kRowStride, 1>(m, n == kNr ? 2 : 1, t.head_dim, query,
                                t.panels + (c - in_panel) * t.head_dim + in_panel, kNr, score + (e - e0), kRow + 1);
    }
  const bool below = first <= -t.reach, above = last >= t.reach;
  for (int r = 0; r < m; ++r) {
    const int64_t a = 1 - t.reach - (e0 - r), b = t.reach - (e0 - r);
    float* s = score + r * kRow;
    if (t.panels && (below || above)) {
      const float* q = query + r * kRowStride;
      add_run(s, lo, hi, a, b, nullptr, below ? factor * dot_rows(q, t.edges, t.row) : 0,
              above ? factor * dot_rows(q, t.edges + t.row, t.row) : 0);
    }
    if (t.bias2) add_run(s, lo, hi, a, b, t.bias2 + (e0 - r - t.low), t.bias2_edges[0], t.bias2_edges[1]);
  }
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
