#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "lanes.h"
#include "machine.h"
#include "memory.h"

// Instructions by which the lanes of a warp exchange values, and those that move 8x8 matrices of halfwords between
// shared memory and the warp's registers.
namespace emu {
namespace {

/// What a lane reads that the ISA leaves undefined: conspicuous, and a NaN as f16, bf16 and f32.
constexpr uint32_t kUndefined = kPoison * 0x10001u;

void member(Decoder& d, Inst& inst, const ptx::Operand& mask) {
  inst.mask_slot = source<uint32_t>(d, mask);
  inst.converge = Converge::member;
  inst.cls = Class::shuffle;
}

/// f(group) for each set of lanes that gave the same membermask.
template <class F>
void each_group(Warp& w, const Inst& inst, Mask lanes, F f) {
  const uint32_t* members = w.at<uint32_t>(inst.mask_slot);
  for (Mask left = lanes; left != 0;) {
    const int lane = std::countr_zero(left);
    const Mask group = (members[lane] & lanes) | Mask{1} << lane;
    f(group);
    left &= ~group;
  }
}

/// Destination and predicate of `d`, `p` or `d|p`, either may be `_`.
void destinations(Decoder& d, Inst& inst) {
  const ptx::Operand& o = d.s.args[0];
  const bool pair = o.kind == ptx::Operand::Kind::pair;
  const ptx::Operand& value = pair ? o.items[0] : o;
  if (value.kind != ptx::Operand::Kind::sink) inst.slot[0] = destination<uint32_t>(d, value);
  if (pair && o.items[1].kind != ptx::Operand::Kind::sink) inst.slot[1] = destination<Bit>(d, o.items[1]);
}

enum class Shuffle { up, down, bfly, idx };

template <Shuffle mode>
Flow shfl(Warp& w, const Inst& inst, Mask lanes) {
  const uint32_t *a = w.at<uint32_t>(inst.slot[2]), *b = w.at<uint32_t>(inst.slot[3]);
  const uint32_t *c = w.at<uint32_t>(inst.slot[4]), *members = w.at<uint32_t>(inst.mask_slot);
  uint32_t out[kLanes];
  int32_t from[kLanes], in_range[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const int offset = b[l] & 31, clamp = c[l] & 31, segment = c[l] >> 8 & 31;
    const int first = l & segment, bound = first | (clamp & ~segment);
    int j = 0;
    if constexpr (mode == Shuffle::up) j = l - offset;
    if constexpr (mode == Shuffle::down) j = l + offset;
    if constexpr (mode == Shuffle::bfly) j = l ^ offset;
    if constexpr (mode == Shuffle::idx) j = first | (offset & ~segment);
    in_range[l] = mode == Shuffle::up ? j >= bound : j <= bound;
    from[l] = in_range[l] ? j : l;
  }
  Mask inside = 0;
  for (int l = 0; l < kLanes; ++l) {
    out[l] = (lanes & members[l]) >> from[l] & 1 ? a[from[l]] : kUndefined;
    inside |= static_cast<Mask>(in_range[l]) << l;
  }
  if (inst.slot[0] != kNoPlace) put(w.at<uint32_t>(inst.slot[0]), out, lanes);
  if (inst.slot[1] != kNoPlace) put(w.predicate(inst.slot[1]), inside, lanes);
  return Flow::next;
}

void decode_shfl(Decoder& d, Inst& inst) {
  Mods mods(d);
  if (!mods.take("sync")) d.unknown("shfl without .sync");
  const int mode = mods.pick({"up", "down", "bfly", "idx"});
  constexpr Exec kModes[] = {shfl<Shuffle::up>, shfl<Shuffle::down>, shfl<Shuffle::bfly>, shfl<Shuffle::idx>};
  if (mode < 0 || !mods.take("b32") || d.s.args.size() != 5) d.unknown("not a form of shfl.sync");
  mods.done();
  inst.exec = kModes[mode];
  destinations(d, inst);
  for (int k = 1; k <= 3; ++k) inst.slot[k + 1] = source<uint32_t>(d, d.s.args[k]);
  member(d, inst, d.s.args[4]);
}

enum class Vote { all, any, uni, ballot };

template <Vote mode>
Flow vote(Warp& w, const Inst& inst, Mask lanes) {
  const Mask set = w.predicate(inst.slot[2]) ^ static_cast<Mask>(inst.imm[0]);
  Mask result = 0;
  each_group(w, inst, lanes, [&](Mask group) {
    const Mask yes = set & group;
    if constexpr (mode == Vote::ballot) {
      uint32_t* out = w.at<uint32_t>(inst.slot[0]);
      for (int l = 0; l < kLanes; ++l) out[l] = group >> l & 1 ? yes : out[l];
    } else {
      const bool all = yes == group, any = yes != 0;
      if (mode == Vote::all ? all : mode == Vote::any ? any : all || !any) result |= group;
    }
  });
  if constexpr (mode != Vote::ballot) put(w.predicate(inst.slot[0]), result, lanes);
  return Flow::next;
}

void decode_vote(Decoder& d, Inst& inst) {
  Mods mods(d);
  if (!mods.take("sync")) d.unknown("vote without .sync");
  const int mode = mods.pick({"all", "any", "uni", "ballot"});
  constexpr Exec kModes[] = {vote<Vote::all>, vote<Vote::any>, vote<Vote::uni>, vote<Vote::ballot>};
  if (mode < 0 || !mods.take(mode == 3 ? "b32" : "pred") || d.s.args.size() != 3) d.unknown("not a form of vote.sync");
  mods.done();
  inst.exec = kModes[mode];
  inst.slot[0] = mode == 3 ? destination<uint32_t>(d, d.s.args[0]) : destination<Bit>(d, d.s.args[0]);
  inst.slot[2] = source<Bit>(d, d.s.args[1]);
  inst.imm[0] = d.s.args[1].negated ? kAllLanes : 0;
  member(d, inst, d.s.args[2]);
}

template <class T, bool kAll>
Flow match(Warp& w, const Inst& inst, Mask lanes) {
  const T* a = w.at<T>(inst.slot[2]);
  uint32_t out[kLanes] = {};
  Mask same = 0;
  each_group(w, inst, lanes, [&](Mask group) {
    for (Mask left = group; left != 0;) {
      const T value = a[std::countr_zero(left)];
      Mask equal = 0;
      for (int l = 0; l < kLanes; ++l) equal |= static_cast<Mask>(a[l] == value) << l;
      equal &= group;
      if (kAll && equal != group) return;
      for (int l = 0; l < kLanes; ++l) out[l] = equal >> l & 1 ? equal : out[l];
      same |= equal;
      left &= ~equal;
    }
  });
  if (inst.slot[0] != kNoPlace) put(w.at<uint32_t>(inst.slot[0]), out, lanes);
  if (inst.slot[1] != kNoPlace) put(w.predicate(inst.slot[1]), same, lanes);
  return Flow::next;
}

void decode_match(Decoder& d, Inst& inst) {
  Mods mods(d);
  const int mode = mods.pick({"any", "all"}), type = mods.pick({"b32", "b64"});
  if (!mods.take("sync") || mode < 0 || type < 0 || d.s.args.size() != 3) d.unknown("not a form of match.sync");
  mods.done();
  if (mode == 0 && d.s.args[0].kind == ptx::Operand::Kind::pair) d.unknown("match.any has no predicate");
  constexpr Exec kExec[2][2] = {{match<uint32_t, false>, match<uint64_t, false>},
                                {match<uint32_t, true>, match<uint64_t, true>}};
  inst.exec = kExec[mode][type];
  destinations(d, inst);
  inst.slot[2] = type ? source<uint64_t>(d, d.s.args[1]) : source<uint32_t>(d, d.s.args[1]);
  member(d, inst, d.s.args[2]);
}

template <class T, auto f>
Flow redux(Warp& w, const Inst& inst, Mask lanes) {
  const T* a = w.at<T>(inst.slot[1]);
  T out[kLanes] = {};
  each_group(w, inst, lanes, [&](Mask group) {
    T sum = a[std::countr_zero(group)];
    for (Mask left = group & (group - 1); left != 0; left &= left - 1) sum = f(sum, a[std::countr_zero(left)]);
    for (int l = 0; l < kLanes; ++l) out[l] = group >> l & 1 ? sum : out[l];
  });
  put(w.at<T>(inst.slot[0]), out, lanes);
  return Flow::next;
}

void decode_redux(Decoder& d, Inst& inst) {
  using U = uint32_t;
  using S = int32_t;
  Mods mods(d);
  const int op = mods.pick({"add", "min", "max", "and", "or", "xor"}), type = mods.pick({"u32", "s32", "b32"});
  constexpr auto kAdd = [](U a, U b) { return a + b; };
  constexpr Exec kExec[3][6] = {{redux<U, kAdd>, redux<U, [](U a, U b) { return std::min(a, b); }>,
                                 redux<U, [](U a, U b) { return std::max(a, b); }>},
                                {redux<U, kAdd>, redux<S, [](S a, S b) { return std::min(a, b); }>,
                                 redux<S, [](S a, S b) { return std::max(a, b); }>},
                                {nullptr, nullptr, nullptr, redux<U, [](U a, U b) { return a & b; }>,
                                 redux<U, [](U a, U b) { return a | b; }>, redux<U, [](U a, U b) { return a ^ b; }>}};
  if (!mods.take("sync") || op < 0 || type < 0 || !kExec[type][op] || d.s.args.size() != 3)
    d.unknown("not a form of redux.sync before sm_100");
  mods.done();
  inst.exec = kExec[type][op];
  inst.slot[0] = destination<uint32_t>(d, d.s.args[0]);
  inst.slot[1] = source<uint32_t>(d, d.s.args[1]);
  member(d, inst, d.s.args[2]);
}

Flow elect(Warp& w, const Inst& inst, Mask lanes) {  // the lowest lane of the mask, as hardware does
  uint32_t out[kLanes] = {};
  Mask leaders = 0;
  each_group(w, inst, lanes, [&](Mask group) {
    const int leader = std::countr_zero(group);
    leaders |= Mask{1} << leader;
    for (int l = 0; l < kLanes; ++l) out[l] = group >> l & 1 ? leader : out[l];
  });
  if (inst.slot[0] != kNoPlace) put(w.at<uint32_t>(inst.slot[0]), out, lanes);
  if (inst.slot[1] != kNoPlace) put(w.predicate(inst.slot[1]), leaders, lanes);
  return Flow::next;
}

void decode_elect(Decoder& d, Inst& inst) {
  if (d.s.mods.size() != 1 || !d.has("sync") || d.s.args.size() != 2) d.unknown("not a form of elect.sync");
  inst.exec = elect;
  destinations(d, inst);
  member(d, inst, d.s.args[1]);
}

Flow activemask(Warp& w, const Inst& inst, Mask lanes) {
  uint32_t* out = w.at<uint32_t>(inst.slot[0]);
  for (int l = 0; l < kLanes; ++l) out[l] = lanes >> l & 1 ? lanes : out[l];
  return Flow::next;
}

void decode_activemask(Decoder& d, Inst& inst) {
  if (d.s.mods.size() != 1 || !d.has("b32") || d.s.args.size() != 1) d.unknown("not a form of activemask");
  inst.exec = activemask;
  inst.slot[0] = destination<uint32_t>(d, d.s.args[0]);
  inst.cls = Class::other;
}

Flow bar_warp(Warp& w, const Inst& inst, Mask lanes) {
  each_group(w, inst, lanes, [&](Mask group) { sync_warp(w, group); });
  return Flow::next;
}

void need_all_lanes(const Warp& w, const Inst& inst, Mask lanes) {
  if (lanes != kAllLanes) [[unlikely]]
    throw Fault(where(w, inst, std::countr_one(lanes)) + ": needs all 32 lanes of the warp");
}

// Lane 4 g + t holds columns 2 t and 2 t + 1 of row g: a register array is the matrix, rows of 16 bytes.
constexpr int kRowBytes = 16, kMatrixBytes = 8 * kRowBytes;
using Halves [[gnu::vector_size(kRowBytes)]] = uint16_t;

void transpose(const void* from, void* to) {
  Halves a[8], b[8];
  std::memcpy(a, from, sizeof a);
  // Three times rows i and i + 4 are interleaved to rows 2 i and 2 i + 1: each turns the 6-bit index of an element left
  // by 1.
  for (int turn = 0; turn < 3; ++turn) {
    for (int i = 0; i < 4; ++i) {
      b[2 * i] = __builtin_shuffle(a[i], a[i + 4], Halves{0, 8, 1, 9, 2, 10, 3, 11});
      b[2 * i + 1] = __builtin_shuffle(a[i], a[i + 4], Halves{4, 12, 5, 13, 6, 14, 7, 15});
    }
    std::memcpy(a, b, sizeof a);
  }
  std::memcpy(to, a, sizeof a);
}

/// Host addresses of the rows, from the first 8 lanes a matrix.
template <class Address>
void rows(Warp& w, const Inst& inst, Mask lanes, int matrices, Use use, std::byte** host) {
  need_all_lanes(w, inst, lanes);
  const Address* base = w.at<Address>(inst.slot[0]);
  const bool generic = inst.imm[1] != 0;
  uint64_t address[kLanes];
  for (int l = 0; l < 8 * matrices; ++l) {
    address[l] = static_cast<Address>(base[l] + inst.imm[0]);
    if (!generic) continue;
    address[l] -= kSharedWindow;
    if (address[l] >= kLocalWindow - kSharedWindow)
      throw Fault(where(w, inst, l) + ": the row's generic address is not of shared memory");
  }
  const Mask givers = kAllLanes >> (kLanes - 8 * matrices);
  access(w, inst, givers, Space::shared, use, Order::weak, address, kRowBytes, host);
}

template <int kMatrices, bool kTranspose, class Address>
Flow ldmatrix(Warp& w, const Inst& inst, Mask lanes) {
  std::byte* host[kLanes];
  rows<Address>(w, inst, lanes, kMatrices, Use::read, host);
  for (int i = 0; i < kMatrices; ++i) {
    alignas(kRowBytes) std::byte matrix[kMatrixBytes];
    for (int r = 0; r < 8; ++r) std::memcpy(matrix + r * kRowBytes, host[i * 8 + r], kRowBytes);
    if constexpr (kTranspose)
      transpose(matrix, w.at<std::byte>(inst.list[i]));
    else
      std::memcpy(w.at<std::byte>(inst.list[i]), matrix, kMatrixBytes);
  }
  return Flow::next;
}

template <int kMatrices, bool kTranspose, class Address>
Flow stmatrix(Warp& w, const Inst& inst, Mask lanes) {
  std::byte* host[kLanes];
  rows<Address>(w, inst, lanes, kMatrices, Use::write, host);
  for (int i = 0; i < kMatrices; ++i) {
    alignas(kRowBytes) std::byte turned[kMatrixBytes];
    const std::byte* matrix = w.at<std::byte>(inst.list[i]);
    if constexpr (kTranspose) transpose(matrix, turned), matrix = turned;
    for (int r = 0; r < 8; ++r) std::memcpy(host[i * 8 + r], matrix + r * kRowBytes, kRowBytes);
  }
  return Flow::next;
}

#define FORMS(f)                                                                                      \
  {                                                                                                   \
      {{f<1, false, uint32_t>, f<1, false, uint64_t>}, {f<1, true, uint32_t>, f<1, true, uint64_t>}}, \
      {{f<2, false, uint32_t>, f<2, false, uint64_t>}, {f<2, true, uint32_t>, f<2, true, uint64_t>}}, \
      {{f<4, false, uint32_t>, f<4, false, uint64_t>}, {f<4, true, uint32_t>, f<4, true, uint64_t>}}, \
  }

template <bool kLoad>
void decode_matrix(Decoder& d, Inst& inst) {
  constexpr Exec kLoads[3][2][2] = FORMS(ldmatrix), kStores[3][2][2] = FORMS(stmatrix);
  Mods mods(d);
  if (!mods.take("sync") || !mods.take("aligned") || !mods.take("m8n8") || !mods.take("b16") || d.s.args.size() != 2)
    d.unknown("only the m8n8 forms of b16 exist before sm_100");
  const int number = mods.pick({"x1", "x2", "x4"});
  const bool trans = mods.take("trans");
  const bool generic = mods.pick({"shared", "shared::cta"}) < 0;
  mods.done();
  const ptx::Operand &registers = d.s.args[kLoad ? 0 : 1], &address = d.s.args[kLoad ? 1 : 0];
  if (number < 0 || registers.kind != ptx::Operand::Kind::vector || registers.items.size() != size_t{1} << number)
    d.unknown("wrong number of registers");
  std::vector<Place> places;
  for (const ptx::Operand& r : registers.items)
    places.push_back(kLoad ? destination<uint32_t>(d, r) : source<uint32_t>(d, r));
  inst.list = d.list(places);
  inst.list_size = static_cast<uint16_t>(places.size());
  inst.slot[0] = d.address(address);
  inst.imm[0] = static_cast<uint64_t>(address.offset);
  inst.imm[1] = generic;
  inst.exec = (kLoad ? kLoads : kStores)[number][trans][d.address_bytes(address) == 8];
  inst.converge = Converge::all;
  inst.cls = kLoad ? Class::ldmatrix : Class::stmatrix;
}
#undef FORMS

Flow movmatrix(Warp& w, const Inst& inst, Mask lanes) {
  need_all_lanes(w, inst, lanes);
  transpose(w.at<std::byte>(inst.slot[1]), w.at<std::byte>(inst.slot[0]));
  return Flow::next;
}

void decode_movmatrix(Decoder& d, Inst& inst) {
  Mods mods(d);
  if (!mods.take("sync") || !mods.take("aligned") || !mods.take("m8n8") || !mods.take("trans") || !mods.take("b16") ||
      d.s.args.size() != 2)
    d.unknown("not a form of movmatrix");
  mods.done();
  inst.exec = movmatrix;
  inst.slot[0] = destination<uint32_t>(d, d.s.args[0]);
  inst.slot[1] = source<uint32_t>(d, d.s.args[1]);
  inst.converge = Converge::all;
  inst.cls = Class::shuffle;
}

void decode_bar_warp(Decoder& d, Inst& inst) {  // control.cpp has the other forms of bar
  if (d.s.mods.size() != 2 || d.s.mods[0] != "warp" || d.s.mods[1] != "sync" || d.s.args.size() != 1)
    d.unknown("not a form of bar.warp.sync");
  inst.exec = bar_warp;
  member(d, inst, d.s.args[0]);
  inst.cls = Class::barrier;
}

}  // namespace

const Family kWarp[] = {{"shfl", decode_shfl},
                        {"vote", decode_vote},
                        {"match", decode_match},
                        {"redux", decode_redux},
                        {"elect", decode_elect},
                        {"activemask", decode_activemask},
                        {"bar", decode_bar_warp},
                        {"ldmatrix", decode_matrix<true>},
                        {"stmatrix", decode_matrix<false>},
                        {"movmatrix", decode_movmatrix},
                        {nullptr, nullptr}};

}  // namespace emu
