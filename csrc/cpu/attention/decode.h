#pragma once
#include "cpu/attention/online.h"
#include "cpu/attention/work.h"

// Split-KV form for few queries on long caches: keys and values are read once, where they lie, for all query heads of
// their group; splits of the key axis run side by side and are merged by their maxima and sums in ascending order.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr int64_t kDecodeRows = 16;  // sequences of at most this many queries take this form
constexpr int64_t kSplitKeys = 512;  // fixed, so that the result does not depend on batch or threads
constexpr int kDecodeBlock = 256;    // keys scored at once: long runs of either stream suit the prefetcher
constexpr int64_t kAhead = 16;       // rows asked for in advance: 8 KiB with D = 128; 8 and 32 measured slower

inline int64_t decode_splits(int64_t queries, int64_t keys) {
  return queries == 0 ? 0 : keys == 0 ? 1 : pieces(keys, kSplitKeys);
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

/// Four rows as fp32 (the last one again past `count`), zero-padded to whole panels; contiguous fp32 rows of whole
/// panels stay where they are.
template <class T>
struct RowBlock {
  static constexpr int64_t kElement = sizeof(typename T::Storage);
  const float* row[4];
  const char* ahead;  // four rows to be asked for while these are used
  int64_t ahead_row;  // bytes from one to the next
  alignas(64) float copy[4][kRowStride];

  /// `next` row `next_row` is what will be read kAhead rows from now.
  SACCADE_FN RowBlock(const Rows& rows, int64_t r, int64_t count, int64_t d, const Rows& next, int64_t next_row) {
    ahead = reinterpret_cast<const char*>(next.at<const typename T::Storage>(next_row));
    ahead_row = next.row * kElement;
    const bool direct = kElement == 4 && rows.col == 1 && d % kNr == 0;
    for (int i = 0; i < 4; ++i) {
      const int64_t at = i < count ? r + i : r + count - 1;
      if (direct) {
        row[i] = reinterpret_cast<const float*>(rows.at<const typename T::Storage>(at));
      } else {
        load_row<T>(rows, at, d, 1.0f, copy[i]);
        row[i] = copy[i];
      }
    }
  }

  /// Asks for what takes the place of columns [c, c + kNr), evenly spread over the arithmetic: in bursts the misses
  /// would fill the core's queue and stop it.
  SACCADE_FN void ask(int64_t c) const {
    for (int64_t byte = 0; byte < kNr * kElement; byte += 64) {
      const char* p = ahead + c * kElement + byte;
      for (int i = 0; i < 4; ++i, p += ahead_row) __builtin_prefetch(p, 0, 0);
    }
  }
};

// Query rows handled at once: with four keys each, one accumulator per lane of a vector of sums, 8 at least to hide
// latency.
constexpr int kDecodeGroup = kWidth >= 8 ? kWidth / 4 : 2;

/// score[r][k] = query row r · key row k, for R query rows and four keys. Not inlined: the caller's registers would
/// spill.
template <int R, bool kAsk, class T>
__attribute__((noinline)) void dots(const float* query, const RowBlock<T>& keys, int64_t d, float* score) {
  const float *k0 = keys.row[0], *k1 = keys.row[1], *k2 = keys.row[2], *k3 = keys.row[3];
  Vec acc[R * 4];
#pragma GCC unroll 16
  for (int i = 0; i < R * 4; ++i) acc[i] = Vec(0.0f);
  for (int64_t c = 0; c < d; c += kNr) {
    if constexpr (kAsk) keys.ask(c);
#pragma GCC unroll 2
    for (int half = 0; half < kNr; half += kWidth) {
      const int64_t x = c + half;
      const Vec x0 = Vec::load(k0 + x), x1 = Vec::load(k1 + x), x2 = Vec::load(k2 + x), x3 = Vec::load(k3 + x);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec q = Vec::load(query + r * kRowStride + x);
        acc[4 * r] = fma(q, x0, acc[4 * r]);
        acc[4 * r + 1] = fma(q, x1, acc[4 * r + 1]);
        acc[4 * r + 2] = fma(q, x2, acc[4 * r + 2]);
        acc[4 * r + 3] = fma(q, x3, acc[4 * r + 3]);
      }
    }
  }
  if constexpr (R * 4 == kWidth) {
    const Vec s = sums(acc);
    for (int r = 0; r < R; ++r)
      __builtin_memcpy(score + r * kDecodeBlock, reinterpret_cast<const char*>(&s.v) + 16 * r, 16);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < R * 4; ++i) score[i / 4 * kDecodeBlock + i % 4] = sum(acc[i]);
  }
}

