#pragma once
#include "cpu/linear/tokens.h"
#include "math/feature.h"

// One chunk of one scan  S_t = decay_t ∘ S_{t−1} + k_tᵀ v_t, out_t = q_t S_t:
//   out = ((Q Kᵀ) ∘ A) V + (e^b ∘ Q) S        S ← e^{b_m} S + (e^{b_m − b} ∘ K)ᵀ V
// with b the cumulative log decay of the chunk and A_ij = e^{b_i − b_j} for j ≤ i. Decay per channel may belong to the
// key's channels (rows of S) or to the value's (columns of S): the backward is three such scans.
namespace saccade::cpu::SACCADE_ISA {
namespace {

constexpr int kMaxChunk = 256;
constexpr int kStride = kMaxHeadDim + 48;  // of rows of up to 256 + 1 columns in whole panels: an odd number of lines
constexpr int kScoreStride = kMaxChunk + 16;
static_assert(kStride >= round_up(kMaxHeadDim + 1, kNr));

// With decay per channel, a chunk ends before its channels have decayed by more than 2^-kRange since its first token:
// e^{b_i − ref}·e^{ref − b_j} with ref halfway then neither overflows nor loses digits.
constexpr float kRange = 48;
constexpr float kLowest = -1024;  // e^−∞ and 2^−1024 are both 0, but differences of the latter are numbers

using LoadRow = void (*)(const Rows&, int64_t r, int64_t n, float f, float* to);
using StoreRow = void (*)(const Rows&, int64_t r, int64_t n, float f, const float* from);

inline LoadRow loader(DType t) {
  LoadRow f = nullptr;
  with_operand(t, [&]<class T>(T) { f = load_row<T>; });
  return f;
}
inline StoreRow storer(DType t) {
  StoreRow f = nullptr;
  with_operand(t, [&]<class T>(T) { f = store_row<T>; });
  return f;
}

/// scale·factor_r·row r, `width` columns long, and if `columns` is one more a last one: scale·extra_r, or scale. Or, if
/// `expands`, the features of row r.
struct Operand {
  Rows rows;
  int64_t width, columns;
  float scale;
  LoadRow load_row;
  int64_t element;  // bytes
  Rows factor = kNoRows, extra = kNoRows;
  bool expands = false;
  math::Taylor2 feature = math::Taylor2::of_key();

  void expand(math::Taylor2 f) {
    feature = f, expands = true;
    columns = state_rows(LinearFeature::taylor2, width);
  }
  void load(int64_t r, float* to) const {
    if (expands) {
      float x[kMaxHeadDim + kNr];
      load_row(rows, r, width, 1, x);
      feature.expand(x, width, to);
      for (int64_t c = columns; c < round_up(columns, kNr); ++c) to[c] = 0;
      return;
    }
    load_row(rows, r, width, factor.data ? scale * *factor.at<const float>(r) : scale, to);
    if (columns == width) return;
    to[width] = extra.data ? scale * *extra.at<const float>(r) : scale;
    for (int64_t c = columns; c < round_up(columns, kNr); ++c) to[c] = 0;
  }
};

/// The first `width` columns of out; with `normalize` divided by the last one of them all plus epsilon. Gradients of
/// features become those of the rows that they were made of, the scan's source.
struct Output {
  Rows rows;
  int64_t width;
  StoreRow store_row;
  int64_t element;  // bytes
  bool normalize = false;
  float epsilon = 0;
  bool contracts = false;
};

enum class DecayPer { none, head, token, channel };

struct Decay {
  DecayPer per = DecayPer::none;
  bool on_values = false;  // channels are the value's
  bool shifted = false;    // step s decays by entry s − 1, the first not at all
  int64_t channels = 1;
  Rows rows = kNoRows;

