#include <algorithm>
#include <cstring>

#include "async.h"
#include "lanes.h"

// mbarrier: phases, arrivals and transaction bytes. What completes a phase asynchronously is left to the barrier, and
// done when a thread tests the phase and nothing but the work under way is missing.
namespace emu {
namespace {

uint64_t mark(uint32_t address) { return kMbarrierMark ^ address; }

std::string state_of(const Mbarrier& b) {
  std::string out = "mbarrier at shared + " + std::to_string(b.address - kSharedBase) + " (phase " +
                    std::to_string(b.phase) + ", " + std::to_string(b.pending) + " of " + std::to_string(b.expected) +
                    " arrivals and " + std::to_string(b.bytes) + " bytes missing";
  if (b.deferred_bytes) out += ", " + std::to_string(b.deferred_bytes) + " bytes under way";
  if (b.deferred_arrivals) out += ", " + std::to_string(b.deferred_arrivals) + " arrivals wait for cp.async";
  return out + ")";
}

void complete_if_due(Mbarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  ++b.phase;
  b.pending = b.expected;
  join(b.completed, b.arriving);  // waiters have seen this phase's arrivals and all earlier ones
  b.arriving = {};
}

void update(Mbarrier& b, int64_t arrivals, int64_t bytes, const std::string& who) {
  if (arrivals > b.pending) throw Fault(who + ": more arrivals than the phase expects: " + state_of(b));
  b.pending -= arrivals;
  b.bytes -= bytes;
  if (std::abs(b.bytes) > kMaxArrivals) throw Fault(who + ": transaction bytes beyond 2^20 - 1: " + state_of(b));
  complete_if_due(b);
}

void carry_out(Mbarrier& b, Pending& p) {
  p.carry_out(b.arriving);
  b.deferred_bytes -= p.bytes;
  b.deferred_arrivals -= p.arrivals;
  update(b, p.arrivals, p.bytes, "line " + std::to_string(p.transfer.line));
}

/// Somebody tests an incomplete phase: does the work under way that completes it, if that is all that is missing.
void settle(Mbarrier& b, const std::string& who) {
  if (b.deferred.empty() || b.pending > b.deferred_arrivals || b.bytes > b.deferred_bytes) return;
  if (b.pending == 0 && b.bytes < b.deferred_bytes)
    throw Fault(who + ": the copies under way bring " + std::to_string(b.deferred_bytes) + " bytes: " + state_of(b));
  const uint64_t phase = b.phase;
  while (!b.deferred.empty() && b.phase == phase) {
    const PendingPtr p = std::move(b.deferred.front());
    b.deferred.pop_front();
    carry_out(b, *p);
  }
}

struct Plan {
  Address at;
  Place result = kNoPlace, count = kNoPlace, bytes = kNoPlace, state = kNoPlace;
  bool no_complete = false, drop = false, order = true, parity = false;
};

/// Calls f(barrier, lanes at it), and checks the access.
template <class F>
void each_barrier(Warp& w, const Inst& i, Mask lanes, const Plan& plan, Use use, F f) {
  uint64_t address[kLanes] = {};
  std::byte* host[kLanes];
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    address[l] = plan.at.of(w, l);
    if (address[l] >= kSharedWindow && address[l] < kLocalWindow) address[l] -= kSharedWindow;
  }
  while (lanes) {
    const int first = __builtin_ctz(lanes);
    Mask same = 0;
    for (int l = 0; l < kLanes; ++l) same |= Mask{address[l] == address[first]} << l;
    same &= lanes;
    lanes &= ~same;
    const SharedPlace place = shared_place(w, i, first, address[first]);
    Mbarrier& b = mbarrier_at(w, i, first, place);
    access(w, i, same, Space::shared, use, Order::relaxed, address, 8, host);
    f(b, same);
  }
}

// mbarrier.init
Flow exec_init(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    uint64_t address[kLanes];
    std::byte* host[kLanes];
    address[l] = plan.at.of(w, l);
    const SharedPlace place = shared_place(w, i, l, address[l]);
    if (place.cta != w.cta) fault(w, i, l, "mbarrier.init of another CTA's barrier");
    if (place.address % 8 || place.address - kSharedBase + 8 > place.cta->shared.size())
      fault(w, i, l, "an mbarrier needs 8 bytes aligned to 8");
    const uint32_t count = w.at<uint32_t>(plan.count)[l];
    if (count < 1 || count > kMaxArrivals) fault(w, i, l, "mbarrier.init with a count of " + std::to_string(count));
    address[l] = place.address;
    access(w, i, Mask{1} << l, Space::shared, Use::write, Order::weak, address, 8, host);
    Cta::Async& async = async_of(*w.cta);
    if (async.mbarrier_index.empty()) async.mbarrier_index.resize(w.cta->shared.size() / 8);
    uint16_t& index = async.mbarrier_index[(place.address - kSharedBase) / 8];
    const uint64_t word = mark(place.address);
    if (index && std::memcmp(host[l], &word, 8) == 0) {
      const Mbarrier& live = *async.mbarriers[index - 1];
      if (!live.deferred.empty() || live.pending != live.expected)
        fault(w, i, l, "mbarrier.init of a barrier in use: " + state_of(live));
    }
    if (!index) {
      async.mbarriers.push_back(nullptr);
      index = static_cast<uint16_t>(async.mbarriers.size());
    }
    auto& b = async.mbarriers[index - 1];
    for (auto& f : async.failed)
      if (f.first == b.get()) f.first = nullptr;
    b = std::make_unique<Mbarrier>();
    b->cta = w.cta;
    b->address = place.address;
    b->expected = count;
    b->pending = count;
    std::memcpy(host[l], &word, 8);
  }
  return Flow::next;
}

