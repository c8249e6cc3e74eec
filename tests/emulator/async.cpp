#include "async.h"

#include <algorithm>
#include <cstring>

// cp.async and its groups, cluster addresses, and the end of a CTA's asynchronous work. The table of the family is
// below.
namespace emu {

Address address_of(Decoder& d, const ptx::Operand& o) { return {d.address(o), d.address_bytes(o) == 8, o.offset}; }

void fault(const Warp& w, const Inst& i, int lane, const std::string& why) {
  throw Fault(where(w, i, lane) + ": " + why);
}

uint64_t constant(const Decoder& d, const ptx::Operand& o) {
  if (o.kind != ptx::Operand::Kind::integer) d.unknown("a constant is needed");
  return o.bits;
}

SharedPlace shared_place(Warp& w, const Inst& i, int lane, uint64_t address) {
  if (address >= kSharedWindow && address < kLocalWindow) address -= kSharedWindow;
  const uint64_t window = address >> 24, byte = address & 0xFF'FFFF;
  auto& ctas = w.cta->cluster->ctas;
  Cta* cta = window == 0 ? w.cta : window <= ctas.size() ? ctas[window - 1].get() : nullptr;
  if (!cta || byte < kSharedBase || byte - kSharedBase >= cta->shared.size())
    fault(w, i, lane, "address " + std::to_string(address) + " is not in the cluster's shared memory");
  return {cta, static_cast<uint32_t>(byte)};
}

Cta::Async& async_of(Cta& cta) {
  if (!cta.async) {
    cta.async = {new Cta::Async, [](Cta::Async* a) { delete a; }};
    cta.async->copies.resize(cta.warps.size());
    cta.async->failed.resize(cta.warps.size());
  }
  return *cta.async;
}

const uint32_t kNoGroup[kLanes] = {};

namespace {

struct CopyPlan {
  Address to, from;
  int size;
  Place read = kNoPlace, ignore = kNoPlace;
  bool ignore_negated = false;
};

Flow exec_copy(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const CopyPlan*>(i.extra);
  Copies& copies = async_of(*w.cta).copies[w.index];
  if (copies.spare.empty()) copies.spare.push_back(std::make_unique<Copy>());
  auto copy = std::move(copies.spare.back());
  copies.spare.pop_back();
  copy->transfer = begin_transfer(w, i, __builtin_ctz(lanes), false);
  copy->inst = &i;
  copy->left = lanes;
  copy->size = plan.size;
  copy->stamp = copies.issued++;
  std::memcpy(copy->group, copies.commits, sizeof copy->group);
  const Mask ignored = plan.ignore == kNoPlace ? 0 : w.predicate(plan.ignore) ^ (plan.ignore_negated ? kAllLanes : 0);
  const uint32_t* read = plan.read == kNoPlace ? nullptr : w.at<uint32_t>(plan.read);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const uint32_t bytes = ignored >> l & 1 ? 0 : read ? read[l] : plan.size;
    const SharedPlace to = shared_place(w, i, l, plan.to.of(w, l));
    const uint64_t from = plan.from.of(w, l);
    if (bytes > static_cast<uint32_t>(plan.size))
      fault(w, i, l, "src-size " + std::to_string(bytes) + " exceeds cp-size");
    if (to.address % plan.size) fault(w, i, l, "the destination is not aligned to " + std::to_string(plan.size));
    if (bytes && from % plan.size) fault(w, i, l, "the source is not aligned to " + std::to_string(plan.size));
    if (to.cta != w.cta) fault(w, i, l, "cp.async writes another CTA's shared memory");
    copy->to[l] = to.address;
    copy->from[l] = from;
    copy->read[l] = static_cast<uint8_t>(bytes);
    counts().cp_async_bytes += bytes;
  }
  if (strict().adversarial) {
    for (Mask m = lanes; m; m &= m - 1) {
      const int l = copy->transfer.lane = __builtin_ctz(m);
      begin_pending(copy->transfer, *w.cta, Space::shared, copy->to[l], copy->size, Use::write);
    }
    copies.queue.push_back(std::move(copy));
    return Flow::next;
  }
  copies.queue.push_back(std::move(copy));
  carry_out_copies(copies, lanes, kNoGroup, copies.issued, nullptr);
  return Flow::next;
}

Flow exec_commit(Warp& w, const Inst&, Mask lanes) {
  uint32_t* commits = async_of(*w.cta).copies[w.index].commits;
  for (int l = 0; l < kLanes; ++l) commits[l] += lanes >> l & 1;
  return Flow::next;
}

// imm[0]: how many of the latest groups may stay under way
Flow exec_wait(Warp& w, const Inst& i, Mask lanes) {
  Copies& copies = async_of(*w.cta).copies[w.index];
  const uint32_t newest = static_cast<uint32_t>(std::min<uint64_t>(i.imm[0], ~0u));
  uint32_t limit[kLanes];
  for (int l = 0; l < kLanes; ++l) limit[l] = copies.commits[l] > newest ? copies.commits[l] - newest : 0;
  carry_out_copies(copies, lanes, limit, 0, nullptr);
  return Flow::next;
}

Flow exec_wait_all(Warp& w, const Inst& i, Mask lanes) {
  exec_commit(w, i, lanes);
  return exec_wait(w, i, lanes);
}

void decode_copy(Decoder& d, Inst& i) {
  using Kind = ptx::Operand::Kind;
  const auto& args = d.s.args;
  const size_t operands = args.size() - (d.has("L2::cache_hint") ? 1 : 0);
  if (args.size() < 3 || operands > 4 || !d.has("global")) d.unknown();
  if (!d.has("shared") && !d.has("shared::cta")) d.unknown();
  CopyPlan plan{address_of(d, args[0]), address_of(d, args[1]), static_cast<int>(constant(d, args[2]))};
  const bool sixteen = d.s.mods[1] == "cg";
  if (plan.size != 16 && (sixteen || (plan.size != 4 && plan.size != 8))) d.unknown("cp-size");
  if (operands == 4) {
    const auto& last = args[3];
    if (last.kind == Kind::reg && d.reg_bytes(last) == 0) {
      plan.ignore = d.src(last, 0);
      plan.ignore_negated = last.negated;
    } else {
      plan.read = d.src(last, 4);
    }
  }
  i.extra = d.keep(plan);
  i.exec = exec_copy;
}

void decode_cp(Decoder& d, Inst& i) {
  const auto& mods = d.s.mods;
  if (mods.size() < 2) d.unknown();
  if (mods[0] == "reduce" || mods[1] == "bulk") {
    i.cls = Class::bulk;
    return decode_bulk(d, i);
  }
  if (mods[0] != "async") d.unknown();
  i.cls = Class::cp_async;
  const std::string& form = mods[1];
  if (form == "ca" || form == "cg") return decode_copy(d, i);
  if (form == "mbarrier") return decode_copy_arrive(d, i);
  if (form == "commit_group") {
    i.exec = exec_commit;
  } else if (form == "wait_group") {
    i.imm[0] = constant(d, d.s.args.at(0));
    i.exec = exec_wait;
  } else if (form == "wait_all") {
    i.exec = exec_wait_all;
  } else {
    d.unknown();
  }
}

// mapa d, a, rank
struct Mapped {
  Place to, from, rank;
  bool wide, generic;
};

Flow exec_mapa(Warp& w, const Inst& i, Mask lanes) {
  const auto& p = *static_cast<const Mapped*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const uint64_t a = p.wide ? w.at<uint64_t>(p.from)[l] : w.at<uint32_t>(p.from)[l];
    const uint32_t rank = w.at<uint32_t>(p.rank)[l];
    if (rank >= w.cta->cluster->ctas.size()) fault(w, i, l, "the cluster has no CTA of rank " + std::to_string(rank));
    const uint64_t mapped = (uint64_t{rank} + 1) << 24 | shared_place(w, i, l, a).address;
    if (p.wide)
      w.at<uint64_t>(p.to)[l] = mapped + (p.generic ? kSharedWindow : 0);
    else
      w.at<uint32_t>(p.to)[l] = static_cast<uint32_t>(mapped);
  }
  return Flow::next;
}