/// out[r] += Σ_k p[r][k]·value row k over four keys, for R rows.
template <int R, bool kAsk, class T>
__attribute__((noinline)) void accumulate(const float* p, const RowBlock<T>& values, int64_t d, float* const* out) {
  const float *v0 = values.row[0], *v1 = values.row[1], *v2 = values.row[2], *v3 = values.row[3];
  Vec w[R][4];
  float* o[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    o[r] = out[r];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) w[r][k] = Vec(p[r * kDecodeBlock + k]);
  }
  for (int64_t c = 0; c < d; c += kNr) {
    if constexpr (kAsk) values.ask(c);
#pragma GCC unroll 2
    for (int half = 0; half < kNr; half += kWidth) {
      const int64_t x = c + half;
      const Vec x0 = Vec::load(v0 + x), x1 = Vec::load(v1 + x), x2 = Vec::load(v2 + x), x3 = Vec::load(v3 + x);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        fma(w[r][3], x3, fma(w[r][2], x2, fma(w[r][1], x1, fma(w[r][0], x0, Vec::load(o[r] + x))))).store(o[r] + x);
    }
  }
}

/// The same for one row and up to four keys, of which those of weight zero contribute nothing, even if they hold Inf.
inline void accumulate_visible(const float* p, const float* const* value, int64_t count, int64_t d, float* out) {
  for (int64_t k = 0; k < count; ++k)
    if (p[k] != 0)
      for (int64_t c = 0; c < d; c += kWidth)
        fma(Vec(p[k]), Vec::load(value[k] + c), Vec::load(out + c)).store(out + c);
}

inline bool all_visible(const float* p) { return p[0] != 0 && p[1] != 0 && p[2] != 0 && p[3] != 0; }

/// score[i][0, n) += the relative term of row i of one head, keys from j0: the tables are read where they lie.
template <class T>
void add_relative_rows(const HeadTerms& t, int64_t h, const float* query, int64_t d, int64_t j0, int64_t n,
                       float* score) {
  const Relative& all = t.all.relative;
  const int64_t reach = all.reach;
  for (int64_t i = 0; i < t.range.queries; ++i, query += kRowStride, score += kDecodeBlock) {
    const int64_t e0 = j0 - t.range.position(i);
    const int64_t from = larger(t.range.key_begin(i) - j0, 0), to = smaller(t.range.key_end(i) - j0, n);
    const int64_t a = smaller(larger(from, 1 - reach - e0), to), b = smaller(larger(a, reach - e0), to);
    if (all.keys) {
      const Rows keys = all.key_columns(h);
      float some[4];
      const auto product = [&](int64_t e, int64_t count) {
        dots<1, false, T>(query, RowBlock<T>(keys, e, count, d, keys, e), d, some);
      };
      if (from < a) {
        product(-reach, 1);
        for (int64_t x = from; x < a; ++x) score[x] += some[0];
      }
      for (int64_t x = a; x < b; x += 4) {
        product(e0 + x, b - x);
        for (int64_t k = 0; k < 4 && x + k < b; ++k) score[x + k] += some[k];
      }
      if (b < to) {
        product(reach, 1);
        for (int64_t x = b; x < to; ++x) score[x] += some[0];
      }
    }
    if (all.bias) {
      const Rows bias = all.bias_columns(h);
      for (int64_t x = from; x < a; ++x) score[x] += t.relative.bias2_edges[0];
      for (int64_t x = a; x < b; ++x) score[x] += *bias.at<const float>(e0 + x) * t.all.scale2;
      for (int64_t x = b; x < to; ++x) score[x] += t.relative.bias2_edges[1];
    }
  }
}

