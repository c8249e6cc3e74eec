#include "strict.h"

#include <algorithm>
#include <mutex>

// Happens-before: clocks of warps and lanes, and how barriers, fences and atomics hand them on.
namespace emu {

Strict& strict() {
  static Strict s;
  return s;
}

uint64_t new_launch() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

const Seen* VectorClock::find(uint32_t warp) const {
  const auto it = std::lower_bound(of.begin(), of.end(), warp, [](const Seen& s, uint32_t w) { return s.warp < w; });
  return it != of.end() && it->warp == warp ? &*it : nullptr;
}

Seen& VectorClock::at(uint32_t warp) {
  const auto it = std::lower_bound(of.begin(), of.end(), warp, [](const Seen& s, uint32_t w) { return s.warp < w; });
  if (it != of.end() && it->warp == warp) return *it;
  return *of.insert(it, Seen{warp});
}

void VectorClock::join(const VectorClock& o) {
  size_t same = 0;
  if (of.size() == o.of.size())
    while (same < of.size() && of[same].warp == o.of[same].warp) ++same;
  if (same == of.size() && same == o.of.size()) {
    for (size_t k = 0; k < same; ++k) of[k].join(o.of[k]);
    return;
  }
  std::vector<Seen> out;
  out.reserve(of.size() + o.of.size());
  auto a = of.begin();
  auto b = o.of.begin();
  while (a != of.end() || b != o.of.end()) {
    if (b == o.of.end() || (a != of.end() && a->warp < b->warp)) {
      out.push_back(*a++);
    } else if (a == of.end() || b->warp < a->warp) {
      out.push_back(*b++);
    } else {
      out.push_back(*a++);
      out.back().join(*b++);
    }
  }
  of = std::move(out);
}

bool TransferSet::has(uint32_t cta, uint32_t id) const {
  for (const Span& s : spans)
    if (s.cta == cta && id >= s.low && id < s.high) return true;
  return false;
}

void TransferSet::join(const TransferSet& o) {
  if (o.spans.empty() || spans == o.spans) return;
  constexpr size_t kMost = 64;  // holes beyond that are taken for seen
  std::vector<Span> all;
  all.reserve(spans.size() + o.spans.size());
  std::merge(spans.begin(), spans.end(), o.spans.begin(), o.spans.end(), std::back_inserter(all),
             [](const Span& a, const Span& b) { return a.cta != b.cta ? a.cta < b.cta : a.low < b.low; });
  spans.clear();
  for (const Span& s : all) {
    if (!spans.empty() && spans.back().cta == s.cta && (s.low <= spans.back().high || all.size() > kMost))
      spans.back().high = std::max(spans.back().high, s.high);
    else
      spans.push_back(s);
  }
}

void View::join(const View& o) {
  seen.join(o.seen);
  proxied.join(o.proxied);
  published.join(o.published);
  transfers.join(o.transfers);
}

Cta::Strict& strict_of(Cta& cta) {
  if (!cta.strict) {
    auto s = std::make_unique<Cta::Strict>();
    const Grid& g = *cta.cluster->grid;
    const uint32_t warps = static_cast<uint32_t>(cta.warps.size());
    s->number = static_cast<uint32_t>(linear(cta.id, g.grid)) & kIdMask;
    s->first = s->number * warps & kIdMask;
    s->warps.resize(warps);
    for (uint32_t k = 0; k < warps; ++k) {
      WarpClock& c = s->warps[k];
      c.id = (s->first + k) & kIdMask;
      for (uint32_t o = 0; o < warps; ++o) c.base.seen.at((s->first + o) & kIdMask);
      c.base.proxied = c.base.seen;
    }
    s->initialised.resize(cta.shared.size() / 32 + 2);
    s->pages.resize(cta.shared.size() / kPageBytes + 1);
    cta.strict = {s.release(), [](Cta::Strict* p) { delete p; }};
  }
  return *cta.strict;
}

namespace {

View& writable(Clock& c) {
  if (!c.state) {
    c.state = std::make_shared<Clock::State>();
  } else if (c.state.use_count() > 1) {
    c.state = std::make_shared<Clock::State>(*c.state);
  }
  return c.state->view;
}

/// Calls f(view, lanes that share it).
template <class F>
void each_view(const WarpClock& c, Mask lanes, F f) {
  if (lanes & ~c.split) f(c.base, lanes & ~c.split);
  for (Mask left = lanes & c.split; left;) {
    const View* v = c.lane[__builtin_ctz(left)].get();
    Mask same = 0;
    for (Mask m = left; m; m &= m - 1)
      if (c.lane[__builtin_ctz(m)].get() == v) same |= m & -m;
    left &= ~same;
    f(*v, same);
  }
}

/// Applies f to the views of the lanes, which get their own where the warp's other lanes do not take part.
template <class F>
void change(Warp& w, WarpClock& c, Mask lanes, F f) {
  ++c.version;
  const Mask alive = w.alive;
  const bool all = (lanes & alive) == alive;
  struct New {
    std::shared_ptr<View> view;
    Mask lanes;
  };
  std::vector<New> made;
  each_view(c, all ? c.split & alive : lanes, [&](const View& v, Mask same) {
    auto copy = std::make_shared<View>(v);
    f(*copy, same);
    made.push_back({std::move(copy), same});
  });
  if (all) {
    f(c.base, lanes);
  } else {
    c.split |= lanes;
    c.split_at = c.now;
  }
  for (const New& n : made)
    for (Mask m = n.lanes; m; m &= m - 1) c.lane[__builtin_ctz(m)] = n.view;
}

void unite(WarpClock& c) {  // every lane has seen what the others have
  each_view(c, c.split, [&](const View& v, Mask) { c.base.join(v); });
  for (Mask m = c.split; m; m &= m - 1) c.lane[__builtin_ctz(m)].reset();
  c.split = 0;
}

void mark(VectorClock& v, uint32_t warp, bool all, Mask lanes, uint32_t now) {
  Seen s{warp};
  if (all)
    s.all = now;
  else
    s.high = now, s.lanes = lanes;
  v.at(warp).join(s);
}

}  // namespace

void join(Clock& into, const Clock& from) {
  if (!from.state || into.state == from.state) return;
  if (!into.state)
    into.state = from.state;
  else
    writable(into).join(from.state->view);
}

void release(Warp& w, Mask lanes, Clock& clock) {
  if (!strict().races) return;
  WarpClock& c = clock_of(w);
  View& to = writable(clock);
  const bool all = (lanes & w.alive) == w.alive;
  each_view(c, all ? c.split | 1 : lanes, [&](const View& v, Mask) { to.join(v); });
  if (all) to.join(c.base);
  mark(to.seen, c.id, all, lanes, c.now);
  c.tick();
}

void acquire(Warp& w, Mask lanes, const Clock& clock) {
  if (!strict().races || !clock.state || !lanes) return;
  WarpClock& c = clock_of(w);
  const View& from = clock.state->view;
  if (c.split && (lanes & w.alive) == w.alive) {
    const Seen* own = from.seen.find(c.id);
    if (own && own->all >= c.split_at) unite(c);
  }
  change(w, c, lanes, [&](View& v, Mask) { v.join(from); });
}

void sync_warp(Warp& w, Mask lanes) {
  if (!strict().races) return;
  WarpClock& c = clock_of(w);
  ++c.version;
  if ((lanes & w.alive) == w.alive) {
    if (c.split) unite(c);
    c.base.seen.at(c.id).join({c.id, c.now, 0, 0});
  } else {
    auto together = std::make_shared<View>();
    each_view(c, lanes, [&](const View& v, Mask) { together->join(v); });
    mark(together->seen, c.id, false, lanes, c.now);
    for (Mask m = lanes; m; m &= m - 1) c.lane[__builtin_ctz(m)] = together;
    c.split |= lanes;
    c.split_at = c.now;
  }
  c.tick();
}

void fence_proxy_async(Warp& w, Mask lanes) {
  if (!strict().races) return;
  WarpClock& c = clock_of(w);
  change(w, c, lanes, [&](View& v, Mask) {
    v.proxied.join(v.seen);
    mark(v.proxied, c.id, (lanes & w.alive) == w.alive, lanes, c.now);
  });
  c.tick();
}

// ---- locations: what a release left at an address for an acquire to find ----

namespace {

struct Shard {
  std::mutex mutex;
  uint64_t launch = 0;
  Locations clocks;
};
Shard g_shards[64];
std::atomic<uint64_t> g_released{0};  // the last launch that left something in global memory

/// Calls f(clocks of the memory that the address is of).
template <class F>
void with_locations(Warp& w, const std::byte* address, bool create, F f) {
  for (const auto& cta : w.cta->cluster->ctas)
    if (static_cast<size_t>(address - cta->shared.data()) < cta->shared.size()) {
      if (create || (cta->strict && !cta->strict->locations.empty())) f(strict_of(*cta).locations);
      return;
    }
  const uint64_t launch = w.cta->cluster->grid->launch;
  if (create)
    g_released.store(launch);
  else if (g_released.load() != launch)
    return;
  Shard& s = g_shards[reinterpret_cast<uintptr_t>(address) / 16 % 64];
  const std::lock_guard lock(s.mutex);
  if (s.launch != launch) s.clocks.clear(), s.launch = launch;
  f(s.clocks);
}

/// Calls f(address, lanes at it).
template <class F>
void each_address(std::byte* const* host, Mask lanes, F f) {
  while (lanes) {
    const std::byte* at = host[__builtin_ctz(lanes)];
    Mask same = 0;
    for (Mask m = lanes; m; m &= m - 1)
      if (host[__builtin_ctz(m)] == at) same |= m & -m;
    lanes &= ~same;
    f(at, same);
  }
}

bool releases(Order o) { return o == Order::release || o == Order::acq_rel; }
bool acquires(Order o) { return o == Order::acquire || o == Order::acq_rel; }

}  // namespace

void order_at(Warp& w, Mask lanes, const std::byte* address, Order order) {
  if (!strict().races) return;
  if (releases(order)) with_locations(w, address, true, [&](Locations& l) { release(w, lanes, l[address]); });
  if (acquires(order)) {
    Clock found;
    with_locations(w, address, false, [&](Locations& l) {
      if (const auto it = l.find(address); it != l.end()) found = it->second;
    });
    acquire(w, lanes, found);
  }
}

namespace {
/// What relaxed writes of the lanes hand on: of the own warp only themselves, and what they have seen.
const Clock& publication(WarpClock& c, Mask lanes) {
  if (c.published_at == c.version && c.publishers == lanes) return c.publication;
  c.publication = {};
  bool any = false;
  each_view(c, lanes, [&](const View& v, Mask) { any = any || !v.published.of.empty(); });
  if (any) {
    View& to = writable(c.publication);
    each_view(c, lanes, [&](const View& v, Mask) {
      View part;
      part.seen = v.published;
      part.published = v.published;
      part.proxied = v.proxied;
      part.transfers = v.transfers;
      Seen& own = part.seen.at(c.id);
      const uint32_t until = std::max(own.all, own.high);
      const Seen* known = v.seen.find(c.id);
      own = {c.id, std::min(own.all, known ? known->all : 0), until, lanes};
      to.join(part);
    });
  }
  c.published_at = c.version;
  c.publishers = lanes;
  return c.publication;
}
}  // namespace

void release_fenced(Warp& w, Mask lanes, Clock& to) {
  if (strict().races) join(to, publication(clock_of(w), lanes));
}

void order_before(Warp& w, Mask lanes, std::byte* const* host, Order order) {
  if (!strict().races) return;
  if (releases(order))
    return each_address(host, lanes, [&](const std::byte* at, Mask same) { order_at(w, same, at, Order::release); });
  const Clock& what = publication(clock_of(w), lanes);
  if (!what.state) return;
  each_address(host, lanes, [&](const std::byte* at, Mask) {
    with_locations(w, at, true, [&](Locations& l) { join(l[at], what); });
  });
}

void order_after(Warp& w, Mask lanes, std::byte* const* host, Order order) {
  if (!strict().races || order == Order::weak) return;
  if (acquires(order))
    return each_address(host, lanes, [&](const std::byte* at, Mask same) { order_at(w, same, at, Order::acquire); });
  bool any = g_released.load(std::memory_order_relaxed) == w.cta->cluster->grid->launch;
  for (const auto& cta : w.cta->cluster->ctas) any = any || (cta->strict && !cta->strict->locations.empty());
  if (!any) return;
  WarpClock& c = clock_of(w);
  each_address(host, lanes, [&](const std::byte* at, Mask same) {
    with_locations(w, at, false, [&](Locations& l) {
      const auto it = l.find(at);
      if (it == l.end()) return;
      for (Mask m = same; m; m &= m - 1) join(c.read[__builtin_ctz(m)], it->second);
      c.pending |= same;
    });
  });
}

void fence_memory(Warp& w, Mask lanes) {
  if (!strict().races) return;
  WarpClock& c = clock_of(w);
  for (Mask m = lanes & c.pending; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    acquire(w, m & -m, c.read[l]);
    c.read[l] = {};
  }
  c.pending &= ~lanes;
  change(w, c, lanes, [&](View& v, Mask) {
    v.published.join(v.seen);
    mark(v.published, c.id, (lanes & w.alive) == w.alive, lanes, c.now);
  });
  c.tick();
}

// ---- transfers ----

Transfer begin_transfer(Warp& w, const Inst& i, int lane, bool async_proxy) {
  Transfer t;
  t.cta = w.cta;
  t.async_proxy = async_proxy;
  t.warp = w.index;
  t.lane = lane;
  t.line = i.line;
  if (!strict().races || !async_proxy) return t;
  Cta::Strict& s = strict_of(*w.cta);
  WarpClock& c = s.warps[w.index];
  t.id = s.transfers += s.transfers < kClockMask;
  View& v = writable(t.issued);
  v = c.view(lane);
  mark(v.seen, c.id, false, Mask{1} << lane, c.now);
  c.tick();
  return t;
}

void complete_transfer(Transfer& t, Clock& clock) {
  if (!strict().races) return;
  Cta::Strict& s = strict_of(*t.cta);
  if (t.async_proxy) {
    writable(clock).transfers.add(s.number, static_cast<uint32_t>(t.id));
  } else if (t.acted) {
    WarpClock& c = s.warps[t.warp];
    mark(writable(clock).seen, c.id, false, t.acted, c.now);
    t.acted = 0;
    c.tick();
  }
}

}  // namespace emu