void decode_mapa(Decoder& d, Inst& i) {
  if (d.s.args.size() != 3) d.unknown();
  const bool wide = d.has("u64");
  if (!wide && !d.has("u32")) d.unknown();
  i.extra = d.keep(Mapped{d.dst(d.s.args[0]), d.src(d.s.args[1], wide ? 8 : 4), d.src(d.s.args[2], 4), wide,
                          !d.has("shared::cluster")});
  i.cls = Class::other;
  i.exec = exec_mapa;
}

// getctarank d, a
Flow exec_ctarank(Warp& w, const Inst& i, Mask lanes) {
  const auto& p = *static_cast<const Mapped*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const uint64_t a = p.wide ? w.at<uint64_t>(p.from)[l] : w.at<uint32_t>(p.from)[l];
    w.at<uint32_t>(p.to)[l] = shared_place(w, i, l, a).cta->rank;
  }
  return Flow::next;
}

void decode_ctarank(Decoder& d, Inst& i) {
  if (d.s.args.size() != 2) d.unknown();
  const bool wide = d.has("u64");
  i.extra = d.keep(Mapped{d.dst(d.s.args[0]), d.src(d.s.args[1], wide ? 8 : 4), kNoPlace, wide, false});
  i.exec = exec_ctarank;
}

Flow exec_fence_async(Warp& w, const Inst&, Mask lanes) {
  fence_proxy_async(w, lanes);
  return Flow::next;
}

// Orders mbarrier.init before what a barrier.cluster.arrive.relaxed behind it is seen by; here, every access.
Flow exec_fence_init(Warp& w, const Inst&, Mask lanes) {
  fence_memory(w, lanes);
  return Flow::next;
}

Flow exec_nothing(Warp&, const Inst&, Mask) { return Flow::next; }

