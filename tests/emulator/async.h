#pragma once
#include <array>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "machine.h"
#include "memory.h"

// What async.cpp, mbarrier.cpp, tensor.cpp and wgmma.cpp share: operations that were issued and are not carried out
// yet.
namespace emu {

/// A memory operand: per lane a register of 32 or 64 bits, plus an offset.
struct Address {
  Place place = kNoPlace;
  bool wide = true;
  int64_t offset = 0;
  uint64_t of(Warp& w, int lane) const {
    return wide ? w.at<uint64_t>(place)[lane] + offset : static_cast<uint32_t>(w.at<uint32_t>(place)[lane] + offset);
  }
};
Address address_of(Decoder&, const ptx::Operand&);

/// Shared memory of a CTA of the cluster. `address` is within that CTA's window: kSharedBase + byte.
struct SharedPlace {
  Cta* cta;
  uint32_t address;
  std::byte* host() const { return cta->shared.data() + (address - kSharedBase); }
};
/// Where a shared::cluster address, or a generic one of shared memory, lies. Throws Fault if nowhere.
SharedPlace shared_place(Warp&, const Inst&, int lane, uint64_t address);

/// "where: why", thrown.
[[noreturn]] void fault(const Warp&, const Inst&, int lane, const std::string& why);

/// The N of a wait, and other operands that must be constants.
uint64_t constant(const Decoder&, const ptx::Operand&);

/// An operation under way that someone will wait for.
struct Pending {
  Transfer transfer;
  int64_t bytes = 0, arrivals = 0;  // what it signals to an mbarrier
  virtual ~Pending() = default;
  virtual void carry_out(Clock& done) = 0;  // the accesses, joined into the clock
};
using PendingPtr = std::unique_ptr<Pending>;

/// One cp.async of a warp.
struct Copy {
  Transfer transfer;
  Mask left = 0;  // lanes whose copy is still under way
  int size = 0;
  uint64_t stamp = 0;  // issued as the warp's how-manieth
  uint32_t group[kLanes] = {}, to[kLanes] = {};
  uint64_t from[kLanes] = {};
  uint8_t read[kLanes] = {};  // bytes of the source; the rest is zero
};
struct Copies {
  std::vector<std::unique_ptr<Copy>> queue, spare;
  uint64_t issued = 0;
  uint32_t commits[kLanes] = {};  // groups closed so far: the number of the open one
};
extern const uint32_t kNoGroup[kLanes];  // zeros
/// Carries out the lanes' copies with group < limit[lane] or stamp < before.
void carry_out_copies(Copies&, Mask lanes, const uint32_t* limit, uint64_t before, Clock&);

/// The word in memory is kMbarrierMark ^ its address; the state is here, so that a plain store over a live barrier is
/// seen.
constexpr uint64_t kMbarrierMark = 0x6d62'6172'0000'0000;
constexpr uint32_t kMaxArrivals = (1u << 20) - 1;
struct Mbarrier {
  Cta* cta = nullptr;
  uint32_t address = 0;
  uint32_t expected = 0;
  int64_t pending = 0, bytes = 0;  // arrivals and transaction bytes that the phase still waits for
  uint64_t phase = 0;              // how many are complete
  Clock arriving, completed;
  std::deque<PendingPtr> deferred;  // what will complete bytes or arrive, once somebody must wait for it
  int64_t deferred_bytes = 0, deferred_arrivals = 0;
};
/// The barrier at a place; throws if there is none or it was overwritten.
Mbarrier& mbarrier_at(Warp&, const Inst&, int lane, const SharedPlace&);
/// Leaves an operation to the barrier, or carries it out at once where asynchrony is not adversarial.
void mbarrier_defer(Mbarrier&, PendingPtr);
/// The barrier of an operation that completes transaction bytes; checked at issue.
Mbarrier& mbarrier_of_bulk(Warp&, const Inst&, int lane, uint64_t address);

/// A thread's cp.async.bulk groups.
struct BulkGroups {
  std::vector<PendingPtr> open;
  std::deque<std::vector<PendingPtr>> closed;
};

struct WgmmaQueue;  // wgmma.cpp
struct WgmmaQueueDelete {
  void operator()(WgmmaQueue*) const;
};

struct Cta::Async {
  std::vector<Copies> copies;  // by warp
  std::vector<std::unique_ptr<Mbarrier>> mbarriers;
  std::vector<uint16_t> mbarrier_index;           // by 8 bytes of shared memory: 1 + place in mbarriers, 0: none
  std::vector<std::unique_ptr<BulkGroups>> bulk;  // by thread
  std::vector<std::unique_ptr<WgmmaQueue, WgmmaQueueDelete>> wgmma;  // by warp
};
Cta::Async& async_of(Cta&);

void decode_bulk(Decoder&, Inst&);         // tensor.cpp: cp.async.bulk*, cp.reduce.async.bulk*
void finish_bulk(Cta&);                    // stores that no wait_group demanded
void decode_copy_arrive(Decoder&, Inst&);  // mbarrier.cpp: cp.async.mbarrier.arrive
void decode_mbarrier(Decoder&, Inst&);     // mbarrier.cpp
void finish_mbarriers(Cta&);

}  // namespace emu
