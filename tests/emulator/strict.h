#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "machine.h"
#include "memory.h"

// What memory.cpp, access.cpp, allocations.cpp and strict.cpp share.
namespace emu {

[[noreturn]] void fault(const Warp&, const Inst&, int lane, const std::string& why);  // async.cpp

/// A range of global, constant or parameter memory that device code may touch.
struct Allocation {
  uint64_t base = 0, size = 0;
  bool writable = true;
  std::string what;
  void* owned = nullptr;  // device_malloc: what the host's allocator returned
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
/// The part of `order` (and of a later fence) that acts once the value was read or written; access() did the rest.
void order_after(Warp&, Mask, std::byte* const* host, Order);
void fence_memory(Warp&, Mask);  // membar, fence.sc, fence.acq_rel

class Mods;
/// State space, scope, memory order and cache hints, taken from the modifiers; `address` is the operand […].
MemoryOperand memory_operand(Decoder&, Mods&, const ptx::Operand& address, Use);
void decode_atom(Decoder&, Inst&);  // atomics.cpp
void decode_red(Decoder&, Inst&);

}  // namespace emu
