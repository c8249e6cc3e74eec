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
  const Inst* inst = nullptr;
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
/// Carries out the lanes' copies with group < limit[lane] or stamp < before. Each is an access of its lane, which
/// others see as they see what the lane did itself; `done`, if given, takes them up.
void carry_out_copies(Copies&, Mask lanes, const uint32_t* limit, uint64_t before, Clock* done);

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

/// Elements combined into memory, each atomically.
using Reduce = void (*)(std::byte* to, const std::byte* from, int bytes);
Reduce reduction(std::string_view op, std::string_view type);  // null: there is none (reduce.cpp)

/// A bulk store to global memory. wait_group.read demands the first half only, so the halves are transfers of their
/// own.
struct BulkStore {
  Transfer reading, writing;
  Cta* cta = nullptr;
  uint32_t from = 0;
  Reduce reduce = nullptr;
  std::vector<std::byte> data;  // what was read; sized at issue
  bool has_read = false;
  virtual ~BulkStore() = default;
  virtual void write() = 0;
  void read(Clock& done);
};
using BulkStorePtr = std::unique_ptr<BulkStore>;
/// The lanes without those that do the same as one before them: a whole warp may issue a store that all of it waits for
/// (CUTLASS's epilogues do), and the same bytes stored twice are no race.
template <class Same>
Mask distinct(Mask lanes, Same same) {
  Mask out = 0;
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    bool seen = false;
    for (Mask o = out; o; o &= o - 1) seen |= same(__builtin_ctz(o), l);
    if (!seen) out |= Mask{1} << l;
  }
  return out;
}
/// Adds it to the lane's open group, or carries it out at once where asynchrony is not adversarial.
void issue_store(Warp&, const Inst&, int lane, BulkStorePtr, uint64_t from, int bytes, int align);

/// A load into shared memory of `cta`; fill() is given the destination.
struct BulkLoad : Pending {
  Cta* cta = nullptr;
  uint32_t to = 0;
  virtual void fill(std::byte* to) = 0;
  void carry_out(Clock& done) override;
};
/// Where the bytes go: the operand's CTA, or those of a multicast's mask (at the same place in each).
struct BulkTarget {
  Address to, barrier;
  Place mask = kNoPlace;
};
/// Calls make() for the load of each destination, and leaves it to that CTA's barrier.
template <class Make>
void issue_loads(Warp& w, const Inst& i, int lane, const BulkTarget&, int bytes, int align, Make make);

/// A thread's cp.async.bulk groups.
struct BulkGroups {
  std::vector<BulkStorePtr> open;
  std::vector<std::vector<BulkStorePtr>> closed;
};

struct WgmmaQueue;  // wgmma.cpp
struct WgmmaQueueDelete {
  void operator()(WgmmaQueue*) const;
};

struct Cta::Async {
  std::vector<Copies> copies;  // by warp
  std::vector<std::unique_ptr<Mbarrier>> mbarriers;
  std::vector<std::pair<const Mbarrier*, const Inst*>> failed;  // by warp: the last test that was not passed
  std::vector<uint16_t> mbarrier_index;  // by 8 bytes of shared memory: 1 + place in mbarriers, 0: none
  std::vector<BulkGroups> bulk;          // by thread
  std::vector<std::unique_ptr<WgmmaQueue, WgmmaQueueDelete>> wgmma;  // by warpgroup
};
Cta::Async& async_of(Cta&);

void decode_bulk(Decoder&, Inst&);         // bulk.cpp: cp.async.bulk*, cp.reduce.async.bulk*
void decode_tensor(Decoder&, Inst&);       // tensor.cpp: those of them with .tensor
void decode_copy_arrive(Decoder&, Inst&);  // mbarrier.cpp: cp.async.mbarrier.arrive
void decode_mbarrier(Decoder&, Inst&);
void finish_bulk(Cta&);  // stores that no wait_group demanded
void finish_mbarriers(Cta&);
void finish_wgmma(Cta&);

template <class Make>
void issue_loads(Warp& w, const Inst& i, int lane, const BulkTarget& target, int bytes, int align, Make make) {
  const SharedPlace to = shared_place(w, i, lane, target.to.of(w, lane));
  const SharedPlace barrier = shared_place(w, i, lane, target.barrier.of(w, lane));
  if (to.address % align) fault(w, i, lane, "the destination is not aligned to " + std::to_string(align));
  if (target.mask == kNoPlace && to.cta != barrier.cta)
    fault(w, i, lane, "destination and mbarrier belong to different CTAs");
  const auto& ctas = w.cta->cluster->ctas;
  const uint32_t mask = target.mask == kNoPlace ? 1u << to.cta->rank : w.at<uint16_t>(target.mask)[lane];
  if (mask >> ctas.size() || mask == 0)
    fault(w, i, lane, "ctaMask " + std::to_string(mask) + " of a cluster of " + std::to_string(ctas.size()) + " CTAs");
  for (uint32_t m = mask; m; m &= m - 1) {
    Cta& cta = *ctas[__builtin_ctz(m)];
    Mbarrier& b = mbarrier_at(w, i, lane, {&cta, barrier.address});
    auto load = make();
    load->cta = &cta;
    load->to = to.address;
    load->bytes = bytes;
    load->transfer = begin_transfer(w, i, lane, true);
    begin_pending(load->transfer, cta, Space::shared, to.address, bytes, Use::write);
    counts().bulk_bytes += bytes;
    mbarrier_defer(b, std::move(load));
  }
}

}  // namespace emu
