#pragma once
#include "cpu/attention/gradient.h"

// The relative term's gradients. dT, the gradient of a tile's table products, is dS with row r moved r places to the
// right: with zeros between the rows of dS it is read as it lies, by a stride of one element more than the row's. So
// dQ += dT·R and dR += dTᵀ·Q are products like the others. What falls on the edges is one sum a query and side, which
// enters dQ and dR once, at the end.
namespace saccade::cpu::SACCADE_ISA {
namespace {

/// One tile's view of its dS, and the sums of its rows over the keys on either edge.
struct RelativeTile {
  float edges[2][kGradientRows];
  float* ds;           // the tile's dscore, made T's by zeros in the room between its rows
  int64_t e0;          // column of row 0 and key 0 of the chunk; row r's is e0 − r
  int64_t begin, end;  // columns between the edges that the tile sees

  void begin_tile(GradientTile& x, const KeyChunk& k, const math::Range& range, int64_t reach) {
    const int columns = static_cast<int>(round_up(k.count, kNr));
    ds = x.dscore[0];
    e0 = k.first - range.position(x.first);
    begin = larger(larger(e0 - x.rows + 1, -range.left), 1 - reach);
    end = x.rows == 0 ? begin : smaller(smaller(e0 + k.count - 1, range.right), reach - 1) + 1;
    const vi lane = iota();
    for (int c = 0; c < kSkewGap; c += kWidth) Vec(0.0f).store(x.dscore_room + c);
    for (int r = 0; r < x.rows; ++r) {
      float* row = x.dscore[r];
      for (int c = columns; c < kGradientRow; c += kWidth) Vec(0.0f).store(row + c);
      const int64_t a = 1 - reach - (e0 - r), b = larger(a, reach - (e0 - r));  // columns [a, b) are between the edges
      Vec sums[2] = {Vec(0.0f), Vec(0.0f)};
      for (int c = 0; c < columns && c < a; c += kWidth)
        sums[0] = sums[0] + select(lane < static_cast<int>(smaller(a, columns)) - c, Vec::load(row + c), Vec(0.0f));
      for (int c = b < 0 ? 0 : static_cast<int>(smaller(b, columns) / kWidth * kWidth); c < columns; c += kWidth)
        sums[1] = sums[1] + select(lane >= static_cast<int>(larger(b, 0)) - c, Vec::load(row + c), Vec(0.0f));
      for (int side = 0; side < 2; ++side) edges[side][r] = sum(sums[side]);
    }
  }
  const float* at(int64_t r, int64_t e) const { return ds + r * (kGradientRow + 1) + (e - e0); }
};

/// Where the tables' gradients add up. Units (chunks of keys) of one key head take `slots` partial tables in turn, each
/// waiting for the one that used its own before: the sum has one order, and 16 units at least run side by side.
struct RelativeGradient {
  bool present = false, keys = false, bias = false;  // is there a term; are its gradients wanted?
  int64_t slots = 0, key_heads = 0;
  float *dkeys = nullptr, *dbias = nullptr;  // [slot][Hq][columns][row], [slot][Hq][columns + kNr]
  float* edges[2] = {};                      // of every query row: sums of dS over the keys on an edge
  std::atomic<int64_t>* turn = nullptr;      // [Hk][slot]: units done
  RelativeTile* tiles = nullptr;             // [thread]

  void reserve(Arena& a, const AttentionBackward& p, const Relative& t, const Sequences& s, int64_t rows, int64_t units,
               int threads) {
    present = static_cast<bool>(t);
    if (!present) return;
    keys = static_cast<bool>(p.drelative_keys), bias = static_cast<bool>(p.drelative_bias);
    key_heads = s.key_heads;
    slots = smaller(units, pieces(16, larger(key_heads, 1)));
    if (keys) dkeys = a.take<float>(slots * s.query_heads * t.columns * t.row);
    if (bias) dbias = a.take<float>(slots * s.query_heads * (t.columns + kNr));
    for (float*& side : edges) side = a.take<float>(s.query_heads * rows);
    turn = a.take<std::atomic<int64_t>>(key_heads * slots);
    tiles = a.take<RelativeTile>(threads);
    for (int64_t n = 0; a.base && n < key_heads * slots; ++n) turn[n].store(0, std::memory_order_relaxed);
  }

  /// Unit n of key head hk gets its slot, and gives it back.
  void begin_unit(const Relative& t, const Sequences& s, int64_t n, int64_t hk) const {
    wait_for(turn[hk * slots + n % slots], n / slots);
    if (n >= slots) return;
    const int64_t h = n % slots * s.query_heads + hk * s.group, each = t.columns * t.row, each_bias = t.columns + kNr;
    for (int64_t x = 0; dkeys && x < s.group * each; ++x) dkeys[h * each + x] = 0;
    for (int64_t x = 0; dbias && x < s.group * each_bias; ++x) dbias[h * each_bias + x] = 0;
  }
  void end_unit(int64_t n, int64_t hk) const { turn[hk * slots + n % slots].fetch_add(1, std::memory_order_release); }