Flow exec_inval(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  each_barrier(w, i, lanes, plan, Use::write, [&](Mbarrier& b, Mask) {
    if (!b.deferred.empty()) fault(w, i, -1, "mbarrier.inval while copies are under way: " + state_of(b));
    Cta& cta = *b.cta;
    const uint32_t byte = b.address - kSharedBase;
    std::memset(cta.shared.data() + byte, 0xFF, 8);
    uint16_t& index = cta.async->mbarrier_index[byte / 8];
    for (auto& f : cta.async->failed)
      if (f.first == &b) f.first = nullptr;
    cta.async->mbarriers[index - 1].reset();
    index = 0;
  });
  return Flow::next;
}

// mbarrier.arrive, arrive_drop, expect_tx, complete_tx. A state is phase << 20 | arrivals missing.
Flow exec_arrive(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  each_barrier(w, i, lanes, plan, Use::atomic, [&](Mbarrier& b, Mask same) {
    if (plan.order) release(w, same, b.arriving);
    for (Mask m = same; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      const int64_t count = plan.count == kNoPlace ? 1 : w.at<uint32_t>(plan.count)[l];
      const int64_t bytes = plan.bytes == kNoPlace ? 0 : int64_t{w.at<uint32_t>(plan.bytes)[l]};
      if (plan.result != kNoPlace) {
        if (b.cta != w.cta) fault(w, i, l, "a remote arrival returns no state");
        w.at<uint64_t>(plan.result)[l] = b.phase << 20 | static_cast<uint64_t>(b.pending);
      }
      if (count < 1 || count > kMaxArrivals) fault(w, i, l, "arrival count " + std::to_string(count));
      if (count > b.pending) fault(w, i, l, "more arrivals than the phase expects: " + state_of(b));
      b.bytes += bytes;  // expect_tx is performed before the arrival
      if (std::abs(b.bytes) > kMaxArrivals) fault(w, i, l, "transaction bytes beyond 2^20 - 1: " + state_of(b));
      if (plan.drop) {
        if (count > b.expected) fault(w, i, l, "arrive_drop of more than expected: " + state_of(b));
        b.expected -= static_cast<uint32_t>(count);
      }
      if (plan.no_complete && count == b.pending) fault(w, i, l, "arrive.noComplete completes: " + state_of(b));
      b.pending -= count;
      complete_if_due(b);
    }
  });
  return Flow::next;
}

// mbarrier.expect_tx, complete_tx: imm[0] is +1 or -1
Flow exec_transaction(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  each_barrier(w, i, lanes, plan, Use::atomic, [&](Mbarrier& b, Mask same) {
    for (Mask m = same; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      const int64_t bytes = w.at<uint32_t>(plan.bytes)[l];
      b.bytes += static_cast<int64_t>(i.imm[0]) * bytes;
      if (bytes > kMaxArrivals || std::abs(b.bytes) > kMaxArrivals)
        fault(w, i, l, "transaction bytes beyond 2^20 - 1: " + state_of(b));
      complete_if_due(b);
    }
  });
  return Flow::next;
}