template <class T>
void decode_split(const DecodePlan& plan, const Terms& terms, WeightRow weigh, const Sequences& s,
                  const AttentionForward& p, int64_t worker, int64_t unit) {
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
      const bool same = j + kAhead < n;
      const RowBlock<T> k(keys, j0 + j, n - j, d, same ? keys : values, same ? j0 + j + kAhead : j0 + j + kAhead - n);
      for (int64_t r = 0; r < rows;) {
        float* to = score + r * kDecodeBlock + j;
        if (const float* q = query + r * kRowStride; rows - r >= kDecodeGroup) {
          (r == 0 ? dots<kDecodeGroup, true, T> : dots<kDecodeGroup, false, T>)(q, k, d, to);
          r += kDecodeGroup;
        } else {
          (r == 0 ? dots<1, true, T> : dots<1, false, T>)(q, k, d, to);
          ++r;
        }
      }
    }
    const int columns = static_cast<int>(round_up(n, kNr));
    for (int64_t g = 0; g < s.group; ++g) {
      const int64_t h = hk * s.group + g, slot = plan.slot(split, s.query_heads, h);
      const HeadTerms head(terms, s, range, b, h);
      if (head.relative.present)
        add_relative_rows<T>(head, h, query + g * nq * kRowStride, d, j0, n, score + g * nq * kDecodeBlock);
      for (int64_t i = 0; i < nq; ++i)
        weigh(head, score + (g * nq + i) * kDecodeBlock, 0, columns, i, j0, plan.state[slot + i],
              plan.out + (slot + i) * plan.columns, plan.columns);
    }
    for (int64_t j = 0; j < n; j += 4) {
      const bool same = j + kAhead < n;
      const RowBlock<T> v(values, j0 + j, n - j, dv, same ? values : keys, j0 + j + kAhead);
      const bool whole = n - j >= 4;
      for (int64_t r = 0; r < rows;) {
        const float* weights = score + r * kDecodeBlock + j;
        float* out[kDecodeGroup];
        int group = rows - r < kDecodeGroup ? static_cast<int>(rows - r) : kDecodeGroup;
        bool plain = whole;
        for (int x = 0; x < group; ++x) {
          const int64_t slot = plan.slot(split, s.query_heads, hk * s.group + (r + x) / nq) + (r + x) % nq;
          out[x] = plan.out + slot * plan.columns;
          plain = plain && all_visible(weights + x * kDecodeBlock);
        }
        if (plain && group == kDecodeGroup) {
          (r == 0 ? accumulate<kDecodeGroup, true, T> : accumulate<kDecodeGroup, false, T>)(weights, v, dv, out);
        } else {
          for (int x = 0; x < group; ++x)
            if (const float* w = weights + x * kDecodeBlock; whole && all_visible(w))
              (r + x == 0 ? accumulate<1, true, T> : accumulate<1, false, T>)(w, v, dv, out + x);
            else
              accumulate_visible(w, v.row, whole ? 4 : n - j, dv, out[x]);
        }
        r += group;
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
void run_decode(const DecodePlan& plan, const Terms& terms, WeightRow weigh, const Sequences& s,
                const AttentionForward& p, const Context& context) {
  for_units(context, plan.splits.total(s.batch) * s.key_heads,
            [&](int64_t worker, int64_t u) { decode_split<T>(plan, terms, weigh, s, p, worker, u); });
  if (plan.splits.total(s.batch) == 0) return;
  for_units(context, s.batch * s.query_heads, [&](int64_t, int64_t u) {
    const int64_t b = u / s.query_heads;
    if (plan.splits.first[b] < plan.splits.first[b + 1]) merge_splits<T>(plan, terms, s, p, b, u % s.query_heads);
  });
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
