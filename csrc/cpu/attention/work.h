#pragma once
#include <sched.h>

#include <atomic>

#include "cpu/attention/pack.h"
#include "saccade/context.h"

// Units of work handed to whichever thread is free. What a unit computes never depends on who takes it.
namespace saccade::cpu::SACCADE_ISA {
namespace {

/// Bump allocation over the caller's workspace; with a null base it only measures.
struct Arena {
  char* base;
  int64_t used = 0;

  template <class X>
  X* take(int64_t count) {
    char* at = base ? base + used : nullptr;
    used += round_up(count * static_cast<int64_t>(sizeof(X)), 64);
    return reinterpret_cast<X*>(at);
  }
};

/// Waits until `progress` is `value`, which other units bring about; there may be fewer cores than threads.
template <class N>
inline void wait_for(const std::atomic<N>& progress, N value) {
  while (progress.load(std::memory_order_acquire) != value) sched_yield();
}

/// Runs f(worker, unit) for every unit in [0, n), units claimed in ascending order.
template <class F>
inline void for_units(const Context& context, int64_t n, const F& f) {
  struct Shared {
    const F& f;
    std::atomic<int64_t> next;
    int64_t n;
  } shared{f, {0}, n};
  const auto body = [](void* arg, int64_t worker) {
    auto& s = *static_cast<Shared*>(arg);
    for (int64_t u; (u = s.next.fetch_add(1, std::memory_order_relaxed)) < s.n;) s.f(worker, u);
  };
  const int64_t workers = n < context.threads ? n : context.threads;
  if (workers > 1 && context.parallel_for)
    context.parallel_for(context.parallel_self, workers, body, &shared);
  else if (n > 0)
    body(&shared, 0);
}

/// Every sequence cut into count(b) pieces: piece x of sequence b is number first[b] + x.
struct Pieces {
  int64_t* first;  // (batch + 1)

  template <class Count>
  static Pieces make(Arena& arena, int64_t batch, const Count& count) {
    Pieces p{arena.take<int64_t>(batch + 1)};
    if (!p.first) return p;
    p.first[0] = 0;
    for (int64_t b = 0; b < batch; ++b) p.first[b + 1] = p.first[b] + count(b);
    return p;
  }
  int64_t total(int64_t batch) const { return first[batch]; }
  /// The sequence that owns piece x.
  int64_t sequence(int64_t batch, int64_t x) const {
    int64_t lo = 0, hi = batch;
    while (hi - lo > 1) (first[(lo + hi) / 2] <= x ? lo : hi) = (lo + hi) / 2;
    while (first[lo + 1] <= x) ++lo;
    return lo;
  }
};

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
