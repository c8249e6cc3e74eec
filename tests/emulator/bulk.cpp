#include <cstring>

#include "async.h"
#include "lanes.h"

// Bulk copies without a tensor map, the groups of bulk stores, st.async and red.async.
namespace emu {

void BulkLoad::carry_out(Clock& done) {
  const int size = static_cast<int>(bytes);
  end_pending(transfer, *cta, Space::shared, to, size);
  fill(transfer_access(transfer, *cta, Space::shared, Use::write, to, size));
  complete_transfer(transfer, done);
}

void BulkStore::read(Clock& done) {
  if (!has_read) {
    has_read = true;
    const int size = static_cast<int>(data.size());
    end_pending(reading, *cta, Space::shared, from, size);
    std::memcpy(data.data(), transfer_access(reading, *cta, Space::shared, Use::read, from, size), data.size());
  }
  complete_transfer(reading, done);
}

void issue_store(Warp& w, const Inst& i, int lane, BulkStorePtr store, uint64_t from, int bytes, int align) {
  const SharedPlace place = shared_place(w, i, lane, from);
  if (place.cta != w.cta) fault(w, i, lane, "a bulk store's source is the CTA's own shared memory");
  if (place.address % align) fault(w, i, lane, "the source is not aligned to " + std::to_string(align));
  store->cta = w.cta;
  store->from = place.address;
  store->data.resize(bytes);
  store->reading = begin_transfer(w, i, lane, true);
  store->writing = begin_transfer(w, i, lane, true);
  counts().bulk_bytes += bytes;
  begin_pending(store->reading, *w.cta, Space::shared, place.address, bytes, Use::read);
  if (!strict().adversarial) {
    Clock done;
    store->read(done);
  }
  auto& bulk = async_of(*w.cta).bulk;
  if (bulk.empty()) bulk.resize(w.cta->warps.size() * kLanes);
  bulk[w.index * kLanes + lane].open.push_back(std::move(store));
}

namespace {

void finish(BulkStore& store, Clock& done) {
  store.read(done);
  store.write();
  complete_transfer(store.writing, done);
}

Flow exec_commit(Warp& w, const Inst&, Mask lanes) {
  auto& bulk = async_of(*w.cta).bulk;
  if (bulk.empty()) return Flow::next;  // groups without a member
  for (Mask m = lanes; m; m &= m - 1) {
    BulkGroups& g = bulk[w.index * kLanes + __builtin_ctz(m)];
    g.closed.push_back(std::move(g.open));
    g.open.clear();
  }
  return Flow::next;
}

// imm[0]: how many of the latest groups may stay under way; imm[1]: .read
Flow exec_wait(Warp& w, const Inst& i, Mask lanes) {
  auto& bulk = async_of(*w.cta).bulk;
  if (bulk.empty()) return Flow::next;
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    auto& closed = bulk[w.index * kLanes + l].closed;
    if (closed.size() <= i.imm[0]) continue;
    Clock done;
    const size_t due = closed.size() - i.imm[0];
    for (size_t k = 0; k < due; ++k)
      for (const BulkStorePtr& s : closed[k]) i.imm[1] ? s->read(done) : finish(*s, done);
    if (!i.imm[1]) closed.erase(closed.begin(), closed.begin() + due);
    acquire(w, Mask{1} << l, done);
  }
  return Flow::next;
}

struct PlainLoad final : BulkLoad {
  Space space;
  Cta* source;  // of shared memory
  uint64_t from;
  Reduce reduce;
  void fill(std::byte* out) override {
    const int size = static_cast<int>(bytes);
    const std::byte* in = transfer_access(transfer, *source, space, Use::read, from, size);
    if (reduce)
      reduce(out, in, size);
    else
      std::memcpy(out, in, size);
  }
};

struct PlainStore final : BulkStore {
  uint64_t to = 0;
  void write() override {
    const int size = static_cast<int>(data.size());
    std::byte* out = transfer_access(writing, *cta, Space::global, reduce ? Use::atomic : Use::write, to, size);
    if (reduce)
      reduce(out, data.data(), size);
    else
      std::memcpy(out, data.data(), size);
  }
};

struct Plan {
  BulkTarget target;
  Address from;
  Place size = kNoPlace;
  Reduce reduce = nullptr;
  bool from_shared = false;
};

int size_of(Warp& w, const Inst& i, int lane, Place place) {
  const uint32_t size = w.at<uint32_t>(place)[lane];
  if (size % 16 || size > kMaxArrivals) fault(w, i, lane, "a bulk copy of " + std::to_string(size) + " bytes");
  return static_cast<int>(size);
}

Flow exec_load(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const int size = size_of(w, i, l, plan.size);
    uint64_t from = plan.from.of(w, l);
    if (from % 16) fault(w, i, l, "the source is not aligned to 16");
    Cta* source = w.cta;
    if (plan.from_shared) {
      const SharedPlace place = shared_place(w, i, l, from);
      if (place.cta != w.cta) fault(w, i, l, "the source is another CTA's shared memory");
      from = place.address;
    }
    issue_loads(w, i, l, plan.target, size, 16, [&] {
      auto load = std::make_unique<PlainLoad>();
      load->space = plan.from_shared ? Space::shared : Space::global;
      load->source = source;
      load->from = from;
      load->reduce = plan.reduce;
      return load;
    });
  }
  return Flow::next;
}

