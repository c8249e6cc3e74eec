#pragma once
#include "cpu/linear/chunk.h"

// Runs the scans of all heads. Loop form: a unit is a head, which walks its chunks. Chained form, for fewer heads than
// threads: a unit is a chunk; only adding its local state to the head's, in order, is serial. Both round alike.
namespace saccade::cpu::SACCADE_ISA {
namespace {

inline bool shared(const TensorView& t, int axis) { return t.shape[axis] == 1; }

inline Decay decay_of(const Tokens& n, const TensorView& g, int64_t b, int64_t h) {
  Decay d;
  if (!g || n.count(b) == 0) return d;
  d.channels = g.shape[g.rank - 1];
  d.per = d.channels > 1 ? DecayPer::channel : shared(g, n.packed ? 0 : 2) ? DecayPer::head : DecayPer::token;
  d.rows = n.rows(g, b, h);
  return d;
}

struct ScanPlan {
  Tokens tokens;
  int64_t chunk, kinds, state_size;
  bool global, channel, chained;
  Pieces chunks;                // of every sequence, one at least
  float* states;                // [unit of heads] chained, [worker] else
  std::atomic<int64_t>* turns;  // chunks that have been added to a head's state
  Chunk* workers;               // [threads]

  /// `widest`: of the key channels; `state`: floats of the largest state.
  static ScanPlan make(Arena& a, const LinearProblem& p, int kinds, int64_t widest, int64_t state, int threads) {
    ScanPlan plan{Tokens(p)};
    const Tokens& n = plan.tokens;
    plan.kinds = kinds, plan.state_size = state, plan.global = p.global;
    plan.chunk = p.chunk == 0 ? kDefaultChunk : p.chunk < kMaxChunk ? p.chunk : kMaxChunk;
    plan.channel = p.log_decay && p.log_decay.shape[p.log_decay.rank - 1] > 1;
    int64_t total = 0, longest = 0;
    for (int64_t b = 0; b < n.batch; ++b) {
      total += n.count(b);
      if (n.count(b) > longest) longest = n.count(b);
    }
    // Chained if whole heads would leave a quarter of the threads idle.
    const int64_t heads = n.batch * n.heads * kinds;
    int64_t rounds = pieces(heads, threads) * (n.batch ? total / n.batch : 0);
    if (rounds < longest) rounds = longest;
    plan.chained = threads > 1 && total * n.heads * kinds * 4 < 3 * rounds * threads && longest > plan.chunk;
    plan.chunks = Pieces::make(a, n.batch, [&](int64_t b) { return plan.pieces_of(b); });
    const int64_t slots = plan.chained ? heads : heads < threads ? heads : threads;
    plan.states = a.take<float>(slots * state);
    plan.turns = a.take<std::atomic<int64_t>>(plan.chained ? heads : 0);
    plan.workers = a.take<Chunk>(threads);
    const int64_t rows = longest < plan.chunk ? longest : plan.chunk;
    for (int i = 0; i < threads && i < (plan.chained ? threads : slots); ++i) {
      const Chunk c = Chunk::make(a, rows, round_up(widest, kNr), state, plan.channel);
      if (a.base) plan.workers[i] = c;
    }
    return plan;
  }
  int64_t pieces_of(int64_t b) const { return tokens.count(b) ? pieces(tokens.count(b), chunk) : 1; }
  float* state(int64_t slot) const { return states + slot * state_size; }

