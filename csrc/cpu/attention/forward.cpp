#include <math.h>

#include "cpu/attention/decode.h"
#include "cpu/attention/entry.h"
#include "cpu/attention/online.h"
#include "cpu/attention/work.h"

// Tiled forward: keys and values are packed once per head, then every tile of query rows walks its visible blocks of
// keys.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr int kTileRows = 48;    // a multiple of every kMr
constexpr int kBlockKeys = 512;  // a row's bookkeeping (maximum, sum, rescale) is small beside so many weights
constexpr int kBlockRow = kBlockKeys + kSkewGap;

/// A unit packs one block of keys and values of a head, or computes one tile of queries that reads them. The units of a
/// head are neighbours, so what was just packed is still in cache; a few slots of packed heads are used in turn. A unit
/// waits only for units of lower number, which some thread already holds.
struct ForwardPlan {
  Sequences seq;
  Terms terms;
  WeightRow weigh;
  int64_t value_columns;  // Dv up to a whole panel
  Pieces units;           // of one key/value head of a sequence not in decode form: blocks, then group·tiles
  int64_t slots, slot_panels, slot_blocks;
  float *keys, *values;                    // [slot][panel][D][kNr], [slot][Dv/kNr][keys][kNr]
  bool* finite;                            // [slot][block]: are its values?
  std::atomic<int64_t>*packed, *finished;  // [B·Hk]: units done of either kind
  DecodePlan decode;
  int64_t bytes;

  struct Scratch {
    alignas(64) float query[kTileRows][kRowStride];
    float room[kSkewGap], score[kTileRows][kBlockRow];
    alignas(64) float out[kTileRows][kRowStride];
    RowState row[kTileRows];
  }* scratch;

  ForwardPlan(const AttentionForward& p, int threads, void* workspace)
      : seq(p), terms(p.score), weigh(weight_row_of(p.score.map)), value_columns(round_up(seq.value_dim, kNr)) {
    Arena a{static_cast<char*>(workspace)};
    units = Pieces::make(a, seq.batch, [&](int64_t b) { return tiled(b) ? blocks(b) + seq.group * tiles(b) : 0; });
    slots = threads + 1 < seq.batch * seq.key_heads ? threads + 1 : seq.batch * seq.key_heads;
    slot_panels = slot_blocks = 0;
    for (int64_t b = 0; b < seq.batch; ++b)
      if (tiled(b)) {
        const int64_t panels = pieces(seq.key_count(b), kNr);
        slot_panels = panels > slot_panels ? panels : slot_panels;
        slot_blocks = blocks(b) > slot_blocks ? blocks(b) : slot_blocks;
      }
    finite = a.take<bool>(slots * slot_blocks);
    packed = a.take<std::atomic<int64_t>>(seq.batch * seq.key_heads);
    finished = a.take<std::atomic<int64_t>>(seq.batch * seq.key_heads);
    for (int64_t n = 0; a.base && n < seq.batch * seq.key_heads; ++n) {
      packed[n].store(0, std::memory_order_relaxed);
      finished[n].store(0, std::memory_order_relaxed);
    }
    terms.relative.reserve(a, seq, p.visit, false, [&](int64_t b) { return tiled(b); });
    keys = a.take<float>(slots * slot_panels * kNr * seq.head_dim);
    values = a.take<float>(slots * slot_panels * kNr * value_columns);
    decode = DecodePlan::make(a, seq, threads);
    scratch = a.take<Scratch>(threads);
    bytes = a.used;
  }

  bool tiled(int64_t b) const { return seq.query_count(b) > kDecodeRows; }
  int64_t blocks(int64_t b) const { return tiled(b) ? pieces(seq.key_count(b), kBlockKeys) : 0; }
  int64_t tiles(int64_t b) const { return tiled(b) ? pieces(seq.query_count(b), kTileRows) : 0; }

  int64_t head(int64_t b, int64_t hk) const { return b * seq.key_heads + hk; }
  float* key_panels(int64_t head) const { return keys + head % slots * slot_panels * kNr * seq.head_dim; }
  float* value_panels(int64_t head) const { return values + head % slots * slot_panels * kNr * value_columns; }
  bool* finite_blocks(int64_t head) const { return finite + head % slots * slot_blocks; }
};

template <class T>
void pack_block(const ForwardPlan& plan, const AttentionForward& p, int64_t b, int64_t hk, int64_t block) {
  const Sequences& s = plan.seq;
  const int64_t head = plan.head(b, hk), count = s.key_count(b), j0 = block * kBlockKeys;
  const int64_t n = count - j0 < kBlockKeys ? count - j0 : kBlockKeys;
  // The slot's last user: heads without blocks pack nothing and wait for nobody.
  for (int64_t last = head - plan.slots; last >= 0; last -= plan.slots)
    if (const int64_t of = last / s.key_heads; plan.blocks(of)) {
      wait_for(plan.finished[last], s.group * plan.tiles(of));
      break;
    }
  const Rows k = s.rows(p.key, b, hk, s.key_start(b)), v = s.rows(p.value, b, hk, s.key_start(b));
  for (int64_t j = j0; j < j0 + n; j += kNr)
    pack_panel_transposed<T>(k, j, count, s.head_dim, 1.0f, plan.key_panels(head) + j * s.head_dim);
  plan.finite_blocks(head)[block] = pack_columns<T>(v, j0, n, s.value_dim, plan.value_panels(head) + j0 * kNr, count);
  plan.packed[head].fetch_add(1, std::memory_order_release);
}