  /// Adds a tile's share of the tables' gradients, between the edges, to those of unit n.
  void add_tables(const Relative& t, const Sequences& s, const RelativeTile& x, const GradientTile& g, int64_t count,
                  int64_t n, int64_t h) const {
    const int64_t at = n % slots * s.query_heads + h;
    const auto rows_of = [&](int64_t e, int64_t m, int64_t* from, int64_t* to) {
      *from = larger(0, x.e0 - (e + m - 1));
      *to = smaller(g.rows, count + x.e0 - e);
    };
    int64_t from, to;
    for (int64_t e = x.begin; keys && e < x.end; e += kMr) {
      const int m = static_cast<int>(smaller(kMr, x.end - e));
      rows_of(e, m, &from, &to);
      float* sums = dkeys + (at * t.columns + e - t.low) * t.row;
      for (int64_t c = 0; c < m * t.row; c += 16) __builtin_prefetch(sums + c, 1);
      for (int64_t c = 0; c < t.head_dim && from < to; c += kNr)
        (g.query_finite ? tile<true, 1, kGradientRow + 1>
                        : tile_nonfinite<1, kGradientRow + 1>)(m, panel_vectors(c, t.head_dim), to - from,
                                                               x.at(from, e), g.query[from] + c, kRowStride, sums + c,
                                                               t.row);
    }
    for (int64_t e = x.begin; bias && e < x.end; e += kWidth) {
      rows_of(e, kWidth, &from, &to);
      float* sums = dbias + at * (t.columns + kNr) + e - t.low;
      Vec sum = Vec::load(sums);
      for (int64_t r = from; r < to; ++r) sum = sum + Vec::load(x.at(r, e));
      sum.store(sums);
    }
  }
};

/// dq of a tile += dT·R, between the edges.
inline void add_relative_query_gradient(const HeadRelative& t, const RelativeTile& x, const GradientTile& g,
                                        float* dq) {
  for (int64_t c = 0; t.rows && c < t.head_dim; c += kNr)
    for (int n = 0; n < g.strips; ++n) {
      const int r = n * kMr, m = g.strip_rows(n);
      const int64_t begin = larger(x.begin, x.e0 + g.lo[n] - (r + m - 1)), end = smaller(x.end, x.e0 + g.hi[n] - r);
      if (g.lo[n] >= g.hi[n] || begin >= end) continue;
      bool finite = true;
      for (int64_t p = (begin - t.low) / kNr; p <= (end - 1 - t.low) / kNr; ++p) finite &= t.finite[p];
      (finite ? tile<true, kGradientRow + 1, 1>
              : tile_nonfinite<kGradientRow + 1, 1>)(m, panel_vectors(c, t.head_dim), end - begin, x.at(r, begin),
                                                     t.rows + (begin - t.low) * t.row + c, t.row, dq + r * t.row + c,
                                                     t.row);
    }
}

/// dq of one row += what its keys on the edges give.
inline void add_edge_query_gradient(const HeadRelative& t, const float (&sums)[2], float* dq) {
  for (int side = 0; side < 2; ++side)
    if (t.edges && sums[side] != 0)
      for (int64_t c = 0; c < t.row; c += kWidth)
        fma(Vec(sums[side]), Vec::load(t.edges + side * t.row + c), Vec::load(dq + c)).store(dq + c);
}

/// Row `unit` of the tables' gradients: the slots' sums, or those of the queries that have keys on an edge.
template <class T>
void reduce_relative(const RelativeGradient& g, const Relative& t, const Sequences& s, const AttentionBackward& p,
                     const RowGradients& rows, int64_t unit) {
  const int64_t size = 2 * t.reach + 1, head = unit / size, e = t.reach - unit % size;
  const auto sum_of = [&](const TensorView& to, auto&& slot, auto&& edge) {
    if (!to || head >= to.shape[0]) return;
    const bool all = to.shape[0] == 1;
    for (int64_t h = all ? 0 : head; h < (all ? s.query_heads : head + 1); ++h) {
      if (-t.reach < e && e < t.reach && e >= t.low && e < t.low + t.columns)
        for (int64_t n = 0; n < g.slots; ++n) slot(n * s.query_heads + h);
      for (int side = 0; side < 2; ++side)
        if (e == (side ? t.reach : -t.reach))
          for (int64_t b = 0; b < s.batch; ++b) edge(h, b, g.edges[side] + rows.at(s, b, h));
    }
  };
  alignas(64) float total[kRowStride], part[kRowStride], q[kRowStride];
  for (int64_t c = 0; c < t.row; ++c) total[c] = 0;
  const auto add = [&](float* to, float f, const float* from) {
    for (int64_t c = 0; c < t.row; c += kWidth) fma(Vec(f), Vec::load(from + c), Vec::load(to + c)).store(to + c);
  };
  sum_of(
      p.drelative_keys, [&](int64_t at) { add(total, 1, g.dkeys + (at * t.columns + e - t.low) * t.row); },
      [&](int64_t h, int64_t b, const float* sums) {
        const Rows query = s.rows(p.query, b, h, s.query_start(b));
        for (int64_t i0 = 0; i0 < s.query_count(b); i0 += kGradientRows) {
          for (int64_t c = 0; c < t.row; ++c) part[c] = 0;
          for (int64_t i = i0; i < i0 + kGradientRows && i < s.query_count(b); ++i)
            if (sums[i] != 0) {
              load_row<T>(query, i, t.head_dim, 1.0f, q);
              add(part, sums[i], q);
            }
          add(total, 1, part);
        }
      });
  double bias = 0;
  sum_of(
      p.drelative_bias, [&](int64_t at) { bias += g.dbias[at * (t.columns + kNr) + e - t.low]; },
      [&](int64_t, int64_t b, const float* sums) {
        for (int64_t i = 0; i < s.query_count(b); ++i) bias += sums[i];
      });
  const float scale = static_cast<float>(p.score.scale);
  if (const TensorView& to = p.drelative_keys; to && head < to.shape[0])
    store_row<T>({static_cast<char*>(to.data) + head * to.stride[0] * dtype_size(to.dtype), to.stride[1], to.stride[2]},
                 unit % size, t.head_dim, scale, total);
  if (const TensorView& to = p.drelative_bias; to && head < to.shape[0])
    static_cast<float*>(to.data)[head * to.stride[0] + unit % size * to.stride[1]] = static_cast<float>(scale * bias);
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
