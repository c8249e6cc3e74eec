#include <algorithm>
#include <bit>
#include <string_view>

#include "memory.h"
#include "state.h"

// bar / barrier.cta, barrier.cluster, setmaxnreg.
namespace emu {

enum class Reduce : uint8_t { none, popc, all, any };

struct Named {  // one of the 16 barriers of a CTA
  struct OfWarp {
    Mask waiting = 0, released = 0;
    Mask arrived = 0;  // of this phase, also those that do not wait
    uint32_t result = 0;
    Clock clock;  // of the phase that released it
  };
  std::vector<OfWarp> warps;
  int expected = 0, arrived = 0;  // threads; expected 0: nobody has arrived
  bool everyone = false;          // no count was given: all threads that have not exited
  Reduce reduce = Reduce::none;
  uint32_t value = 0;
  int line = 0;  // of the phase's first arrival
  Clock clock;
};

struct Cta::Barriers {
  Named named[16];
  struct ClusterWarp {
    Mask arrived = 0, released = 0;
    Clock clock;
  };
  std::vector<ClusterWarp> cluster;
  Clock cluster_clock;                                           // of rank 0: the cluster's
  std::vector<std::vector<std::pair<int, uint64_t>>> registers;  // per warp: lines and counts of setmaxnreg
};

namespace {

Cta::Barriers& barriers(Cta& cta) {
  if (!cta.barriers) {
    cta.barriers = {new Cta::Barriers, [](Cta::Barriers* b) { delete b; }};
    for (Named& b : cta.barriers->named) b.warps.resize(cta.warps.size());
    cta.barriers->cluster.resize(cta.warps.size());
    cta.barriers->registers.resize(cta.warps.size());
  }
  return *cta.barriers;
}

void complete(Cta& cta, Named& b) {
  if (!b.expected) return;
  if (b.everyone) {
    for (size_t i = 0; i < cta.warps.size(); ++i)
      if (cta.warps[i].alive & ~b.warps[i].arrived) return;
  } else if (b.arrived < b.expected) {
    return;
  }
  for (Named::OfWarp& w : b.warps) {
    if (w.waiting) w.clock = b.clock, w.result = b.value;
    w.released |= w.waiting;
    w.waiting = w.arrived = 0;
  }
  b.expected = b.arrived = 0;
  b.reduce = Reduce::none;
  b.clock = {};
}

int threads(const Cta& cta) { return static_cast<int>(cta.warps.size()) * kLanes; }

uint32_t uniform(Warp& w, const Inst& in, Mask lanes, Place place, const char* what) {
  const uint32_t* v = w.at<uint32_t>(place);
  const uint32_t first = v[std::countr_zero(lanes)];
  for (int l = 0; l < kLanes; ++l)
    if ((lanes >> l & 1) && v[l] != first)
      throw Fault(std::string("barrier: the lanes give different ") + what + ": " + where(w, in, l));
  return first;
}

template <Reduce R>
uint32_t contribution(Mask lanes, Mask p) {
  if constexpr (R == Reduce::popc) return std::popcount(lanes & p);
  if constexpr (R == Reduce::all) return (lanes & ~p) == 0;
  return (lanes & p) != 0;
}

// slot: barrier, count, reduced predicate, destination; imm[1]: aligned; imm[0]: the predicate is negated.
template <bool Waits, Reduce R>
Flow barrier(Warp& w, const Inst& in, Mask lanes) {
  Cta& cta = *w.cta;
  const uint32_t index = uniform(w, in, lanes, in.slot[0], "barriers");
  if (index > 15) throw Fault("barrier " + std::to_string(index) + " does not exist: " + where(w, in));
  Named& b = barriers(cta).named[index];
  Named::OfWarp& own = b.warps[w.index];
  if (!(own.released & lanes)) {
    if (own.waiting & lanes) {  // others may have exited in the meantime
      complete(cta, b);
      if (!(own.released & lanes)) return Flow::wait;
    } else {
      int count = threads(cta);
      const bool everyone = in.slot[1] == kNoPlace;
      if (!everyone) count = static_cast<int>(uniform(w, in, lanes, in.slot[1], "counts"));
      const auto fault = [&](const std::string& why) {
        throw Fault("barrier " + std::to_string(index) + ": " + why + ": " + where(w, in));
      };
      if (count <= 0 || count % kLanes) fault("the count " + std::to_string(count) + " is no positive multiple of 32");
      if (count > threads(cta))
        fault("the count " + std::to_string(count) + " exceeds the CTA's " + std::to_string(threads(cta)) + " threads");
      if (!Waits && everyone) fault("arrive without a count");
      if (b.expected && b.expected != count)
        fault("the count " + std::to_string(count) + ", where line " + std::to_string(b.line) + " arrived with " +
              std::to_string(b.expected));
      if (b.expected && b.reduce != R && b.reduce != Reduce::none && R != Reduce::none) fault("two reductions at once");
      if (!b.expected) {
        b.expected = count, b.line = in.line, b.everyone = everyone;
        b.value = R == Reduce::all ? 1 : 0;
      }
      b.everyone = b.everyone && everyone;
      if constexpr (R != Reduce::none) {
        const Mask p = in.imm[0] ? ~w.predicate(in.slot[2]) : w.predicate(in.slot[2]);
        const uint32_t one = contribution<R>(lanes, p);
        b.reduce = R;
        b.value = R == Reduce::popc ? b.value + one : R == Reduce::all ? b.value & one : b.value | one;
      }
      b.arrived += in.imm[1] || lanes == w.alive ? kLanes : std::popcount(lanes);
      if (b.arrived > b.expected)
        fault(std::to_string(b.arrived) + " threads have arrived where " + std::to_string(b.expected) +
              " are expected");
      own.arrived |= lanes;
      release(w, lanes, b.clock);
      if constexpr (Waits) own.waiting |= lanes;
      complete(cta, b);
      if constexpr (!Waits) return Flow::next;
      if (!(own.released & lanes)) return Flow::wait;
    }
  }
  own.released &= ~lanes;
  acquire(w, lanes, own.clock);
  if constexpr (R == Reduce::popc) {
    uint32_t* d = w.at<uint32_t>(in.slot[3]);
    for (int l = 0; l < kLanes; ++l)
      if (lanes >> l & 1) d[l] = own.result;
  } else if constexpr (R != Reduce::none) {
    Mask& d = w.predicate(in.slot[3]);
    d = own.result ? d | lanes : d & ~lanes;
  }
  return Flow::next;
}

void decode_cta_barrier(Decoder& d, Inst& in, bool aligned) {
  const auto& args = d.s.args;
  in.cls = Class::barrier;
  in.converge = aligned ? Converge::all : Converge::none;
  in.imm[1] = aligned;
  const auto count = [&](size_t n, size_t optional) {
    if (args.size() < n || args.size() > optional) d.unknown("the number of operands");
  };
  if (d.has("red")) {
    count(3, 4);
    const bool popc = d.has("popc");
    if (!popc && !d.has("and") && !d.has("or")) d.unknown();
    in.slot[3] = d.dst(args[0], popc ? 4 : 0);
    in.slot[0] = d.src(args[1], 4);
    if (args.size() == 4) in.slot[1] = d.src(args[2], 4);
    in.slot[2] = d.src(args.back(), 0);
    in.imm[0] = args.back().negated;
    in.exec = popc           ? barrier<true, Reduce::popc>
              : d.has("and") ? barrier<true, Reduce::all>
                             : barrier<true, Reduce::any>;
    return;
  }
  count(d.has("arrive") ? 2 : 1, 2);
  if (!d.has("sync") && !d.has("arrive")) d.unknown();
  in.slot[0] = d.src(args[0], 4);
  if (args.size() == 2) in.slot[1] = d.src(args[1], 4);
  in.exec = d.has("arrive") ? barrier<false, Reduce::none> : barrier<true, Reduce::none>;
}

void complete_cluster(Cluster& c) {
  for (const auto& cta : c.ctas)
    for (const Warp& w : cta->warps)
      if (w.alive & ~barriers(*cta).cluster[w.index].arrived) return;
  Clock& clock = barriers(*c.ctas[0]).cluster_clock;
  for (const auto& cta : c.ctas)
    for (Cta::Barriers::ClusterWarp& w : barriers(*cta).cluster) {
      w.clock = clock;
      w.released |= w.arrived;
      w.arrived = 0;
    }
  clock = {};
}

template <bool Relaxed>
Flow cluster_arrive(Warp& w, const Inst& in, Mask lanes) {
  auto& own = barriers(*w.cta).cluster[w.index];
  if ((own.arrived | own.released) & lanes)
    throw Fault("barrier.cluster.arrive a second time without wait: " +
                where(w, in, std::countr_zero((own.arrived | own.released) & lanes)));
  Cluster& c = *w.cta->cluster;
  (Relaxed ? release_fenced : release)(w, lanes, barriers(*c.ctas[0]).cluster_clock);
  own.arrived |= lanes;
  complete_cluster(c);
  return Flow::next;
}

Flow cluster_wait(Warp& w, const Inst& in, Mask lanes) {
  auto& own = barriers(*w.cta).cluster[w.index];
  if (const Mask without = lanes & ~(own.arrived | own.released))
    throw Fault("barrier.cluster.wait without arrive: " + where(w, in, std::countr_zero(without)));
  if (lanes & ~own.released) complete_cluster(*w.cta->cluster);
  if (lanes & ~own.released) return Flow::wait;
  own.released &= ~lanes;
  acquire(w, lanes, own.clock);
  return Flow::next;
}

Flow set_registers(Warp& w, const Inst& in, Mask) {
  auto& all = barriers(*w.cta).registers;
  auto& own = all[w.index];
  own.push_back({in.line, in.imm[0]});
  const size_t first = w.index / 4 * 4;
  if (first + 4 > all.size()) throw Fault("setmaxnreg outside a whole warpgroup: " + where(w, in));
  for (size_t i = first; i < first + 4; ++i)
    if (all[i].size() >= own.size() && all[i][own.size() - 1] != own.back())
      throw Fault("setmaxnreg: warp " + std::to_string(i) + " of the warpgroup executed that of line " +
                  std::to_string(all[i][own.size() - 1].first) + ": " + where(w, in));
  return Flow::next;
}

}  // namespace

std::string barrier_state(const Warp& w, Mask lanes) {
  if (!w.cta->barriers) return "";
  for (int i = 0; i < 16; ++i) {
    const Named& b = w.cta->barriers->named[i];
    if (b.warps[w.index].waiting & lanes)
      return " at barrier " + std::to_string(i) + ": " +
             (b.everyone ? "for every thread of the CTA"
                         : std::to_string(b.arrived) + " of " + std::to_string(b.expected) + " threads have arrived");
  }
  return w.cta->barriers->cluster[w.index].arrived & lanes ? " for the cluster" : "";
}

void decode_bar(Decoder& d, Inst& in) {
  if (!d.has("warp")) return decode_cta_barrier(d, in, true);
  for (const Family* f = kWarp; f->op; ++f)
    if (std::string_view(f->op) == "bar") return f->decode(d, in);
  d.unknown();
}

void decode_barrier(Decoder& d, Inst& in) {
  if (!d.has("cluster")) return decode_cta_barrier(d, in, d.has("aligned"));
  in.cls = Class::barrier;
  in.converge = d.has("aligned") ? Converge::all : Converge::none;
  if (!d.s.args.empty() || d.has("arrive") == d.has("wait")) d.unknown();
  in.exec = d.has("wait") ? cluster_wait : d.has("relaxed") ? cluster_arrive<true> : cluster_arrive<false>;
}

void decode_setmaxnreg(Decoder& d, Inst& in) {
  const auto& args = d.s.args;
  if (d.has("inc") == d.has("dec") || args.size() != 1 || args[0].kind != ptx::Operand::Kind::integer) d.unknown();
  if (args[0].bits < 24 || args[0].bits > 256 || args[0].bits % 8)
    d.unknown("setmaxnreg takes a multiple of 8 from 24 to 256");
  in.cls = Class::control;
  in.converge = Converge::all;
  in.imm[0] = args[0].bits;
  in.exec = set_registers;
}

}  // namespace emu