Flow exec_store(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  if (!plan.reduce)
    lanes = distinct(lanes, [&](int x, int y) {
      return plan.target.to.of(w, x) == plan.target.to.of(w, y) && plan.from.of(w, x) == plan.from.of(w, y) &&
             w.at<uint32_t>(plan.size)[x] == w.at<uint32_t>(plan.size)[y];
    });
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    auto store = std::make_unique<PlainStore>();
    store->to = plan.target.to.of(w, l);
    store->reduce = plan.reduce;
    if (store->to % 16) fault(w, i, l, "the destination is not aligned to 16");
    issue_store(w, i, l, std::move(store), plan.from.of(w, l), size_of(w, i, l, plan.size), 16);
  }
  return Flow::next;
}

Flow exec_prefetch(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    size_of(w, i, l, plan.size);
    if (plan.from.of(w, l) % 16) fault(w, i, l, "the source is not aligned to 16");
  }
  return Flow::next;
}

// st.async, red.async
struct RemotePlan {
  Address to, barrier;
  Place value[4];
  int count, bytes;  // of elements; of one
  Reduce reduce;
};

struct RemoteStore final : Pending {
  Cta* cta = nullptr;
  uint32_t to = 0;
  Reduce reduce = nullptr;
  std::byte value[32];
  void carry_out(Clock& done) override {
    const int size = static_cast<int>(bytes);
    std::byte* out = transfer_access(transfer, *cta, Space::shared, reduce ? Use::atomic : Use::write, to, size);
    if (reduce)
      reduce(out, value, size);
    else
      std::memcpy(out, value, size);
    complete_transfer(transfer, done);
  }
};

Flow exec_remote(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const RemotePlan*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const SharedPlace to = shared_place(w, i, l, plan.to.of(w, l));
    const SharedPlace barrier = shared_place(w, i, l, plan.barrier.of(w, l));
    if (to.cta != barrier.cta) fault(w, i, l, "destination and mbarrier belong to different CTAs");
    auto store = std::make_unique<RemoteStore>();
    store->cta = to.cta;
    store->to = to.address;
    store->bytes = plan.count * plan.bytes;
    store->reduce = plan.reduce;
    if (to.address % store->bytes) fault(w, i, l, "the destination is not aligned to " + std::to_string(store->bytes));
    for (int k = 0; k < plan.count; ++k)
      std::memcpy(store->value + k * plan.bytes, w.regs + plan.value[k] + l * plan.bytes, plan.bytes);
    store->transfer = begin_transfer(w, i, l, false);
    mbarrier_defer(mbarrier_at(w, i, l, barrier), std::move(store));
  }
  return Flow::next;
}

}  // namespace