template <class T>
void run_tile(const ForwardPlan& plan, const AttentionForward& p, ForwardPlan::Scratch& w, int64_t b, int64_t h,
              int64_t i0) {
  const Sequences& s = plan.seq;
  const int64_t hk = h / s.group, head = plan.head(b, hk);
  const math::Range range = s.range(b, p.visit);
  const int64_t i1 = i0 + kTileRows < range.queries ? i0 + kTileRows : range.queries;
  const HeadTerms terms(plan.terms, s, range, b, h);
  const Rows query = s.rows(p.query, b, h, s.query_start(b));

  const int rows = static_cast<int>(i1 - i0), strips = (rows + kMr - 1) / kMr;
  for (int r = 0; r < rows; ++r) {
    load_row<T>(query, i0 + r, s.head_dim, plan.terms.scale2, w.query[r]);
    for (int64_t c = 0; c < plan.value_columns; c += kWidth) Vec(0.0f).store(w.out[r] + c);
    w.row[r] = RowState{};
  }

  const int64_t end = range.key_end(i1 - 1);
  const float *keys = plan.key_panels(head), *values = plan.value_panels(head);
  wait_for(plan.packed[head], plan.blocks(b));
  for (int64_t block = range.key_begin(i0) / kBlockKeys; block * kBlockKeys < end; ++block) {
    const int64_t j0 = block * kBlockKeys, n = range.keys - j0 < kBlockKeys ? range.keys - j0 : kBlockKeys;
    // Columns [lo, hi) of the block that some row of the strip sees, lo on a panel.
    int lo[kTileRows / kMr], hi[kTileRows / kMr];
    for (int t = 0; t < strips; ++t) {
      const int64_t first = i0 + t * kMr, last = first + kMr <= i1 ? first + kMr - 1 : i1 - 1;
      const int64_t from = range.key_begin(first) - j0, to = range.key_end(last) - j0;
      lo[t] = static_cast<int>(from < 0 ? 0 : from / kNr * kNr);
      hi[t] = static_cast<int>(to < n ? to : n);
      if (hi[t] < lo[t]) hi[t] = lo[t];
    }
    const auto strip_rows = [&](int t) { return rows - t * kMr < kMr ? rows - t * kMr : kMr; };

    for (int c = 0; c < n; c += kNr)
      for (int t = 0; t < strips; ++t)
        if (lo[t] <= c && c < hi[t])
          tile<false, kRowStride, 1>(strip_rows(t), 2, s.head_dim, w.query[t * kMr], keys + (j0 + c) * s.head_dim, kNr,
                                     w.score[t * kMr] + c, kBlockRow);
    for (int t = 0; t < strips && terms.relative.present; ++t)
      if (lo[t] < hi[t])
        add_relative<kBlockRow>(terms.relative, range, i0 + t * kMr, strip_rows(t), j0, lo[t], hi[t], w.query[t * kMr],
                                1.0f, w.score[t * kMr]);
    for (int t = 0; t < strips; ++t)
      for (int r = t * kMr; r < t * kMr + strip_rows(t) && lo[t] < hi[t]; ++r)
        plan.weigh(terms, w.score[r], lo[t], static_cast<int>(round_up(hi[t], kNr)), i0 + r, j0, w.row[r], w.out[r],
                   plan.value_columns);
    const bool finite = plan.finite_blocks(head)[block];
    for (int64_t c = 0; c < s.value_dim; c += kNr)
      for (int t = 0; t < strips; ++t)
        if (lo[t] < hi[t])
          (finite ? tile<true, kBlockRow, 1>
                  : tile_nonfinite<kBlockRow, 1>)(strip_rows(t), panel_vectors(c, s.value_dim), hi[t] - lo[t],
                                                  w.score[t * kMr] + lo[t],
                                                  values + c * range.keys + (j0 + lo[t]) * kNr, kNr, w.out[t * kMr] + c,
                                                  kRowStride);
  }

  const Rows out = s.rows(p.out, b, h, s.query_start(b)), lse = s.scalars(p.lse, b, h);
  for (int r = 0; r < rows; ++r) {
    const float f = w.row[r].finish(terms, h, i0 + r, lse.at<float>(i0 + r));
    store_row<T>(out, i0 + r, s.value_dim, f, w.out[r]);
  }
  plan.finished[head].fetch_add(1, std::memory_order_release);
}

template <class T>
void run(const AttentionForward& p, const Context& context, void* workspace) {
  const ForwardPlan plan(p, context.threads, workspace);
  const Sequences& s = plan.seq;
  pack_relative<T>(plan.terms.relative, 1, plan.terms.scale2, context);
  for_units(context, plan.units.total(s.batch) * s.key_heads, [&](int64_t worker, int64_t unit) {
    const int64_t b = plan.units.sequence(s.batch, unit / s.key_heads),
                  local = unit - plan.units.first[b] * s.key_heads;
    const int64_t of_head = plan.units.first[b + 1] - plan.units.first[b], hk = local / of_head;
    const int64_t tile = local % of_head - plan.blocks(b), tiles = plan.tiles(b);
    if (tile < 0)
      pack_block<T>(plan, p, b, hk, local % of_head);
    else  // long tiles first, so that the tail of a causal problem is short
      run_tile<T>(plan, p, plan.scratch[worker], b, hk * s.group + tile / tiles,
                  (tiles - 1 - tile % tiles) * kTileRows);
  });
  run_decode<T>(plan.decode, plan.terms, plan.weigh, s, p, context);
}

}  // namespace

int64_t attention_workspace(const AttentionForward& p, int threads) { return ForwardPlan(p, threads, nullptr).bytes; }

void attention(const AttentionForward& p, const Context& context, void* workspace) {
  with_operand(p.query.dtype, [&]<class T>(T) { run<T>(p, context, workspace); });
}

}  // namespace saccade::cpu::SACCADE_ISA