  static constexpr int64_t kDefaultChunk = 96;  // a multiple of every kMr and kNr
};

inline void read_state(const Scan& s, float* state) {
  const TensorView& t = s.initial;
  for (int64_t r = 0; r < s.d; ++r) {
    float* row = state + r * s.ld();
    int64_t c = 0;
    if (t) {
      const float* from = static_cast<const float*>(t.data) + s.b * t.stride[0] + s.h * t.stride[1] +
                          r * t.stride[s.transposed ? 3 : 2];
      const int64_t step = t.stride[s.transposed ? 2 : 3];
      for (; c < s.e; ++c) row[c] = from[c * step];
    }
    for (; c < s.ld(); ++c) row[c] = 0;
  }
}

/// The final state; a shifted scan has its last decay still to come.
inline void write_state(const Scan& s, const float* state) {
  const TensorView& t = s.final;
  if (!t) return;
  alignas(64) float factor[kStride];
  const bool channel = s.decay.per == DecayPer::channel, last = s.decay.shifted && s.count > 0;
  if (last) {
    Decay d = s.decay;
    d.shifted = false;
    if (channel)
      d.load_channels(s.count - 1, factor);
    else
      factor[0] = static_cast<float>(d.at(s.count - 1));
    for (int64_t c = 0; c < (channel ? d.channels : 1); c += kWidth) exp2(Vec::load(factor + c)).store(factor + c);
  }
  for (int64_t r = 0; r < s.d; ++r) {
    const float* row = state + r * s.ld();
    float* to =
        static_cast<float*>(t.data) + s.b * t.stride[0] + s.h * t.stride[1] + r * t.stride[s.transposed ? 3 : 2];
    const int64_t step = t.stride[s.transposed ? 2 : 3];
    for (int64_t c = 0; c < s.e; ++c)
      to[c * step] = last ? row[c] * factor[!channel ? 0 : s.decay.on_values ? c : r] : row[c];
  }
}

/// Steps [t, end) on the state itself; decay per channel may need several chunks.
inline void walk(const Scan& s, Chunk& w, float* state, int64_t t, int64_t end, bool outputs, bool global) {
  for (; t < end; t += w.count) {
    w.count = end - t;
    w.expect(s, end, 2 * end - t < s.count ? 2 * end - t : s.count, outputs);
    w.load(s, t, end - t, outputs);
    if (outputs) {
      w.add_state(s, w.seen(s, state));
      w.store(s, t);
    }
    if (global) {
      w.add_tokens<true>(s, state);
      continue;
    }
    w.decay_state(s, state);
    w.add_tokens<true>(s, state);
  }
}

/// Queries [t, end) of a global scan against the final state.
inline void look_up(const Scan& s, Chunk& w, const float* state, int64_t t, int64_t end) {
  w.count = end - t;
  w.ahead.left = 0;
  for (int64_t i = 0; i < w.count; ++i) {
    s.query.load(t + i, w.query + i * kStride);
    for (int64_t c = 0; c < s.e; c += kWidth) Vec(0.0f).store(w.out + i * kStride + c);
  }
  w.add_state(s, state);
  w.store(s, t);
}

/// Chunk `index` of a chained head. `turn` counts the chunks in `state`.
inline void link(const Scan& s, Chunk& w, float* state, std::atomic<int64_t>& turn, int64_t index, int64_t t,
                 int64_t end, bool outputs) {
  w.count = 0;
  w.ahead.left = 0;
  if (t < end) w.load(s, t, end - t, outputs);
  const bool whole = t + w.count == end;
  if (whole && t < end) w.add_tokens<false>(s, w.local);
  wait_for(turn, index);
  if (index == 0) read_state(s, state);
  const int64_t size = s.d * s.ld();
  if (!whole) {
    walk(s, w, state, t, end, outputs, false);
  } else if (t < end) {
    if (outputs)
      for (int64_t i = 0; i < size; i += kWidth) Vec::load(state + i).store(w.before + i);
    w.decay_state(s, state);
    for (int64_t r = 0; r < s.d; ++r)
      for (int64_t c = r * s.ld(), row_end = c + s.e; c < row_end; c += kWidth)
        (Vec::load(w.local + c) + Vec::load(state + c)).store(state + c);
  }
  if (end == s.count) write_state(s, state);
  turn.store(index + 1, std::memory_order_release);
  if (whole && t < end && outputs) {
    w.add_state(s, w.seen(s, w.before));
    w.store(s, t);
  }
}

/// make(kind, b, h) describes a scan.
template <class Make>
void run_scans(const ScanPlan& plan, const Context& context, const Make& make) {
  const Tokens& n = plan.tokens;
  const int64_t heads = n.heads * plan.kinds;
  const auto scan_of = [&](int64_t b, int64_t x) {
    Scan s = make(static_cast<int>(x / n.heads), b, x % n.heads);
    s.b = b, s.h = x % n.heads, s.count = n.count(b);
    return s;
  };
  if (!plan.chained) {
    for_units(context, n.batch * heads, [&](int64_t worker, int64_t unit) {
      const Scan s = scan_of(unit / heads, unit % heads);
      Chunk& w = plan.workers[worker];
      float* state = plan.state(worker);
      read_state(s, state);
      w.begin(s);
      for (int64_t t = 0; t < s.count; t += plan.chunk)
        walk(s, w, state, t, t + plan.chunk < s.count ? t + plan.chunk : s.count, !plan.global, plan.global);
      for (int64_t t = 0; plan.global && t < s.count; t += plan.chunk)
        look_up(s, w, state, t, t + plan.chunk < s.count ? t + plan.chunk : s.count);
      write_state(s, state);
    });
    return;
  }
  for (int64_t i = 0; i < n.batch * heads; ++i) plan.turns[i].store(0, std::memory_order_relaxed);
  // Neighbouring units are different heads: their chunks wait for nobody.
  const auto each_chunk = [&](const auto& f) {
    for_units(context, plan.chunks.total(n.batch) * heads, [&](int64_t worker, int64_t unit) {
      const int64_t b = plan.chunks.sequence(n.batch, unit / heads), x = unit % heads;
      const int64_t index = unit / heads - plan.chunks.first[b], t = index * plan.chunk;
      const Scan s = scan_of(b, x);
      f(s, plan.workers[worker], b * heads + x, index, t, t + plan.chunk < s.count ? t + plan.chunk : s.count);
    });
  };
  each_chunk([&](const Scan& s, Chunk& w, int64_t slot, int64_t index, int64_t t, int64_t end) {
    w.begin(s);
    link(s, w, plan.state(slot), plan.turns[slot], index, t, end, !plan.global);
  });
  if (plan.global)
    each_chunk([&](const Scan& s, Chunk& w, int64_t slot, int64_t, int64_t t, int64_t end) {
      if (t < end) look_up(s, w, plan.state(slot), t, end);
    });
}

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