  /// Binary logarithm of step s's decay.
  double at(int64_t s) const {
    if (per == DecayPer::none || (shifted && s == 0)) return 0;
    const double g = *rows.at<const float>(s - shifted) * math::kLog2e;
    return g < kLowest ? kLowest : g;
  }
  void load_channels(int64_t s, float* to) const {
    if (shifted && s == 0) {
      for (int64_t c = 0; c < round_up(channels, kNr); ++c) to[c] = 0;
      return;
    }
    load_row<math::F32>(rows, s - shifted, channels, static_cast<float>(math::kLog2e), to);
    for (int64_t c = 0; c < channels; c += kWidth) max(Vec::load(to + c), Vec(kLowest)).store(to + c);
  }
};

/// A head's scan, its operands in the order of its steps.
struct Scan {
  int64_t count, d, e;  // steps, key channels, value channels
  Operand query, key, value;
  Output out;
  Operand source;  // of features whose gradient is out
  Decay decay;
  TensorView initial, final;  // (B, H, ·, ·), may be absent; `transposed`: they are (e, d)
  bool transposed = false;
  int64_t b, h;

  int64_t ld() const { return state_ld(e); }
  static int64_t state_ld(int64_t e) { return round_up(e, kNr) + 16; }
};

inline void scale_row(float* x, const float* f, int64_t n) {
  for (int64_t c = 0; c < n; c += kWidth) (Vec::load(x + c) * Vec::load(f + c)).store(x + c);
}
inline void scale_row(float* x, float f, int64_t n) {
  for (int64_t c = 0; c < n; c += kWidth) (Vec::load(x + c) * Vec(f)).store(x + c);
}

/// Asks for the next chunk's rows, evenly spread over the arithmetic: read in bursts they would stop the core.
struct Ahead {
  struct Stream {
    const char* row;
    int64_t step, bytes;
  } stream[4];
  int streams = 0;
  int64_t left = 0, at_once = 1;

  void add(const Rows& rows, int64_t r, int64_t width, int64_t element) {
    if (rows.col == 1) stream[streams++] = {rows.data + r * rows.row * element, rows.row * element, width * element};
  }
  SACCADE_FN void ask() {
    for (int64_t n = left < at_once ? left : at_once; n > 0; --n, --left)
      for (int i = 0; i < streams; ++i) {
        for (int64_t byte = 0; byte < stream[i].bytes; byte += 64) __builtin_prefetch(stream[i].row + byte, 0, 2);
        stream[i].row += stream[i].step;
      }
  }
};

/// Buffers of one worker and the arithmetic on them.
struct Chunk {
  float *query, *key, *value, *out;                  // [chunk][kStride]
  float *panels, *score;                             // [chunk/kNr][d][kNr], [chunk][kScoreStride]
  float* log_decay;                                  // [chunk][kStride]: per channel, since the first token
  float *local, *before;                             // states
  float *high, *low;                                 // b = high + low, per token
  float *query_factor, *key_factor;                  // e^b, e^{b_m − b}
  float* powers;                                     // of a head's decay: e^{−g·x} at [kMaxChunk − x]
  float *first, *reference, *into, *onward, *whole;  // per channel: g_1, ref, e^{g_1 + ref}, e^{b_m − ref}, e^{b_m}
  float total;
  int64_t count;
  bool finite;
  Ahead ahead;

  static Chunk make(Arena& a, int64_t chunk, int64_t widest, int64_t state, bool channel) {
    Chunk c{};
    for (float** rows : {&c.query, &c.key, &c.value, &c.out}) *rows = a.take<float>(chunk * kStride);
    c.panels = a.take<float>(round_up(chunk, kNr) * widest);
    c.score = a.take<float>(chunk * kScoreStride);
    c.log_decay = a.take<float>(channel ? chunk * kStride : 0);
    c.local = a.take<float>(state), c.before = a.take<float>(state);
    for (float** x : {&c.high, &c.low, &c.query_factor, &c.key_factor}) *x = a.take<float>(kMaxChunk + kWidth);
    c.powers = a.take<float>(2 * kMaxChunk + kWidth);
    for (float** x : {&c.first, &c.reference, &c.into, &c.onward, &c.whole}) *x = a.take<float>(kStride);
    return c;
  }

