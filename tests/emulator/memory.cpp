#include "memory.h"

#include <cstring>

#include "lanes.h"
#include "strict.h"

// ld, st and the instructions about addresses; the table of the family is below. atom and red: atomics.cpp.
namespace emu {
namespace {

template <class T, class R>
R widen(T v) {
  if constexpr (std::is_same_v<T, R>)
    return v;
  else if constexpr (std::is_signed_v<T>)
    return static_cast<R>(static_cast<std::make_signed_t<R>>(v));
  else
    return static_cast<R>(v);
}

// list: the registers; a register may be larger than the memory's type
template <class T, class R>
Flow load(Warp& w, const Inst& i, Mask lanes) {
  const auto& op = *static_cast<const MemoryOperand*>(i.extra);
  uint64_t address[kLanes];
  std::byte* host[kLanes];
  op.addresses(w, address);
  access(w, i, lanes, op.space, Use::read, op.order, address, op.bytes, host);
  // every element is read before any register is written: a destination may be the address
  alignas(64) R value[8][kLanes];
  for (int l = 0; l < kLanes; ++l)
    for (int k = 0; k < i.list_size; ++k) {
      T t;
      std::memcpy(&t, host[l] + k * sizeof(T), sizeof(T));
      value[k][l] = widen<T, R>(t);
    }
  for (int k = 0; k < i.list_size; ++k)
    if (i.list[k] != kNoPlace) put(w.at<R>(i.list[k]), value[k], lanes);
  if (op.order != Order::weak) order_after(w, lanes, host, op.order);
  return Flow::next;
}

template <class T, class R>
Flow store(Warp& w, const Inst& i, Mask lanes) {
  const auto& op = *static_cast<const MemoryOperand*>(i.extra);
  uint64_t address[kLanes];
  std::byte* host[kLanes];
  op.addresses(w, address);
  if (op.order == Order::weak && i.list_size * sizeof(T) <= 16) {  // what two lanes store to one place may be equal
    alignas(64) std::byte value[kLanes][16] = {};
    for (int k = 0; k < i.list_size; ++k)
      for (int l = 0; l < kLanes; ++l) std::memcpy(value[l] + k * sizeof(T), &w.at<R>(i.list[k])[l], sizeof(T));
    access_values(w, i, lanes, op.space, address, op.bytes, host, value);
    for (Mask m = lanes; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      std::memcpy(host[l], value[l], i.list_size * sizeof(T));
    }
    return Flow::next;
  }
  access(w, i, lanes, op.space, Use::write, op.order, address, op.bytes, host);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    for (int k = 0; k < i.list_size; ++k) std::memcpy(host[l] + k * sizeof(T), &w.at<R>(i.list[k])[l], sizeof(T));
  }
  return Flow::next;
}

struct Form {
  int size;  // of the type in memory
  bool is_signed;
  int reg;
  Exec load, store;
};
const Form kForms[] = {
    {1, false, 2, load<uint8_t, uint16_t>, store<uint8_t, uint16_t>},
    {1, false, 4, load<uint8_t, uint32_t>, store<uint8_t, uint32_t>},
    {1, false, 8, load<uint8_t, uint64_t>, store<uint8_t, uint64_t>},
    {1, true, 2, load<int8_t, uint16_t>, store<uint8_t, uint16_t>},
    {1, true, 4, load<int8_t, uint32_t>, store<uint8_t, uint32_t>},
    {1, true, 8, load<int8_t, uint64_t>, store<uint8_t, uint64_t>},
    {2, false, 2, load<uint16_t, uint16_t>, store<uint16_t, uint16_t>},
    {2, false, 4, load<uint16_t, uint32_t>, store<uint16_t, uint32_t>},
    {2, false, 8, load<uint16_t, uint64_t>, store<uint16_t, uint64_t>},
    {2, true, 2, load<uint16_t, uint16_t>, store<uint16_t, uint16_t>},
    {2, true, 4, load<int16_t, uint32_t>, store<uint16_t, uint32_t>},
    {2, true, 8, load<int16_t, uint64_t>, store<uint16_t, uint64_t>},
    {4, false, 4, load<uint32_t, uint32_t>, store<uint32_t, uint32_t>},
    {4, false, 8, load<uint32_t, uint64_t>, store<uint32_t, uint64_t>},
    {4, true, 4, load<uint32_t, uint32_t>, store<uint32_t, uint32_t>},
    {4, true, 8, load<int32_t, uint64_t>, store<uint32_t, uint64_t>},
    {8, false, 8, load<uint64_t, uint64_t>, store<uint64_t, uint64_t>},
    {8, true, 8, load<uint64_t, uint64_t>, store<uint64_t, uint64_t>},
    {16, false, 16, load<Quad, Quad>, store<Quad, Quad>},
};

Class class_of(Space s, bool write) {
  switch (s) {
    case Space::shared:
      return write ? Class::store_shared : Class::load_shared;
    case Space::local:
      return write ? Class::store_local : Class::load_local;
    case Space::param:
      return write ? Class::store_local : Class::load_param;
    case Space::constant:
      return Class::load_const;
    default:
      return write ? Class::store_global : Class::load_global;
  }
}

void decode_access(Decoder& d, Inst& i, bool write) {
  using Kind = ptx::Operand::Kind;
  const auto& args = d.s.args;
  if (args.size() < 2 || args.size() > 3) d.unknown("operands");
  Mods mods(d);
  MemoryOperand op = memory_operand(d, mods, args[write ? 0 : 1], write ? Use::write : Use::read);
  if (mods.take("L2::cache_hint") != (args.size() == 3)) d.unknown("a cache policy goes with .L2::cache_hint");
  const int count = mods.take("v2") ? 2 : mods.take("v4") ? 4 : mods.take("v8") ? 8 : 1;
  const std::string_view type = mods.type();
  mods.done();
  const ptx::Operand& data = args[write ? 1 : 0];
  const int size = ptx::type_bytes(type);
  if (size <= 0) d.unknown("type");
  std::vector<const ptx::Operand*> items;
  if (data.kind == Kind::vector)
    for (const auto& o : data.items) items.push_back(&o);
  else
    items.push_back(&data);
  if (static_cast<int>(items.size()) != count) d.unknown("a vector of " + std::to_string(count) + " is needed");
  op.bytes = size * count;
  if (op.bytes > 32) d.unknown("at most 32 bytes a lane");
  int reg = 0;  // all elements' registers have one size
  std::vector<Place> places;
  for (const auto* o : items) {
    int bytes = std::max(size, 2);
    Place p = kNoPlace;
    if (write) {
      p = d.any_src(*o, &bytes);
    } else if (o->kind != Kind::sink) {
      bytes = std::max(d.reg_bytes(*o), 2);
      p = d.dst(*o);
    } else {
      bytes = 0;
    }
    if (bytes && reg && bytes != reg) d.unknown("registers of different sizes");
    if (bytes) reg = bytes;
    places.push_back(p);
  }
  if (!reg) reg = std::max(size, 2);
  const bool is_signed = type[0] == 's';
  for (const Form& f : kForms)
    if (f.size == size && f.is_signed == is_signed && f.reg == reg) i.exec = write ? f.store : f.load;
  if (!i.exec) d.unknown("a register of " + std::to_string(reg) + " bytes for ." + std::string(type));
  i.list = d.list(places);
  i.list_size = static_cast<uint16_t>(places.size());
  i.cls = class_of(op.space, write);
  i.extra = d.keep(op);
}

void decode_ld(Decoder& d, Inst& i) { decode_access(d, i, false); }
void decode_st(Decoder& d, Inst& i) {
  if (!decode_store_async(d, i)) decode_access(d, i, true);
}

// cvta: only shared addresses differ from generic ones. imm[0] is added.
template <class T>
Flow shift(Warp& w, const Inst& i, Mask lanes) {
  alignas(64) T out[kLanes];
  const T* in = w.at<T>(i.slot[1]);
  for (int l = 0; l < kLanes; ++l) out[l] = in[l] + static_cast<T>(i.imm[0]);
  put(w.at<T>(i.slot[0]), out, lanes);
  return Flow::next;
}

int take_space(Mods& mods) {
  return mods.pick(
      {"global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry", "param::func"});
}
Space space_of(int picked) {
  constexpr Space kOf[] = {Space::global,   Space::shared, Space::shared, Space::shared, Space::local,
                           Space::constant, Space::param,  Space::param,  Space::param};
  return picked < 0 ? Space::generic : kOf[picked];
}

void decode_cvta(Decoder& d, Inst& i) {
  if (d.s.args.size() != 2) d.unknown("operands");
  Mods mods(d);
  const bool to = mods.take("to");
  const int space = take_space(mods);
  if (space < 0) d.unknown("a state space is needed");
  if (!mods.take("u64")) d.unknown("addresses are of 64 bits");
  mods.done();
  i.cls = Class::integer;
  i.exec = shift<uint64_t>;
  i.imm[0] = space_of(space) != Space::shared ? 0 : to ? -kSharedWindow : kSharedWindow;
  i.slot[0] = d.dst(d.s.args[0], 8);
  i.slot[1] = d.src(d.s.args[1], 8);
  if (d.s.args[1].kind == ptx::Operand::Kind::name && d.s.args[1].offset) d.unknown();
}

// isspacep: imm[0] the space, imm[1] whether only the own CTA's shared memory counts
Flow is_space(Warp& w, const Inst& i, Mask lanes) {
  const uint64_t* a = w.at<uint64_t>(i.slot[1]);
  const Space space = static_cast<Space>(i.imm[0]);
  const auto& params = w.cta->cluster->grid->params;
  const uint64_t base = reinterpret_cast<uint64_t>(params.data());
  Mask out = 0;
  for (int l = 0; l < kLanes; ++l) {
    const bool local = a[l] >= kLocalWindow, shared = !local && a[l] >= kSharedWindow;
    const uint64_t rank = shared ? (a[l] - kSharedWindow) >> 24 : 0;
    const bool param = a[l] - base < params.size();
    bool is = false;
    if (space == Space::local)
      is = local;
    else if (space == Space::shared)
      is = shared && (!i.imm[1] || rank == 0 || rank == w.cta->rank + 1);
    else if (space == Space::param)
      is = param;
    else if (!local && !shared && !param) {
      const Allocation* found = space == Space::constant ? find_allocation(a[l]) : nullptr;
      is = space == Space::constant ? found && !found->writable : true;
    }
    out |= Mask{is} << l;
  }
  put(w.predicate(i.slot[0]), out, lanes);
  return Flow::next;
}

void decode_isspacep(Decoder& d, Inst& i) {
  if (d.s.args.size() != 2) d.unknown("operands");
  Mods mods(d);
  const bool own = mods.take("shared::cta") || mods.take("shared");
  const int space = own ? 1 : take_space(mods);
  if (space < 0) d.unknown("a state space is needed");
  mods.done();
  i.cls = Class::predicate;
  i.exec = is_space;
  i.imm[0] = static_cast<uint64_t>(space_of(space));
  i.imm[1] = own;
  i.slot[0] = d.dst(d.s.args[0]);
  i.slot[1] = d.src(d.s.args[1], 8);
}

Flow nothing(Warp&, const Inst&, Mask) { return Flow::next; }

// A hint about caches: its operands are looked at, its address is not (a prefetch may lie anywhere).
void decode_hint(Decoder& d, Inst& i) {
  if (d.s.args.empty()) d.unknown("operands");
  d.address(d.s.args[0]);
  i.exec = nothing;
}

Flow fence(Warp& w, const Inst&, Mask lanes) {
  fence_memory(w, lanes);
  return Flow::next;
}

void decode_membar(Decoder& d, Inst& i) {
  Mods mods(d);
  i.cls = Class::fence;
  i.exec = fence;
  if (mods.pick({"cta", "gl", "sys", "cluster", "gpu"}) < 0) d.unknown("a scope is needed");
  mods.done();
}

void decode_fence(Decoder& d, Inst& i) {
  if (decode_fence_async(d, i)) return;
  Mods mods(d);
  i.cls = Class::fence;
  i.exec = fence;
  mods.pick({"sc", "acq_rel", "acquire", "release"});
  mods.pick({"sync_restrict::shared::cluster", "sync_restrict::shared::cta"});
  if (mods.pick({"cta", "cluster", "gpu", "sys"}) < 0) d.unknown("a scope is needed");
  mods.done();
}

}  // namespace