bool decode_store_async(Decoder& d, Inst& i) {
  const bool red = d.s.op == "red";
  Mods mods(d);
  if (!mods.take("async")) return false;
  i.cls = Class::bulk;
  mods.pick({"weak", "relaxed"});
  mods.pick({"cta", "cluster"});
  if (!mods.take("shared::cluster") || !mods.take("mbarrier::complete_tx::bytes"))
    d.unknown("only to shared::cluster with an mbarrier");
  RemotePlan plan{};
  plan.count = 1 << std::max(0, mods.pick({"v1", "v2", "v4"}));
  std::string_view op;
  if (red) {
    for (const char* name : {"add", "min", "max", "inc", "dec", "and", "or", "xor"})
      if (mods.take(name)) op = name;
  }
  const std::string_view type = mods.type();
  mods.done();
  const auto& args = d.s.args;
  if (args.size() != 3 || type.size() != 3 || (red && plan.count != 1)) d.unknown();
  plan.bytes = type.substr(1) == "64" ? 8 : 4;
  if (type.substr(1) != "64" && type.substr(1) != "32") d.unknown("type");
  if (red && !(plan.reduce = reduction(op, type))) d.unknown("no such reduction");
  plan.to = address_of(d, args[0]);
  plan.barrier = address_of(d, args[2]);
  const bool vector = args[1].kind == ptx::Operand::Kind::vector;
  if (plan.count != (vector ? static_cast<int>(args[1].items.size()) : 1)) d.unknown("vector");
  for (int k = 0; k < plan.count; ++k) plan.value[k] = d.src(vector ? args[1].items[k] : args[1], plan.bytes);
  i.extra = d.keep(plan);
  i.exec = exec_remote;
  return true;
}

void decode_bulk(Decoder& d, Inst& i) {
  if (d.has("tensor")) return decode_tensor(d, i);
  Mods mods(d);
  const auto& args = d.s.args;
  const bool reduces = mods.take("reduce");
  mods.take("async");
  mods.take("bulk");
  if (mods.take("commit_group")) {
    i.exec = exec_commit;
    return mods.done();
  }
  if (mods.take("wait_group")) {
    i.imm[0] = constant(d, args.at(0));
    i.imm[1] = mods.take("read");
    i.exec = exec_wait;
    return mods.done();
  }
  Plan plan;
  const bool hint = mods.take("L2::cache_hint");
  const auto want = [&](size_t n) {
    if (args.size() != n + hint) d.unknown("operands");
  };
  if (mods.take("prefetch")) {
    if (!mods.take("L2") || !mods.take("global")) d.unknown();
    want(2);
    plan.from = address_of(d, args[0]);
    plan.size = d.src(args[1], 4);
    i.exec = exec_prefetch;
  } else {
    const bool barrier = mods.take("mbarrier::complete_tx::bytes");
    if (barrier == mods.take("bulk_group")) d.unknown("completion mechanism");
    // the first space is the destination's
    const std::string& to = d.s.mods.at(reduces ? 3 : 2);
    const std::string& from = d.s.mods.at(reduces ? 4 : 3);
    mods.take(to);
    mods.take(from);
    plan.from_shared = from == "shared::cta";
    if (barrier ? !((to == "shared::cta" && from == "global") ||
                    (to == "shared::cluster" && (from == "global" || plan.from_shared)))
                : !(to == "global" && plan.from_shared))
      d.unknown("state spaces");
    if (reduces) {
      if (barrier && !plan.from_shared) d.unknown("state spaces");
      mods.take("noftz");
      std::string_view op;
      for (const char* name : {"add", "min", "max", "inc", "dec", "and", "or", "xor"})
        if (mods.take(name)) op = name;
      if (!(plan.reduce = reduction(op, mods.type()))) d.unknown("no such reduction");
    }
    const bool multicast = mods.take("multicast::cluster");
    if (multicast && (to != "shared::cluster" || plan.from_shared)) d.unknown("multicast");
    want(3 + barrier + multicast);
    plan.target.to = address_of(d, args[0]);
    plan.from = address_of(d, args[1]);
    plan.size = d.src(args[2], 4);
    if (barrier) plan.target.barrier = address_of(d, args[3]);
    if (multicast) plan.target.mask = d.src(args[4], 2);
    i.exec = barrier ? exec_load : exec_store;
  }
  mods.done();
  i.extra = d.keep(plan);
}

void finish_bulk(Cta& cta) {
  for (BulkGroups& g : cta.async->bulk) {
    Clock done;
    g.closed.push_back(std::move(g.open));
    for (const auto& group : g.closed)
      for (const BulkStorePtr& s : group) finish(*s, done);
    g.closed.clear();
  }
}

}  // namespace emu