  /// Whatever the head's steps share.
  void begin(const Scan& s) {
    if (s.decay.per != DecayPer::head || s.count == 0) return;
    const double g = s.decay.at(s.decay.shifted);
    for (int64_t x = 0; x < 2 * kMaxChunk; x += kWidth) {
      alignas(64) float exponent[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        const double t = g * static_cast<double>(kMaxChunk - x - i);
        exponent[i] = static_cast<float>(x + i > kMaxChunk ? 0 : t);
      }
      exp2(Vec::load(exponent)).store(powers + x);
    }
  }

  /// Loads steps [t, t + count), at most `limit`, and leaves in `out` what they owe to each other; after it query, key
  /// and value are as the state needs them.
  void load(const Scan& s, int64_t t, int64_t limit, bool outputs) {
    const int64_t dw = round_up(s.d, kNr), ew = round_up(s.e, kNr);
    count = limit;
    if (s.decay.per == DecayPer::channel)
      decay_channels(s, t);
    else if (s.decay.per != DecayPer::none)
      decay_tokens(s, t);
    finite = true;
    for (int64_t i = 0; i < count; ++i) {
      if (outputs) s.query.load(t + i, query + i * kStride);
      s.key.load(t + i, key + i * kStride);
      s.value.load(t + i, value + i * kStride);
      finite &= all_finite(value + i * kStride, ew);
    }
    const bool channel = s.decay.per == DecayPer::channel, keys = channel && !s.decay.on_values;
    if (channel)
      for (int64_t i = 0; i < count; ++i) {
        const float* b = log_decay + i * kStride;
        float *up = keys ? key + i * kStride : value + i * kStride, *down = query + i * kStride;
        for (int64_t c = 0; c < s.decay.channels; c += kWidth) {
          const Vec x = Vec::load(b + c) - Vec::load(reference + c);
          (Vec::load(up + c) * exp2(Vec(0.0f) - x)).store(up + c);
          if (keys && outputs) (Vec::load(down + c) * exp2(x)).store(down + c);
        }
      }
    if (outputs) among_themselves(s);
    if (s.decay.per == DecayPer::none) return;
    for (int64_t i = 0; i < count; ++i)
      if (channel) {
        if (keys && outputs) scale_row(query + i * kStride, into, dw);
        scale_row(keys ? key + i * kStride : value + i * kStride, onward, keys ? dw : ew);
      } else {
        if (outputs) scale_row(query + i * kStride, query_factor[i], dw);
        scale_row(key + i * kStride, key_factor[i], dw);
      }
  }

  /// The rows of steps [t, end) will be needed next.
  void expect(const Scan& s, int64_t t, int64_t end, bool outputs) {
    ahead.streams = 0;
    ahead.left = end - t;
    if (ahead.left <= 0) return;
    const int64_t calls = 2 * pieces(count, kMr) * pieces(s.e, kNr);
    ahead.at_once = pieces(ahead.left, calls);
    ahead.add(s.key.rows, t, s.key.width, s.key.element);
    ahead.add(s.value.rows, t, s.value.width, s.value.element);
    if (!outputs) return;
    ahead.add(s.query.rows, t, s.query.width, s.query.element);
    ahead.add(s.out.rows, t, s.out.width, s.out.element);
  }