MemoryOperand memory_operand(Decoder& d, Mods& mods, const ptx::Operand& address, Use use) {
  if (address.kind != ptx::Operand::Kind::address) d.unknown("an address is needed");
  MemoryOperand op;
  const int order = mods.pick({"weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "mmio"});
  constexpr Order kOf[] = {Order::weak,    Order::relaxed, Order::acquire, Order::release,
                           Order::acq_rel, Order::relaxed, Order::relaxed};
  if (order >= 0)
    op.order = kOf[order];
  else if (use == Use::atomic)
    op.order = Order::relaxed;
  if (order == 6) mods.take("relaxed");
  if ((use == Use::read && (op.order == Order::release || op.order == Order::acq_rel)) ||
      (use == Use::write && (op.order == Order::acquire || op.order == Order::acq_rel)))
    d.unknown("memory order");
  const int scope = mods.pick({"cta", "cluster", "gpu", "sys"});
  if (use != Use::atomic && (scope >= 0) != (order > 0 && order != 5)) d.unknown("scope");
  op.space = space_of(take_space(mods));
  mods.take("nc");
  mods.pick({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
  mods.pick({"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"});
  mods.pick({"L2::evict_normal", "L2::evict_first", "L2::evict_last"});
  mods.pick({"L2::64B", "L2::128B", "L2::256B"});
  op.place = d.address(address);
  op.wide = d.address_bytes(address) == 8;
  op.offset = address.offset;
  return op;
}

const Family kMemory[] = {
    {"ld", decode_ld},
    {"ldu", decode_ld},
    {"st", decode_st},
    {"atom", decode_atom},
    {"red", decode_red},
    {"cvta", decode_cvta},
    {"isspacep", decode_isspacep},
    {"prefetch", decode_hint},
    {"prefetchu", decode_hint},
    {"membar", decode_membar},
    {"fence", decode_fence},
    {nullptr, nullptr},
};

}  // namespace emu
