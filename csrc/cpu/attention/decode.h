#pragma once
#include "cpu/attention/online.h"
#include "cpu/attention/work.h"

// Split-KV form for few queries on long caches: keys and values are read once, where they lie, for all query heads of
// their group; splits of the key axis run side by side and are merged by their maxima and sums in ascending order.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr int64_t kDecodeRows = 16;  // sequences of at most this many queries take this form
constexpr int64_t kSplitKeys = 512;  // fixed, so that the result does not depend on batch or threads
constexpr int kDecodeBlock = 64;     // keys scored at once: with D = 128 a block of keys is 32 KiB

inline int64_t decode_splits(int64_t queries, int64_t keys) {
  return queries == 0 ? 0 : keys == 0 ? 1 : (keys + kSplitKeys - 1) / kSplitKeys;
}

struct DecodePlan {
  Pieces splits;          // of the sequences in this form
  int64_t rows, columns;  // query rows per head (the most), Dv up to a whole panel
  int64_t group_rows;     // rows·group
  float* out;             // [split][Hq][rows][columns]
  RowState* state;        // [split][Hq][rows]
  float *query, *score;   // [worker][group_rows][kRowStride], [worker][group_rows][kDecodeBlock]

  static DecodePlan make(Arena& a, const Sequences& s, int threads) {
    DecodePlan d{};
    const auto count = [&](int64_t b) {
      return s.query_count(b) <= kDecodeRows ? decode_splits(s.query_count(b), s.key_count(b)) : 0;
    };
    int64_t splits = 0;
    for (int64_t b = 0; b < s.batch; ++b)
      if (const int64_t n = count(b)) {
        splits += n;
        if (s.query_count(b) > d.rows) d.rows = s.query_count(b);
      }
    d.splits = Pieces::make(a, s.batch, count);
    d.columns = round_up(s.value_dim, kNr);
    d.group_rows = d.rows * s.group;
    d.out = a.take<float>(splits * s.query_heads * d.rows * d.columns);
    d.state = a.take<RowState>(splits * s.query_heads * d.rows);
    d.query = a.take<float>(threads * d.group_rows * kRowStride);
    d.score = a.take<float>(threads * d.group_rows * kDecodeBlock);
    return d;
  }
  int64_t slot(int64_t split, int64_t heads, int64_t h) const { return (split * heads + h) * rows; }
};

/// Up to four rows as fp32, each zero-padded to whole vectors; contiguous fp32 rows of whole vectors stay where they
/// are.
template <class T, int N>
struct RowBlock {
  const float* row[N];
  alignas(64) float copy[N][kRowStride];

  SACCADE_FN RowBlock(const Rows& rows, int64_t r, int64_t count, int64_t d) {
    const bool direct = sizeof(typename T::Storage) == 4 && rows.col == 1 && d % kWidth == 0;
    for (int i = 0; i < N; ++i) {
      const int64_t at = i < count ? r + i : r + count - 1;
      if (direct) {
        row[i] = reinterpret_cast<const float*>(rows.at<const typename T::Storage>(at));
      } else {
        load_row<T>(rows, at, d, 1.0f, copy[i]);
        row[i] = copy[i];
      }
    }
  }
};

/// s[q][0, 4) = query row q · key row, for R query rows and four keys.
template <int R>
SACCADE_FN void dots(const float* query, const float* const (&key)[4], int64_t d, float* s) {
  Vec acc[R][4];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) acc[r][k] = Vec(0.0f);
  for (int64_t c = 0; c < d; c += kWidth) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Vec x = Vec::load(key[k] + c);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r][k] = fma(Vec::load(query + r * kRowStride + c), x, acc[r][k]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) s[r * kDecodeBlock + k] = sum(acc[r][k]);
}

/// out += Σ_k p[k]·value[k] over `count` ≤ 4 rows; a zero weight contributes nothing, even times Inf.
SACCADE_FN void accumulate(const float* p, const float* const (&value)[4], int64_t count, int64_t d, float* out) {
  if (count == 4 && p[0] != 0 && p[1] != 0 && p[2] != 0 && p[3] != 0) {
    const Vec p0(p[0]), p1(p[1]), p2(p[2]), p3(p[3]);
    for (int64_t c = 0; c < d; c += kWidth) {
      Vec o = fma(p0, Vec::load(value[0] + c), Vec::load(out + c));
      o = fma(p1, Vec::load(value[1] + c), o);
      o = fma(p2, Vec::load(value[2] + c), o);
      fma(p3, Vec::load(value[3] + c), o).store(out + c);
    }
    return;
  }
  for (int64_t k = 0; k < count; ++k)
    if (p[k] != 0)
      for (int64_t c = 0; c < d; c += kWidth)
        fma(Vec(p[k]), Vec::load(value[k] + c), Vec::load(out + c)).store(out + c);
}