// mbarrier.test_wait, try_wait
Flow exec_wait(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  Mask done = 0;
  auto& failed = async_of(*w.cta).failed;
  each_barrier(w, i, lanes, plan, Use::atomic, [&](Mbarrier& b, Mask same) {
    if (b.cta != w.cta) fault(w, i, __builtin_ctz(same), "a wait on another CTA's mbarrier");
    const auto complete = [&] {
      Mask out = 0;
      for (Mask m = same; m; m &= m - 1) {
        const int l = __builtin_ctz(m);
        bool over;
        if (plan.parity) {
          const uint32_t parity = w.at<uint32_t>(plan.state)[l];
          if (parity > 1) fault(w, i, l, "phase parity " + std::to_string(parity));
          over = (b.phase & 1) != parity;
        } else {
          const uint64_t phase = w.at<uint64_t>(plan.state)[l] >> 20;
          if (phase > b.phase || phase + 1 < b.phase)
            fault(w, i, l, "a state of neither this phase nor the last: " + state_of(b));
          over = phase != b.phase;
        }
        out |= Mask{over} << l;
      }
      return out;
    };
    Mask over = complete();
    if (over != same) {
      settle(b, where(w, i, __builtin_ctz(same)));
      over = complete();
    }
    if (over && plan.order) acquire(w, over, b.completed);
    done |= over;
    failed[w.index] = {over == same ? nullptr : &b, &i};
  });
  put(w.predicate(plan.result), done, lanes);
  return done == lanes ? Flow::next : Flow::yield;
}

Flow exec_pending_count(Warp& w, const Inst& i, Mask lanes) {
  const uint64_t* state = w.at<uint64_t>(i.slot[1]);
  uint32_t* count = w.at<uint32_t>(i.slot[0]);
  for (int l = 0; l < kLanes; ++l)
    if (lanes >> l & 1) count[l] = static_cast<uint32_t>(state[l] & kMaxArrivals);
  return Flow::next;
}

// cp.async.mbarrier.arrive: arrives when the lane's earlier copies are done
struct CopyArrival : Pending {
  Copies* copies = nullptr;
  Mask lanes = 0;
  uint64_t before = 0;
  void carry_out(Clock& done) override {
    carry_out_copies(*copies, lanes, kNoGroup, before, &done);
    complete_transfer(transfer, done);
  }
};

// imm[0]: .noinc
Flow exec_copy_arrive(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  Copies& copies = async_of(*w.cta).copies[w.index];
  each_barrier(w, i, lanes, plan, Use::atomic, [&](Mbarrier& b, Mask same) {
    auto p = std::make_unique<CopyArrival>();
    p->transfer = begin_transfer(w, i, __builtin_ctz(same), false);
    p->copies = &copies;
    p->lanes = same;
    p->arrivals = __builtin_popcount(same);
    p->before = copies.issued;  // the copies so far, in whatever group
    if (!i.imm[0]) b.pending += p->arrivals;
    if (b.pending > kMaxArrivals) fault(w, i, __builtin_ctz(same), "too many arrivals pending: " + state_of(b));
    mbarrier_defer(b, std::move(p));
  });
  return Flow::next;
}

bool take_space(Mods& mods, bool cluster) {  // false: generic
  if (mods.take("shared") || mods.take("shared::cta")) return true;
  return cluster && mods.take("shared::cluster");
}

}  // namespace

std::string mbarrier_state(const Warp& w) {
  const Cta::Async* async = w.cta->async.get();
  if (!async || !async->failed[w.index].first) return "";
  const auto& [barrier, inst] = async->failed[w.index];
  return "\n    last mbarrier test at line " + std::to_string(inst->line) + ": " + state_of(*barrier);
}

Mbarrier& mbarrier_at(Warp& w, const Inst& i, int lane, const SharedPlace& place) {
  const uint32_t byte = place.address - kSharedBase;
  if (byte % 8) fault(w, i, lane, "an mbarrier's address is a multiple of 8");
  const Cta::Async* async = place.cta->async.get();
  const uint16_t index = async && byte / 8 < async->mbarrier_index.size() ? async->mbarrier_index[byte / 8] : 0;
  if (!index) fault(w, i, lane, "no mbarrier was initialised at shared + " + std::to_string(byte));
  Mbarrier& b = *async->mbarriers[index - 1];
  const uint64_t word = mark(place.address);
  if (std::memcmp(place.host(), &word, 8) != 0) fault(w, i, lane, "the barrier was overwritten: " + state_of(b));
  return b;
}

