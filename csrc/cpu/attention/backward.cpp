#include "cpu/attention/bias_gradient.h"
#include "cpu/attention/entry.h"
#include "cpu/attention/gradient.h"
#include "cpu/attention/reduce.h"
#include "cpu/attention/relative_gradient.h"

// Key-stationary backward: a unit owns a chunk of keys of one head, keeps its dK and dV, and walks the query tiles that
// see it. Each unit adds its share of dQ in the order of the chunks, so five products suffice, with no atomics on data
// and the same bits for any number of threads. A unit only ever waits for one with a lower number, which some thread
// already holds.
namespace saccade::cpu::SACCADE_ISA {
namespace {

struct BackwardPlan {
  Sequences seq;
  Terms terms;
  GradientRow row;
  int64_t query_columns;       // D up to a whole panel
  Pieces chunks, tiles;        // of keys, of queries
  std::atomic<int32_t>* done;  // [Hq][tile]: chunks that have added to the tile's dQ
  float* dquery;               // [Hq][row][query_columns]
  RowGradients rows;
  RelativeGradient relative;
  int64_t bytes;

  struct Scratch {
    KeyChunk chunk;
    GradientTile tile;
    alignas(64) float dkey[kGradientKeys][kRowStride];
    alignas(64) float dvalue[kGradientKeys][kRowStride];
  }* scratch;
  double* sums;  // of a parameter's gradient, as many as its elements

  BackwardPlan(const AttentionBackward& p, int threads, void* workspace)
      : seq(p), terms(p.score), row(gradient_row_of(p.score.map)), query_columns(round_up(seq.head_dim, kNr)) {
    Arena a{static_cast<char*>(workspace)};
    const int64_t batch = seq.batch, heads = seq.query_heads;
    chunks = Pieces::make(a, batch, [&](int64_t b) { return pieces(seq.key_count(b), kGradientKeys); });
    tiles = Pieces::make(a, batch, [&](int64_t b) { return pieces(seq.query_count(b), kGradientRows); });
    int64_t tile_count = 0;
    for (int64_t b = 0; b < batch; ++b) tile_count += pieces(seq.query_count(b), kGradientRows);
    done = a.take<std::atomic<int32_t>>(heads * tile_count);
    rows.rows = seq.packed ? seq.queries : batch * seq.queries;
    dquery = a.take<float>(heads * rows.rows * query_columns);
    rows.lse2 = terms.row_state ? a.take<float>(heads * rows.rows) : nullptr;
    rows.delta = terms.row_state ? a.take<float>(heads * rows.rows) : nullptr;
    rows.temperature = p.dtemperature ? a.take<float>(heads * rows.rows) : nullptr;
    rows.gate = p.dhead_gate ? a.take<float>(heads * rows.rows) : nullptr;
    rows.slope = p.dalibi_slopes ? a.take<float>(heads * rows.rows) : nullptr;
    rows.bias = p.dscore_biases ? a.take<float>(heads * rows.rows) : nullptr;
    terms.relative.reserve(a, seq, p.visit, true, [](int64_t) { return true; });
    int64_t units = 0;
    for (int64_t b = 0; b < batch; ++b) units += pieces(seq.key_count(b), kGradientKeys);
    relative.reserve(a, p, terms.relative, seq, rows.rows, units, threads);
    scratch = a.take<Scratch>(threads);
    int64_t most = 0;
    for (const TensorView* t : {&p.dalibi_slopes, &p.dtemperature, &p.dsinks, &p.dhead_gate, &p.dscore_biases})
      if (*t && t->numel() > most) most = t->numel();
    sums = a.take<double>(most);
    bytes = a.used;
  }