template <class T>
void decode_split(const DecodePlan& plan, const Terms& terms, const Sequences& s, const AttentionForward& p,
                  int64_t worker, int64_t unit) {
  const int64_t split = unit / s.key_heads, hk = unit % s.key_heads, b = plan.splits.sequence(s.batch, split);
  const math::Range range = s.range(b, p.visit);
  const int64_t nq = range.queries, rows = nq * s.group, d = s.head_dim, dv = s.value_dim;
  float *query = plan.query + worker * plan.group_rows * kRowStride,
        *score = plan.score + worker * plan.group_rows * kDecodeBlock;

  for (int64_t g = 0; g < s.group; ++g) {
    const Rows from = s.rows(p.query, b, hk * s.group + g, s.query_start(b));
    for (int64_t i = 0; i < nq; ++i) load_row<T>(from, i, d, terms.scale2, query + (g * nq + i) * kRowStride);
    const int64_t slot = plan.slot(split, s.query_heads, hk * s.group + g);
    for (int64_t i = 0; i < nq; ++i) plan.state[slot + i] = RowState{};
    for (int64_t c = 0; c < nq * plan.columns; ++c) plan.out[slot * plan.columns + c] = 0;
  }

  const int64_t first = (split - plan.splits.first[b]) * kSplitKeys;
  int64_t begin = range.key_begin(0), end = range.key_end(nq - 1);
  if (begin < first) begin = first;
  if (end > first + kSplitKeys) end = first + kSplitKeys;
  const Rows keys = s.rows(p.key, b, hk, s.key_start(b)), values = s.rows(p.value, b, hk, s.key_start(b));
  for (int64_t j0 = begin / kDecodeBlock * kDecodeBlock; j0 < end; j0 += kDecodeBlock) {
    const int64_t n = end - j0 < kDecodeBlock ? end - j0 : kDecodeBlock;
    for (int64_t j = 0; j < n; j += 4) {
      const RowBlock<T, 4> k(keys, j0 + j, n - j, d);
      int64_t r = 0;
      // 8 accumulators suffice to hide the latency, and 16 registers hold no more than 2·4 with their operands.
      for (; r + 2 <= rows; r += 2) dots<2>(query + r * kRowStride, k.row, d, score + r * kDecodeBlock + j);
      if (r < rows) dots<1>(query + r * kRowStride, k.row, d, score + r * kDecodeBlock + j);
    }
    const int columns = static_cast<int>(round_up(n, kNr));
    for (int64_t g = 0; g < s.group; ++g) {
      const int64_t h = hk * s.group + g, slot = plan.slot(split, s.query_heads, h);
      const HeadTerms head(terms, s, range, b, h);
      for (int64_t i = 0; i < nq; ++i)
        online_row(head, score + (g * nq + i) * kDecodeBlock, 0, columns, i, j0, plan.state[slot + i],
                   plan.out + (slot + i) * plan.columns, plan.columns);
    }
    for (int64_t j = 0; j < n; j += 4) {
      const RowBlock<T, 4> v(values, j0 + j, n - j, dv);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t slot = plan.slot(split, s.query_heads, hk * s.group + r / nq) + r % nq;
        accumulate(score + r * kDecodeBlock + j, v.row, n - j < 4 ? n - j : 4, dv, plan.out + slot * plan.columns);
      }
    }
  }
}

/// Merges the splits of one head into its first and writes out and lse.
template <class T>
void merge_splits(const DecodePlan& plan, const Terms& terms, const Sequences& s, const AttentionForward& p, int64_t b,
                  int64_t h) {
  const math::Range range = s.range(b, p.visit);
  const HeadTerms head(terms, s, range, b, h);
  const Rows to = s.rows(p.out, b, h, s.query_start(b)), lse = s.scalars(p.lse, b, h);
  for (int64_t i = 0; i < range.queries; ++i) {
    const int64_t base = plan.slot(plan.splits.first[b], s.query_heads, h) + i;
    RowState row = plan.state[base];
    float* out = plan.out + base * plan.columns;
    for (int64_t x = plan.splits.first[b] + 1; x < plan.splits.first[b + 1]; ++x) {
      const int64_t other = plan.slot(x, s.query_heads, h) + i;
      const RowState o = plan.state[other];
      if (o.max == -kInf && o.sum == 0) continue;
      const float top = o.max > row.max ? o.max : row.max, ref = top == -kInf ? 0 : top;
      const float mine = ::exp2f(row.max - ref), theirs = ::exp2f(o.max - ref);
      for (int64_t c = 0; c < plan.columns; c += kWidth)
        fma(Vec::load(plan.out + other * plan.columns + c), Vec(theirs), Vec::load(out + c) * Vec(mine)).store(out + c);
      row = {top, row.sum * mine + o.sum * theirs};
    }
    const float f = row.finish(head, h, i, lse.at<float>(i));
    store_row<T>(to, i, s.value_dim, f, out);
  }
}

template <class T>
void run_decode(const DecodePlan& plan, const Terms& terms, const Sequences& s, const AttentionForward& p,
                const Context& context) {
  for_units(context, plan.splits.total(s.batch) * s.key_heads,
            [&](int64_t worker, int64_t u) { decode_split<T>(plan, terms, s, p, worker, u); });
  if (plan.splits.total(s.batch) == 0) return;
  for_units(context, s.batch * s.query_heads, [&](int64_t, int64_t u) {
    const int64_t b = u / s.query_heads;
    if (plan.splits.first[b] < plan.splits.first[b + 1]) merge_splits<T>(plan, terms, s, p, b, u % s.query_heads);
  });
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