void mbarrier_defer(Mbarrier& b, PendingPtr p) {
  b.deferred_bytes += p->bytes;
  b.deferred_arrivals += p->arrivals;
  if (strict().adversarial)
    b.deferred.push_back(std::move(p));
  else
    carry_out(b, *p);
}

void finish_mbarriers(Cta& cta) {
  for (const auto& b : cta.async->mbarriers) {
    if (!b) continue;
    for (const PendingPtr& p : b->deferred)
      if (p->bytes)
        throw Fault("line " + std::to_string(p->transfer.line) +
                    ": a copy was still under way when its CTA ended: " + state_of(*b));
  }
}

void decode_copy_arrive(Decoder& d, Inst& i) {
  Mods mods(d);
  mods.take("async");
  mods.take("mbarrier");
  if (!mods.take("arrive") || d.s.args.size() != 1) d.unknown();
  i.imm[0] = mods.take("noinc");
  take_space(mods, false);
  if (!mods.take("b64")) d.unknown();
  mods.done();
  Plan plan;
  plan.at = address_of(d, d.s.args[0]);
  i.extra = d.keep(plan);
  i.exec = exec_copy_arrive;
}

void decode_mbarrier(Decoder& d, Inst& i) {
  Mods mods(d);
  i.cls = Class::mbarrier;
  const auto& args = d.s.args;
  const auto want = [&](size_t low, size_t high) {
    if (args.size() < low || args.size() > high) d.unknown("operands");
  };
  const int form = mods.pick({"init", "inval", "arrive", "arrive_drop", "test_wait", "try_wait", "pending_count"});
  Plan plan;
  if (form == 6) {
    want(2, 2);
    i.slot[0] = d.dst(args[0], 4);
    i.slot[1] = d.src(args[1], 8);
    i.exec = exec_pending_count;
  } else if (form == 0 || form == 1) {
    want(2 - form, 2 - form);
    take_space(mods, false);
    plan.at = address_of(d, args[0]);
    if (form == 0) plan.count = d.src(args[1], 4);
    i.exec = form == 0 ? exec_init : exec_inval;
  } else if (form == 2 || form == 3) {
    const bool expect = mods.take("expect_tx");
    plan.no_complete = mods.take("noComplete");
    plan.drop = form == 3;
    plan.order = !mods.take("relaxed");
    mods.take("release");
    mods.pick({"cta", "cluster"});
    take_space(mods, true);
    // a remote arrival may leave the state out altogether
    const size_t at = args.at(0).kind == ptx::Operand::Kind::address ? 0 : 1;
    want(at + 1 + (expect || plan.no_complete), at + 2);
    if (at) plan.result = d.dst(args[0]);
    plan.at = address_of(d, args[at]);
    if (args.size() > at + 1) (expect ? plan.bytes : plan.count) = d.src(args[at + 1], 4);
    i.exec = exec_arrive;
  } else if (form == 4 || form == 5) {
    want(3, form == 5 ? 4 : 3);
    plan.parity = mods.take("parity");
    plan.order = !mods.take("relaxed");
    mods.take("acquire");
    mods.pick({"cta", "cluster"});
    take_space(mods, false);
    plan.result = d.dst(args[0]);
    if (plan.result == kNoPlace) d.unknown("no destination");
    plan.at = address_of(d, args[1]);
    plan.state = d.src(args[2], plan.parity ? 4 : 8);
    i.exec = exec_wait;
  } else {
    const int sign = mods.pick({"expect_tx", "complete_tx"});
    if (sign < 0) d.unknown();
    want(2, 2);
    mods.take("relaxed");
    mods.pick({"cta", "cluster"});
    take_space(mods, true);
    plan.at = address_of(d, args[0]);
    plan.bytes = d.src(args[1], 4);
    i.imm[0] = static_cast<uint64_t>(sign == 0 ? 1 : -1);
    i.exec = exec_transaction;
  }
  if (!mods.take("b64")) d.unknown();
  mods.done();
  i.extra = d.keep(plan);
}

}  // namespace emu
