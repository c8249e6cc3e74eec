#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "machine.h"
#include "memory.h"

// What memory.cpp, access.cpp, allocations.cpp and strict.cpp share.
namespace emu {

[[noreturn]] void fault(const Warp&, const Inst&, int lane, const std::string& why);  // async.cpp

struct Page;

/// A range of global, constant or parameter memory that device code may touch.
struct Allocation {
  uint64_t base = 0, size = 0;
  bool writable = true;
  std::string what;
  void* owned = nullptr;  // device_malloc: what the host's allocator returned
  mutable std::atomic<bool> has_pages{false};
  mutable std::unique_ptr<std::atomic<Page*>[]> pages;  // shadow, by address / kPageBytes; made when first touched
  ~Allocation();
  bool holds(uint64_t address, uint64_t bytes) const { return address - base <= size - bytes && bytes <= size; }
};
/// The allocation that holds the address, or null. A thread remembers the last few, so that the usual case costs a few
/// ns.
const Allocation* find_allocation(uint64_t address);
/// ", 16 bytes behind the allocation of 4096 bytes at 0x… (cudaMalloc)": where an address lies, for messages.
std::string nearby(uint64_t address);
std::string hex(uint64_t);

/// The memory operand of an instruction, decoded.
struct MemoryOperand {
  Place place = kNoPlace;
  bool wide = true;
  int64_t offset = 0;
  Space space = Space::generic;
  Order order = Order::weak;
  int bytes = 0;  // of one lane's access
  void addresses(Warp& w, uint64_t* address) const {
    if (wide) {
      const uint64_t* base = w.at<uint64_t>(place);
      for (int l = 0; l < kLanes; ++l) address[l] = base[l] + static_cast<uint64_t>(offset);
    } else {
      const uint32_t* base = w.at<uint32_t>(place);
      for (int l = 0; l < kLanes; ++l) address[l] = base[l] + static_cast<uint32_t>(offset);
    }
  }
};
/// access() of a weak store: two lanes may store equal values to one place.
void access_values(Warp&, const Inst&, Mask, Space, const uint64_t* address, int bytes, std::byte** host,
                   const std::byte (*value)[16]);
/// Memory order and what fences make of relaxed operations: before a value is written (access() calls it), after it was
/// read (the instruction does, so that what it read was released before).
void order_before(Warp&, Mask, std::byte* const* host, Order);
void order_after(Warp&, Mask, std::byte* const* host, Order);

// ---- who did what: clocks ----

/// An access: bits 0-19 the clock of the warp (or the number of the transfer), 20-39 the warp (the CTA), 40-45 the lane
/// (kSeveral: more than one), 46-49 which bytes of the cell, 50 transfer, 51 strong (atomic, volatile, relaxed …),
/// 52-63 the line of the PTX text, its lower bits. 0: none.
using Stamp = uint64_t;
constexpr uint32_t kClockMask = 0xF'FFFF, kIdMask = 0xF'FFFF, kSeveral = 32;
constexpr Stamp kTransfer = Stamp{1} << 50, kStrong = Stamp{1} << 51, kLaneField = Stamp{63} << 40,
                kCoverField = Stamp{15} << 46, kWhoField = 0xFF'FFFF'FFFF | kTransfer;
inline uint32_t clock_of(Stamp s) { return s & kClockMask; }
inline uint32_t id_of(Stamp s) { return s >> 20 & kIdMask; }
inline uint32_t lane_of(Stamp s) { return s >> 40 & 63; }
inline uint32_t cover_of(Stamp s) { return s >> 46 & 15; }

/// What has been seen of a warp: every lane's accesses up to `all`, those of `lanes` up to `high`.
struct Seen {
  uint32_t warp = 0, all = 0, high = 0;
  Mask lanes = 0;
  bool has(uint32_t clock, uint32_t lane) const {
    return clock <= all || (clock <= high && (lane == kSeveral ? (lanes & (lanes - 1)) != 0 : lanes >> lane & 1));
  }
  void join(const Seen& o) {
    all = std::max(all, o.all);
    if (o.high > high) high = o.high;
    lanes |= o.lanes;  // of two groups of lanes with different clocks the union: rather a race unseen than a false one
    if (high <= all) lanes = 0, high = 0;
  }
};
struct VectorClock {
  std::vector<Seen> of;  // sorted by warp
  const Seen* find(uint32_t warp) const;
  Seen& at(uint32_t warp);
  void join(const VectorClock&);
};
/// Transfers [low, high) of a CTA, sorted.
struct Span {
  uint32_t cta, low, high;
  bool operator==(const Span&) const = default;
};
struct TransferSet {
  std::vector<Span> spans;
  bool has(uint32_t cta, uint32_t id) const;
  void add(uint32_t cta, uint32_t id) { join({{{cta, id, id + 1}}}); }
  void join(const TransferSet&);
};
struct View {
  VectorClock seen, proxied;  // proxied: what the async proxy sees, too
  VectorClock published;      // by fences: what a relaxed write hands on. Cumulative over barriers, as hardware is
  TransferSet transfers;
  void join(const View&);
};
struct Clock::State {
  View view;
};

/// A warp's clocks. Lanes whose views differ from `base` have their own.
struct WarpClock {
  uint32_t id = 0, now = 1;
  View base;
  Mask split = 0;
  uint32_t split_at = 0;
  std::shared_ptr<View> lane[kLanes];
  Mask pending = 0;  // lanes that read relaxed what was released: a fence makes that an acquire
  Clock read[kLanes];
  uint64_t version = 0;  // of the views
  Clock publication;     // what a relaxed write hands on, as of `published_at`
  uint64_t published_at = ~uint64_t{0};
  Mask publishers = 0;
  const View& view(int l) const { return split >> l & 1 ? *lane[l] : base; }
  void tick() { now += now < kClockMask; }
};

// ---- what was done where: shadow memory (races.cpp) ----

constexpr int kPageBytes = 4096, kCells = kPageBytes / 4;  // a cell is 4 bytes
struct Page;
struct PageDelete {
  void operator()(Page*) const;
};
using Locations = std::unordered_map<const std::byte*, Clock>;

struct Cta::Strict {
  uint32_t number = 0;  // in the grid
  uint32_t first = 0;   // its first warp's id
  std::vector<WarpClock> warps;
  uint32_t transfers = 0;  // issued so far
  std::vector<std::unique_ptr<Page, PageDelete>> pages;
  std::vector<uint32_t> initialised;  // of shared memory: a bit a byte
  Locations locations;
};
Cta::Strict& strict_of(Cta&);
inline WarpClock& clock_of(Warp& w) { return strict_of(*w.cta).warps[w.index]; }

/// Checks and records accesses of the lanes to shared memory of `owner`, or global memory of an allocation.
void touch_shared(Warp&, const Inst&, Mask, Use, Order, Cta& owner, const uint64_t* offset, int bytes,
                  const std::byte (*value)[16]);
void touch_global(Warp&, const Inst&, Mask, Use, Order, const Allocation* common, const uint64_t* address, int bytes,
                  const std::byte (*value)[16]);
void touch_transfer(Transfer&, Use, Cta* owner, uint64_t offset, const Allocation*, int bytes);

class Mods;
/// State space, scope, memory order and cache hints, taken from the modifiers; `address` is the operand […].
MemoryOperand memory_operand(Decoder&, Mods&, const ptx::Operand& address, Use);
void decode_atom(Decoder&, Inst&);  // atomics.cpp
void decode_red(Decoder&, Inst&);

}  // namespace emu