  /// out += query · (the state before the chunk)
  void add_state(const Scan& s, const float* state) {
    for (int64_t c = 0; c < s.e; c += kNr)
      for (int64_t r = 0; r < count; r += kMr) {
        tile<true, kStride, 1>(strip(r, count), panel_vectors(c, s.e), s.d, query + r * kStride, state + c, s.ld(),
                               out + r * kStride + c, kStride);
        ahead.ask();
      }
  }
  /// As query sees it: with decay on the values' channels, decayed to the reference, into `before`.
  const float* seen(const Scan& s, const float* state) {
    if (s.decay.per != DecayPer::channel || !s.decay.on_values) return state;
    for (int64_t r = 0; r < s.d; ++r)
      for (int64_t c = 0; c < s.e; c += kWidth)
        (Vec::load(state + r * s.ld() + c) * Vec::load(into + c)).store(before + r * s.ld() + c);
    return before;
  }
  void decay_state(const Scan& s, float* state) const {
    if (s.decay.per == DecayPer::none) return;
    for (int64_t r = 0; r < s.d; ++r)
      if (float* row = state + r * s.ld(); s.decay.per != DecayPer::channel)
        scale_row(row, total, s.e);
      else if (s.decay.on_values)
        scale_row(row, whole, s.e);
      else
        scale_row(row, whole[r], s.e);
  }
  /// to (+)= keyᵀ · value
  template <bool kAdd>
  void add_tokens(const Scan& s, float* to) {
    for (int64_t c = 0; c < s.e; c += kNr)
      for (int64_t r = 0; r < s.d; r += kMr) {
        tile<kAdd, 1, kStride>(strip(r, s.d), panel_vectors(c, s.e), count, key + r, value + c, kStride,
                               to + r * s.ld() + c, s.ld());
        ahead.ask();
      }
  }

  void store(const Scan& s, int64_t t) {
    const bool unscale = s.decay.per == DecayPer::channel && s.decay.on_values;
    for (int64_t i = 0; i < count; ++i) {
      float* row = out + i * kStride;
      if (unscale)
        for (int64_t c = 0; c < s.e; c += kWidth) {
          const Vec x = Vec::load(log_decay + i * kStride + c) - Vec::load(reference + c);
          (Vec::load(row + c) * exp2(x)).store(row + c);
        }
      if (s.out.contracts) {
        float x[kMaxHeadDim + kNr], gradient[kMaxHeadDim];
        s.source.load_row(s.source.rows, t + i, s.out.width, 1, x);
        s.source.feature.contract(row, x, s.out.width, gradient);
        s.out.store_row(s.out.rows, t + i, s.out.width, 1, gradient);
        continue;
      }
      const float f = s.out.normalize ? 1 / (row[s.e - 1] + s.out.epsilon) : 1.0f;
      s.out.store_row(s.out.rows, t + i, s.out.width, f, row);
    }
  }

  static int strip(int64_t r, int64_t n) { return n - r < kMr ? static_cast<int>(n - r) : kMr; }

 private:
  void decay_tokens(const Scan& s, int64_t t) {
    double sum[kMaxChunk], b = 0;
    for (int64_t i = 0; i < count; ++i) {
      sum[i] = b += s.decay.at(t + i);
      high[i] = static_cast<float>(b);
      low[i] = static_cast<float>(b - high[i]);
      query_factor[i] = high[i];
    }
    for (int64_t i = 0; i < count; ++i) key_factor[i] = static_cast<float>(b - sum[i]);
    for (int64_t i = 0; i < count; i += kWidth) {
      exp2(Vec::load(query_factor + i)).store(query_factor + i);
      exp2(Vec::load(key_factor + i)).store(key_factor + i);
    }
    total = query_factor[count - 1];
  }

  void decay_channels(const Scan& s, int64_t t) {
    const int64_t n = s.decay.channels;
    s.decay.load_channels(t, first);
    for (int64_t c = 0; c < round_up(n, kNr); ++c) log_decay[c] = 0;
    for (int64_t i = 1; i < count; ++i) {
      float* b = log_decay + i * kStride;
      s.decay.load_channels(t + i, b);
      Vec outside(0.0f);
      for (int64_t c = 0; c < n; c += kWidth) {
        const Vec x = Vec::load(b + c) + Vec::load(b + c - kStride);
        x.store(b + c);
        outside = outside + select(abs(x) < Vec(kRange), Vec(0.0f), Vec(1.0f));
      }
      if (sum(outside) != 0) count = i;
    }
    const float* last = log_decay + (count - 1) * kStride;
    for (int64_t c = 0; c < n; c += kWidth) {
      const Vec g = Vec::load(first + c), b = Vec::load(last + c), ref = b * Vec(0.5f);
      ref.store(reference + c);
      exp2(g + ref).store(into + c);
      exp2(b - ref).store(onward + c);
      exp2(g + b).store(whole + c);
    }
    for (int64_t c = round_up(n, kWidth); c < round_up(n, kNr); ++c) into[c] = onward[c] = whole[c] = 0;
  }

