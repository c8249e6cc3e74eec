#pragma once
#include "cpu/attention/gradient.h"

// The bias's gradient: a unit owns one tile of it and sweeps every pair that the tile was broadcast to, in a fixed
// order. That recomputes two products, and keeps a broadcast bias (over batch, heads, queries or keys) deterministic
// and without a buffer.
namespace saccade::cpu::SACCADE_ISA {
namespace {

struct TileScratch {
  KeyChunk& chunk;
  GradientTile& tile;
  float* sum;  // [kGradientRows][kGradientKeys]
};

struct BiasGradient {
  TensorView to;  // (B|1, Hq|1, Nq|1, Nk|1)
  int64_t batch, heads, rows, columns;
  int64_t tiles, chunks;  // of one (batch, head) of the gradient; 1 where that axis is broadcast
  bool all_batch, all_heads, all_rows, all_columns;

  BiasGradient(const TensorView& t, const Sequences& s) : to(t) {
    batch = to.shape[0], heads = to.shape[1], rows = to.shape[2], columns = to.shape[3];
    all_batch = batch == 1 && s.batch != 1, all_heads = heads == 1 && s.query_heads != 1;
    all_rows = rows == 1, all_columns = columns == 1;
    tiles = (rows + kGradientRows - 1) / kGradientRows;
    chunks = (columns + kGradientKeys - 1) / kGradientKeys;
  }
};

template <class T>
void bias_tile(const BiasGradient& g, const Terms& terms, const GradientRow& row, const Sequences& s,
               const AttentionBackward& p, const RowGradients& rows, const TileScratch& w, int64_t unit) {
  const int64_t chunk0 = unit % g.chunks, tile0 = unit / g.chunks % g.tiles;
  const int64_t h0 = unit / (g.chunks * g.tiles) % g.heads, b0 = unit / (g.chunks * g.tiles * g.heads);
  for (int i = 0; i < kGradientRows * kGradientKeys; ++i) w.sum[i] = 0;

  for (int64_t b = g.all_batch ? 0 : b0; b < (g.all_batch ? s.batch : b0 + 1); ++b) {
    const math::Range range = s.range(b, p.visit);
    for (int64_t h = g.all_heads ? 0 : h0; h < (g.all_heads ? s.query_heads : h0 + 1); ++h) {
      const int64_t hk = h / s.group, row0 = rows.at(s, b, h);
      const HeadTerms head(terms, s, range, b, h);
      const Rows query = s.rows(p.query, b, h, s.query_start(b)), dout = s.rows(p.dout, b, h, s.query_start(b));
      const int64_t j0 = g.all_columns ? 0 : chunk0 * kGradientKeys;
      for (int64_t j = j0; j < range.keys && (g.all_columns || j == j0); j += kGradientKeys) {
        w.chunk.load<T>(s.rows(p.key, b, hk, s.key_start(b)), s.rows(p.value, b, hk, s.key_start(b)), range.keys, j,
                        terms.scale2, s.head_dim, s.value_dim);
        const int64_t i0 = g.all_rows ? 0 : tile0 * kGradientRows;
        for (int64_t i = i0; i < range.queries && (g.all_rows || i == i0); i += kGradientRows) {
          const int64_t end = i + kGradientRows < range.queries ? i + kGradientRows : range.queries;
          if (range.key_begin(i) >= j + w.chunk.count || range.key_end(end - 1) <= j) continue;
          w.tile.load<T>(query, dout, i, end, s.head_dim, s.value_dim);
          w.tile.compute(head, row, w.chunk, rows, row0, s.head_dim, s.value_dim, true);
          for (int r = 0; r < w.tile.rows; ++r) {
            float* to = w.sum + (g.all_rows ? 0 : r) * kGradientKeys;
            const float* from = w.tile.dscore[r];
            if (g.all_columns)
              for (int64_t x = 0; x < w.chunk.count; ++x) to[0] += from[x];
            else
              for (int64_t x = 0; x < round_up(w.chunk.count, kNr); x += kWidth)
                (Vec::load(to + x) + Vec::load(from + x)).store(to + x);
          }
        }
      }
    }
  }

  with_operand(g.to.dtype, [&]<class S>(S) {
    auto* base = static_cast<typename S::Storage*>(g.to.data) + b0 * g.to.stride[0] + h0 * g.to.stride[1];
    for (int64_t i = tile0 * kGradientRows; i < g.rows && i < (tile0 + 1) * kGradientRows; ++i)
      for (int64_t j = chunk0 * kGradientKeys; j < g.columns && j < (chunk0 + 1) * kGradientKeys; ++j)
        base[i * g.to.stride[2] + j * g.to.stride[3]] =
            S::store(w.sum[(i - tile0 * kGradientRows) * kGradientKeys + j - chunk0 * kGradientKeys]);
  });
}

/// Units run on the workers' tile scratch, which `scratch(worker)` gives.
template <class T, class F>
void run_bias_gradient(const BiasGradient& g, const Terms& terms, const GradientRow& row, const Sequences& s,
                       const AttentionBackward& p, const RowGradients& rows, const Context& context, const F& scratch) {
  for_units(context, g.batch * g.heads * g.tiles * g.chunks,
            [&](int64_t worker, int64_t u) { bias_tile<T>(g, terms, row, s, p, rows, scratch(worker), u); });
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
