#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "machine.h"

// Every byte that device code touches passes here: bounds, alignment, initialisation, races and counts are one place's
// work.
namespace emu {

enum class Space : uint8_t {
  generic,
  global,
  shared,
  local,
  param,
  constant
};  // shared: shared::cta or shared::cluster
enum class Use : uint8_t { read, write, atomic };
enum class Order : uint8_t { weak, relaxed, acquire, release, acq_rel };

/// Resolves the lanes' addresses to host pointers and applies every check to `bytes` at each; 16-byte accesses and the
/// like are one access. Acquire and release order is applied too. Throws Fault. Defined in memory.cpp.
void access(Warp&, const Inst&, Mask, Space, Use, Order, const uint64_t* address, int bytes, std::byte** host);

// Happens-before (strict.cpp). An agent is a warp (lanes of a warp are told apart between warp-wide synchronisations)
// or an asynchronous transfer. Each agent carries two vector clocks: what it has seen, and what of it is visible to the
// async proxy (fence.proxy.async joins the first into the second). Whatever synchronises carries both.
struct Clock {
  struct State;
  std::shared_ptr<State> state;  // null: nothing happened before
};
void release(Warp&, Mask, Clock&);          // what the lanes have done is joined into the clock
void acquire(Warp&, Mask, const Clock&);    // what the clock holds has happened before what the lanes do next
void release_fenced(Warp&, Mask, Clock&);  // what a relaxed operation hands on: that which fences made so
void fence_memory(Warp&, Mask);            // membar, fence.sc, fence.acq_rel
void join(Clock& into, const Clock& from);  // into becomes the later of both; from stays
void fence_proxy_async(Warp&, Mask);
void sync_warp(Warp&, Mask);  // bar.warp.sync: the lanes' accesses are ordered
/// Memory order of an atomic or mbarrier operation at `address`, scope at least CTA.
void order_at(Warp&, Mask, const std::byte* address, Order);

/// An asynchronous operation: cp.async (generic proxy), bulk and tensor copies, wgmma (async proxy). It has seen what
/// its issuer had when it was issued (through the proxy's clock), and acts when it is carried out, at the latest moment
/// allowed.
struct Transfer {
  Cta* cta = nullptr;
  bool async_proxy = false;
  Clock issued;
  int warp = 0, lane = 0, line = 0;
  uint64_t id = 0;
  Use pending_use = Use::write;
  uint32_t acted = 0;  // lanes whose accesses are not joined into a clock yet (generic proxy)
};
/// `lane` of a generic-proxy transfer (cp.async) is the lane whose copy is carried out: set it before each
/// transfer_access. Its accesses then are that lane's own, at that time: a thread that waited for its own copies has seen
/// them without an acquire, and other threads synchronise with it as with any of its writes.
Transfer begin_transfer(Warp&, const Inst&, int lane, bool async_proxy);
/// One contiguous access of a transfer, checked like any other. `cta` owns the shared address (peer CTAs of the
/// cluster).
std::byte* transfer_access(Transfer&, Cta& cta, Space, Use, uint64_t address, int bytes);
/// The transfer's accesses are joined into the clock (of an mbarrier, of the group that is waited for).
void complete_transfer(Transfer&, Clock&);
/// Destination of a transfer that is under way: its bytes are poisoned (0xFF…: a NaN in every float type) and whoever
/// touches them before completion is reported, naming the transfer. A read-source under way may not be written.
void begin_pending(Transfer&, Cta& cta, Space, uint64_t address, int bytes, Use);
void end_pending(Transfer&, Cta& cta, Space, uint64_t address, int bytes);

/// What the machine checks; all on by default. Set from SACCADE_EMULATOR
/// ("races=off,uninit=off,async=eager,seed=7,sm=132, arch=sm_80,threads=2,counts=on"), or by tests.
struct Strict {
  bool bounds = true, uninitialised = true, races = true, adversarial = true, random_order = true, collectives = true;
  bool untracked = true;  // memory that nobody allocated or tracked is out of bounds
  uint64_t seed = 1;
};
Strict& strict();

/// Device allocations (memory.cpp). Fresh memory is filled with the halfword kPoison; a read of bytes that device code
/// never wrote and that still hold it is a read of uninitialised memory. Red zones lie on both sides.
constexpr uint16_t kPoison = 0xFFB7;
void* device_malloc(size_t bytes, size_t align = 256);
bool device_free(void*);  // false: not ours
/// Memory that others allocated (preload.cpp tracks the host's allocator; the runtime tracks parameters and constants).
void track(const void*, size_t bytes, bool writable, bool initialised, const char* what);
void untrack(const void*);

/// Counts of one launch, added up over CTAs (counts.cpp). `SACCADE_EMULATOR_COUNTS=file` appends one JSON line a
/// launch.
struct Counts {
  uint64_t warp_instructions[static_cast<int>(Class::count_)] = {};
  uint64_t lane_instructions = 0;
  uint64_t shared_requests = 0, shared_wavefronts = 0, shared_ideal = 0;  // wavefronts − ideal = bank conflicts
  uint64_t global_requests = 0, global_sectors = 0, global_bytes = 0;     // 32-byte sectors touched, bytes asked for
  uint64_t tensor_flops = 0, bulk_bytes = 0, cp_async_bytes = 0;
};
/// The counts of the running CTA's worker thread.
Counts& counts();
/// The sum over the workers of the launch that ended last.
const Counts& last_launch_counts();
/// What the last run() counted, summed over its workers.
const Counts& last_counts();
/// {"load_global": …, …, "lane_instructions": …}: one line of JSON, the members without the braces.
std::string to_json(const Counts&);

}  // namespace emu
