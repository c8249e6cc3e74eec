#pragma once
#include <algorithm>
#include <bit>

#include "memory.h"
#include "state.h"

namespace emu {

constexpr uint32_t kSpinsBeforeRotating = 2048;

enum class Stop : uint8_t { quantum, waits, yields, finished };

inline void merge(Warp::State& s) {
  for (int i = 0; i < s.count; ++i)
    for (int j = i + 1; j < s.count;) {
      if (s.groups[j].pc != s.groups[i].pc || s.groups[i].waits >= Waits::handler ||
          s.groups[j].waits >= Waits::handler) {
        ++j;
        continue;
      }
      s.groups[i].mask |= s.groups[j].mask;
      s.groups[i].waits = Waits::no;
      s.groups[i].spins = 0;
      s.groups[j] = s.groups[--s.count];
    }
}

/// One warp for up to `quantum` instructions.
class Runner {
 public:
  Runner(Program& p, Counts& counts, const Grid& grid)
      : code_(p.code.data()), state_(*p.state), counts_(counts), max_steps_(grid.max_steps) {}

  Stop run(Warp& w, int64_t quantum) {
    Warp::State& s = *w.state;
    for (int i = 0; i < s.count; ++i)
      if (s.groups[i].waits == Waits::handler) s.groups[i].waits = Waits::retry;
    bool progress = false;
    for (;;) {
      const int64_t before = quantum;
      if (!select(s)) {
        if (std::ranges::all_of(s.groups, s.groups + s.count,
                                [](const Group& g) { return g.waits == Waits::converge; }))
          throw Fault("divergent collective: no group of the warp can go on in " + w.state->program->state->name +
                      standing(w));
        return progress ? Stop::quantum : Stop::waits;
      }
      const Flow flow = group(w, s, quantum);
      w.steps += before - quantum;
      progress = progress || before != quantum;
      if (s.count == 0) return Stop::finished;
      if (w.steps > max_steps_)
        throw Fault("the warp has executed " + std::to_string(w.steps) + " instructions in " +
                    w.state->program->state->name + standing(w));
      if (flow == Flow::yield) return Stop::yields;
      if (quantum <= 0) return Stop::quantum;
    }
  }

 private:
  const Inst* code_;
  const Program::State& state_;
  Counts& counts_;
  uint64_t max_steps_;

  uint32_t order(uint32_t pc) const { return state_.blocks[state_.block_of[pc]].order; }

  bool select(Warp::State& s) {
    if (s.count > 1) merge(s);
    s.running = -1;
    for (int i = 0; i < s.count; ++i) {
      const Group& g = s.groups[i];
      if (g.waits == Waits::converge || g.waits == Waits::handler) continue;
      if (s.running < 0) {
        s.running = i;
        continue;
      }
      const Group& best = s.groups[s.running];
      const bool g_tired = g.spins >= kSpinsBeforeRotating, best_tired = best.spins >= kSpinsBeforeRotating;
      const auto key = [&](const Group& x, bool tired) { return std::pair(tired, uint64_t{order(x.pc)} << 32 | x.pc); };
      if (key(g, g_tired) < key(best, best_tired)) s.running = i;
    }
    if (s.running < 0) return false;
    if (s.groups[s.running].spins >= kSpinsBeforeRotating)  // all are tired: a new round
      for (int i = 0; i < s.count; ++i) s.groups[i].spins = 0;
    return true;
  }

  // May the lanes execute an instruction that takes a certain set together? Otherwise the group waits.
  bool converged(Warp& w, Warp::State& s, const Inst& in, Mask lanes) {
    for (;;) {
      Mask needed = w.alive;
      if (in.converge == Converge::member) {
        needed = 0;
        const uint32_t* masks = w.at<uint32_t>(in.mask_slot);
        for (int l = 0; l < kLanes; ++l) {
          if (!(lanes >> l & 1)) continue;
          if (!(masks[l] >> l & 1)) throw Fault("the lane is not in the membermask that it gives: " + where(w, in, l));
          needed |= masks[l];
        }
        needed &= w.alive;
      }
      const Mask missing = needed & ~lanes;
      if (!missing) return true;
      Group& g = s.group();
      if (missing & g.mask)
        throw Fault("divergent collective: " + lanes_text(missing & g.mask) +
                    " skip by predicate what must be executed together: " + where(w, in));
      bool merged = false;
      for (int i = 0; i < s.count; ++i)
        if (i != s.running && s.groups[i].pc == g.pc && s.groups[i].waits < Waits::handler) merged = true;
      if (!merged) {
        g.waits = Waits::converge;
        return false;
      }
      merge(s);
      return false;  // selected again, whole
    }
  }

  // The selected group until it must be chosen anew.
  Flow group(Warp& w, Warp::State& s, int64_t& quantum) {
    Group* g = &s.group();
    g->waits = Waits::no;
    uint32_t pc = g->pc;
    const Mask mask = g->mask;
    const Mask all = w.alive;
    uint32_t limit = ~0u;
    if (s.count > 1) {
      limit = state_.blocks[state_.block_of[pc]].end;
      for (int i = 0; i < s.count; ++i)
        if (s.groups[i].pc > pc) limit = std::min(limit, s.groups[i].pc);
    }
    int64_t left = quantum;
    for (; left > 0 && pc < limit; --left) {
      const Inst& in = code_[pc];
      Mask lanes = mask;
      if (in.predicate != kNoPlace) {
        const Mask p = w.predicate(in.predicate);
        lanes &= in.predicate_negated ? ~p : p;
        if (!lanes) {
          ++pc;
          continue;
        }
      }
      if (in.converge != Converge::none && (lanes != all || in.converge == Converge::member)) {
        g->pc = pc;
        if (!converged(w, s, in, lanes)) {
          quantum = left;
          return Flow::wait;
        }
      }
      w.pc = pc;
      const Flow flow = in.exec(w, in, lanes);
      if (flow == Flow::next) [[likely]] {
        ++counts_.warp_instructions[static_cast<int>(in.cls)];
        counts_.lane_instructions += std::popcount(lanes);
        ++pc;
        continue;
      }
      if (flow == Flow::wait) {
        g->pc = pc;
        if (lanes != g->mask) split_off(s, lanes, pc);
        g = &s.group();
        g->waits = Waits::handler;
        quantum = left;
        return flow;
      }
      ++counts_.warp_instructions[static_cast<int>(in.cls)];
      counts_.lane_instructions += std::popcount(lanes);
      --left;
      if (flow == Flow::yield) {
        g->pc = pc + 1;
        g->spins += kSpinsBeforeRotating / 16;
        quantum = left;
        return flow;
      }
      // jump: the handler placed the lanes; those that the predicate held back go on.
      if (s.count == 1 && s.running == 0 && g->mask == lanes) {
        pc = g->pc;
        ++left;
        continue;
      }
      quantum = left;
      return flow;
    }
    g->pc = pc;
    quantum = left;
    return Flow::next;
  }

  // Lanes that wait leave those that skip the instruction by their predicate, which go on.
  static void split_off(Warp::State& s, Mask lanes, uint32_t pc) {
    Group& g = s.group();
    const Mask others = g.mask & ~lanes;
    g.mask = lanes;
    s.groups[s.count++] = {pc + 1, others, 0, Waits::no};
  }
};

}  // namespace emu