  /// Chunks [first, last) of keys that some row of query tile [i0, i1) sees.
  static void visited(const math::Range& r, int64_t i0, int64_t i1, int64_t* first, int64_t* last) {
    *first = r.key_begin(i0) / kGradientKeys;
    *last = (r.key_end(i1 - 1) + kGradientKeys - 1) / kGradientKeys;
  }
};

/// δ, lse and cleared accumulators of one query tile; dQ of a tile that sees no key.
template <class T>
void prepare_tile(const BackwardPlan& plan, const AttentionBackward& p, int64_t unit) {
  const Sequences& s = plan.seq;
  const int64_t all = plan.tiles.total(s.batch), h = unit / all, b = plan.tiles.sequence(s.batch, unit % all);
  const math::Range range = s.range(b, p.visit);
  const int64_t i0 = (unit % all - plan.tiles.first[b]) * kGradientRows;
  const int64_t i1 = i0 + kGradientRows < range.queries ? i0 + kGradientRows : range.queries;
  const Rows out = s.rows(p.out, b, h, s.query_start(b)), dout = s.rows(p.dout, b, h, s.query_start(b));
  const Rows lse = s.scalars(p.lse, b, h);
  const int64_t row0 = plan.rows.at(s, b, h);
  alignas(64) float o[kRowStride], d[kRowStride];
  for (int64_t i = i0; i < i1; ++i) {
    for (float* sums : {plan.rows.temperature, plan.rows.gate, plan.rows.slope, plan.rows.bias, plan.relative.edges[0],
                        plan.relative.edges[1]})
      if (sums) sums[row0 + i] = 0;
    float* dq = plan.dquery + (row0 + i) * plan.query_columns;
    for (int64_t c = 0; c < plan.query_columns; c += kWidth) Vec(0.0f).store(dq + c);
    if (!plan.terms.row_state) continue;
    load_row<T>(out, i, s.value_dim, 1.0f, o);
    load_row<T>(dout, i, s.value_dim, 1.0f, d);
    Vec dot(0.0f);
    for (int64_t c = 0; c < s.value_dim; c += kWidth) dot = fma(Vec::load(o + c), Vec::load(d + c), dot);
    const float l = *lse.at<const float>(i);
    plan.rows.lse2[row0 + i] = l == -kInf ? kInf : l * plan.terms.unit;
    plan.rows.delta[row0 + i] = l == -kInf ? 0 : sum(dot) - (p.dlse ? *s.scalars(p.dlse, b, h).at<const float>(i) : 0);
  }
  plan.done[unit].store(0, std::memory_order_relaxed);
  int64_t first, last;
  BackwardPlan::visited(range, i0, i1, &first, &last);
  if (first < last) return;
  const Rows to = s.rows(p.dquery, b, h, s.query_start(b));
  for (int64_t i = i0; i < i1; ++i) store_row<T>(to, i, s.head_dim, 0, plan.dquery + (row0 + i) * plan.query_columns);
}

/// Adds one tile's share to the chunk's dK and dV.
inline void add_key_gradients(BackwardPlan::Scratch& w, const math::Range& range, int64_t d, int64_t dv) {
  const GradientTile& x = w.tile;
  for (int64_t key = 0; key < w.chunk.count; key += kMr) {
    const int m = w.chunk.count - key < kMr ? static_cast<int>(w.chunk.count - key) : kMr;
    int64_t from = range.query_begin(w.chunk.first + key) - x.first,
            to = range.query_end(w.chunk.first + key + m - 1) - x.first;
    from = from < 0 ? 0 : from;
    to = to < x.rows ? to : x.rows;
    if (from >= to) continue;
    const auto add = [&](const float* a, const float* b, float* c, int64_t columns, bool finite) {
      for (int64_t n = 0; n < columns; n += kNr)
        (finite ? tile<true, 1, kGradientRow> : tile_nonfinite<1, kGradientRow>)(m, panel_vectors(n, columns),
                                                                                 to - from, a, b + n, kRowStride, c + n,
                                                                                 kRowStride);
    };
    add(x.weight[from] + key, x.dout[from], w.dvalue[key], dv, x.dout_finite);
    add(x.dscore[from] + key, x.query[from], w.dkey[key], d, x.query_finite);
  }
}

template <class T>
void run_chunk(const BackwardPlan& plan, const AttentionBackward& p, BackwardPlan::Scratch& w, RelativeTile* skewed,
               int64_t unit) {
  const Sequences& s = plan.seq;
  const int64_t piece = unit / s.key_heads, hk = unit % s.key_heads, b = plan.chunks.sequence(s.batch, piece);
  const int64_t chunk = piece - plan.chunks.first[b], d = s.head_dim, dv = s.value_dim;
  const math::Range range = s.range(b, p.visit);
  const float scale = static_cast<float>(p.score.scale);
  w.chunk.load<T>(s.rows(p.key, b, hk, s.key_start(b)), s.rows(p.value, b, hk, s.key_start(b)), range.keys,
                  chunk * kGradientKeys, plan.terms.scale2, d, dv);
  for (int64_t j = 0; j < w.chunk.count; ++j) {
    for (int64_t c = 0; c < round_up(d, kNr); c += kWidth) Vec(0.0f).store(w.dkey[j] + c);
    for (int64_t c = 0; c < round_up(dv, kNr); c += kWidth) Vec(0.0f).store(w.dvalue[j] + c);
  }

  if (plan.relative.present) plan.relative.begin_unit(plan.terms.relative, s, piece, hk);
  const int64_t tiles = plan.tiles.first[b + 1] - plan.tiles.first[b];
  for (int64_t h = hk * s.group; h < (hk + 1) * s.group; ++h) {
    const HeadTerms terms(plan.terms, s, range, b, h);
    const Rows query = s.rows(p.query, b, h, s.query_start(b)), dout = s.rows(p.dout, b, h, s.query_start(b));
    const int64_t row0 = plan.rows.at(s, b, h);
    for (int64_t x = 0; x < tiles; ++x) {
      const int64_t i0 = x * kGradientRows,
                    i1 = i0 + kGradientRows < range.queries ? i0 + kGradientRows : range.queries;
      int64_t first, last;
      BackwardPlan::visited(range, i0, i1, &first, &last);
      if (chunk < first || chunk >= last) continue;
      // Of the tile, the rows that see some key of the chunk.
      const int64_t from = range.query_begin(w.chunk.first), to = range.query_end(w.chunk.first + w.chunk.count - 1);
      const int64_t r0 = from < i0 ? i0 : from, r1 = to < i1 ? to : i1;
      w.tile.load<T>(query, dout, r0, r1 < r0 ? r0 : r1, d, dv);
      w.tile.compute(terms, plan.row, w.chunk, plan.rows, row0, d, dv);
      add_key_gradients(w, range, d, dv);
      if (skewed) {
        skewed->begin_tile(w.tile, w.chunk, range, terms.relative.reach);
        plan.relative.add_tables(plan.terms.relative, s, *skewed, w.tile, w.chunk.count, piece, h);
      }

      std::atomic<int32_t>& done = plan.done[h * plan.tiles.total(s.batch) + plan.tiles.first[b] + x];
      const int32_t turn = static_cast<int32_t>(chunk - first);
      wait_for(done, turn);
      float* dq = plan.dquery + (row0 + r0) * plan.query_columns;
      for (int64_t c = 0; c < d; c += kNr)
        for (int t = 0; t < w.tile.strips; ++t)
          if (const int lo = w.tile.lo[t], n = w.tile.hi[t] - lo; n > 0)
            (w.chunk.keys_finite ? tile<true, kGradientRow, 1>
                                 : tile_nonfinite<kGradientRow, 1>)(w.tile.strip_rows(t), panel_vectors(c, d), n,
                                                                    w.tile.dscore[t * kMr] + lo, w.chunk.keys[lo] + c,
                                                                    kRowStride, dq + t * kMr * plan.query_columns + c,
                                                                    plan.query_columns);
      if (skewed) add_relative_query_gradient(terms.relative, *skewed, w.tile, dq);
      const auto add_rows = [&](float* to, const float* from) {
        for (int r = 0; to && r < w.tile.rows; ++r) to[row0 + r0 + r] += from[r];
      };
      add_rows(plan.rows.temperature, w.tile.row_temperature);
      add_rows(plan.rows.gate, w.tile.row_gate);
      add_rows(plan.rows.slope, w.tile.row_slope);
      add_rows(plan.rows.bias, w.tile.row_bias);
      for (int side = 0; side < 2 && skewed; ++side) add_rows(plan.relative.edges[side], skewed->edges[side]);
      done.store(turn + 1, std::memory_order_release);
      if (chunk + 1 == last) {
        const Rows to = s.rows(p.dquery, b, h, s.query_start(b));
        for (int64_t i = i0; i < i1; ++i) {
          float* sums = plan.dquery + (row0 + i) * plan.query_columns;
          if (skewed)
            add_edge_query_gradient(terms.relative,
                                    {plan.relative.edges[0][row0 + i], plan.relative.edges[1][row0 + i]}, sums);
          store_row<T>(to, i, d, scale, sums);
        }
      }
    }
  }
  if (plan.relative.present) plan.relative.end_unit(piece, hk);
  const Rows dkey = s.rows(p.dkey, b, hk, s.key_start(b)), dvalue = s.rows(p.dvalue, b, hk, s.key_start(b));
  for (int64_t j = 0; j < w.chunk.count; ++j) {
    store_row<T>(dkey, w.chunk.first + j, d, scale, w.dkey[j]);
    store_row<T>(dvalue, w.chunk.first + j, dv, 1.0f, w.dvalue[j]);
  }
}

template <class T>
void run(const AttentionBackward& p, const Context& context, void* workspace) {
  const BackwardPlan plan(p, context.threads, workspace);
  const Sequences& s = plan.seq;
  const Relative& relative = plan.terms.relative;
  const auto skewed = [&](int64_t worker) { return relative ? plan.relative.tiles + worker : nullptr; };
  pack_relative<T>(relative, plan.terms.scale2, plan.terms.scale2, context);
  for_units(context, plan.tiles.total(s.batch) * s.query_heads,
            [&](int64_t, int64_t u) { prepare_tile<T>(plan, p, u); });
  for_units(context, plan.chunks.total(s.batch) * s.key_heads,
            [&](int64_t worker, int64_t u) { run_chunk<T>(plan, p, plan.scratch[worker], skewed(worker), u); });
  if (p.dbias)
    run_bias_gradient<T>(BiasGradient(p.dbias, s), plan.terms, plan.row, s, p, plan.rows, context, [&](int64_t worker) {
      return TileScratch{plan.scratch[worker].chunk, plan.scratch[worker].tile, plan.scratch[worker].dkey[0]};
    });
  for_units(context, p.drelative_keys || p.drelative_bias ? relative.heads() * (2 * relative.reach + 1) : 0,
            [&](int64_t, int64_t u) { reduce_relative<T>(plan.relative, relative, s, p, plan.rows, u); });
  reduce_parameters(p, s, plan.terms, plan.rows, plan.sums);
}

}  // namespace

int64_t attention_workspace(const AttentionBackward& p, int threads) { return BackwardPlan(p, threads, nullptr).bytes; }

void attention(const AttentionBackward& p, const Context& context, void* workspace) {
  with_operand(p.query.dtype, [&]<class T>(T) { run<T>(p, context, workspace); });
}

}  // namespace saccade::cpu::SACCADE_ISA