// discard.global.L2 [a], 128: the bytes become undefined
Flow exec_discard(Warp& w, const Inst& i, Mask lanes) {
  const auto& a = *static_cast<const Address*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    uint64_t address[kLanes] = {};
    std::byte* host[kLanes] = {};
    address[l] = a.of(w, l);
    if (address[l] % 128) fault(w, i, l, "discard needs an address aligned to 128");
    for (int k = 0; k < 8; ++k, address[l] += 16) {
      access(w, i, Mask{1} << l, static_cast<Space>(i.imm[0]), Use::write, Order::weak, address, 16, host);
      std::memset(host[l], 0xFF, 16);
    }
  }
  return Flow::next;
}

void decode_discard(Decoder& d, Inst& i) {
  if (!d.has("L2") || d.s.args.size() != 2 || constant(d, d.s.args[1]) != 128) d.unknown();
  i.extra = d.keep(address_of(d, d.s.args[0]));
  i.imm[0] = static_cast<uint64_t>(d.has("global") ? Space::global : Space::generic);
  i.exec = exec_discard;
}

// createpolicy.*: a policy says nothing about values
Flow exec_policy(Warp& w, const Inst& i, Mask lanes) {
  uint64_t* d = w.at<uint64_t>(i.slot[0]);
  for (int l = 0; l < kLanes; ++l) d[l] = lanes >> l & 1 ? 0x14F0'0000'0000'0000 : d[l];
  return Flow::next;
}

void decode_policy(Decoder& d, Inst& i) {
  i.slot[0] = d.dst(d.s.args.at(0));
  i.exec = exec_policy;
}

void decode_refused(Decoder& d, Inst&) { d.unknown("the virtual device has no such instruction"); }

}  // namespace

void carry_out_copies(Copies& copies, Mask lanes, const uint32_t* limit, uint64_t before, Clock* done) {
  size_t kept = 0;
  for (auto& c : copies.queue) {
    Mask due = 0;
    for (int l = 0; l < kLanes; ++l) due |= Mask{c->group[l] < limit[l]} << l;
    if (c->stamp < before) due = kAllLanes;
    due &= lanes & c->left;
    if (due) {
      Transfer& t = c->transfer;
      Cta& cta = *t.cta;
      Warp& w = cta.warps[t.warp];
      uint64_t to[kLanes];
      std::byte bytes[kLanes][16] = {}, *host[kLanes];
      Mask whole = 0;
      for (int l = 0; l < kLanes; ++l) {
        to[l] = c->to[l];
        whole |= Mask{c->read[l] == c->size} << l;
      }
      if (strict().adversarial) {
        for (Mask m = due; m; m &= m - 1) {
          const int l = t.lane = __builtin_ctz(m);
          end_pending(t, cta, Space::shared, c->to[l], c->size);
        }
      }
      whole &= due;
      if (whole) {
        access(w, *c->inst, whole, Space::global, Use::read, Order::weak, c->from, c->size, host);
        for (Mask m = whole; m; m &= m - 1) {
          const int l = __builtin_ctz(m);
          std::memcpy(bytes[l], host[l], c->size);
        }
      }
      for (Mask m = due & ~whole; m; m &= m - 1) {
        const int l = t.lane = __builtin_ctz(m);
        if (c->read[l])
          std::memcpy(bytes[l], transfer_access(t, cta, Space::global, Use::read, c->from[l], c->read[l]), c->read[l]);
      }
      access(w, *c->inst, due, Space::shared, Use::write, Order::weak, to, c->size, host);
      for (Mask m = due; m; m &= m - 1) {
        const int l = __builtin_ctz(m);
        std::memcpy(host[l], bytes[l], c->size);
        t.acted |= Mask{1} << l;
      }
      if (done) complete_transfer(t, *done);
      c->left &= ~due;
    }
    if (c->left)
      std::swap(copies.queue[kept++], c);
    else
      copies.spare.push_back(std::move(c));
  }
  copies.queue.resize(kept);
}

void finish_async(Cta& cta) {
  if (!cta.async) return;
  for (Copies& c : cta.async->copies) carry_out_copies(c, kAllLanes, kNoGroup, c.issued, nullptr);
  finish_bulk(cta);
  finish_mbarriers(cta);
  finish_wgmma(cta);
  cta.async.reset();
}

bool decode_fence_async(Decoder& d, Inst& i) {
  const auto& mods = d.s.mods;
  if (mods.empty() || (mods[0] != "mbarrier_init" && mods[0] != "proxy")) return false;
  i.cls = Class::fence;
  if (mods[0] == "mbarrier_init")
    i.exec = exec_fence_init;
  else if (mods.size() > 1 && mods[1].substr(0, 5) == "async")
    i.exec = exec_fence_async;
  else if (mods.size() > 1 && (mods[1].substr(0, 9) == "tensormap" || mods[1] == "alias"))
    i.exec = exec_nothing;
  else
    d.unknown();
  return true;
}

const Family kAsync[] = {
    {"cp", decode_cp},
    {"mbarrier", decode_mbarrier},
    {"mapa", decode_mapa},
    {"getctarank", decode_ctarank},
    {"discard", decode_discard},
    {"createpolicy", decode_policy},
    {"applypriority", decode_refused},
    {"tensormap", decode_refused},
    {"multimem", decode_refused},
    {nullptr, nullptr},
};

}  // namespace emu