  /// out = ((Q Kᵀ) ∘ A) V
  void among_themselves(const Scan& s) {
    for (int64_t j = 0; j < count; j += kNr)
      for (int64_t c = 0; c < s.d; c += kWidth)
        for (int half = 0; half < kNr; half += kWidth) {
          if (j + half >= count) continue;
          vf x[kWidth];
#pragma GCC unroll 16
          for (int i = 0; i < kWidth; ++i)
            x[i] = j + half + i < count ? Vec::load(key + (j + half + i) * kStride + c).v : vf{};
          transpose(x);
          const int64_t n = s.d - c < kWidth ? s.d - c : kWidth;
          for (int64_t i = 0; i < n; ++i) Vec(x[i]).store(panels + j * s.d + (c + i) * kNr + half);
        }
    for (int64_t j = 0; j < count; j += kNr)
      for (int64_t r = j / kMr * kMr; r < count; r += kMr)
        tile<false, kStride, 1>(strip(r, count), panel_vectors(j, count), s.d, query + r * kStride, panels + j * s.d,
                                kNr, score + r * kScoreStride + j, kScoreStride);
    for (int64_t r = 0; r < count; r += kMr) {
      const int64_t end = r + strip(r, count);
      for (int64_t i = r; i < end; ++i) weigh(s, i, round_up(end, kWidth));
    }
    for (int64_t c = 0; c < s.e; c += kNr)
      for (int64_t r = 0; r < count; r += kMr) {
        const int rows = strip(r, count), vectors = panel_vectors(c, s.e);
        float* to = out + r * kStride + c;
        if (finite) {
          tile<false, kScoreStride, 1>(rows, vectors, r + rows, score + r * kScoreStride, value + c, kStride, to,
                                       kStride);
        } else {
          for (int i = 0; i < rows; ++i) scale_row_to_zero(to + i * kStride, vectors);
          tile_nonfinite<kScoreStride, 1>(rows, vectors, r + rows, score + r * kScoreStride, value + c, kStride, to,
                                          kStride);
        }
        ahead.ask();
      }
  }
  static void scale_row_to_zero(float* x, int vectors) {
    for (int n = 0; n < vectors; ++n) Vec(0.0f).store(x + n * kWidth);
  }

  /// Row i of the products, up to column `end`: decayed, 0 after i, whatever stands there.
  void weigh(const Scan& s, int64_t i, int64_t end) {
    float* row = score + i * kScoreStride;
    const DecayPer per = s.decay.per;
    const bool plain = per == DecayPer::none || per == DecayPer::channel;
    const Vec high_i(per == DecayPer::token ? high[i] : 0), low_i(per == DecayPer::token ? low[i] : 0);
    for (int64_t j = plain ? i / kWidth * kWidth : 0; j < end; j += kWidth) {
      Vec w = Vec::load(row + j);
      if (per == DecayPer::token)
        w = w * exp2((high_i - Vec::load(high + j)) + (low_i - Vec::load(low + j)));
      else if (per == DecayPer::head)
        w = w * Vec::load(powers + kMaxChunk - i + j);
      if (j + kWidth > i + 1) w = select(iota() < static_cast<int32_t>(i + 1 - j), w, Vec(0.0f));
      w.store(row + j);
    }
  }
};

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
