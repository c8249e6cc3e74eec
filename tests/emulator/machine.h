#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ptx.h"

// The machine: a grid of clusters of CTAs of warps of 32 lanes. A warp executes one instruction for all its active
// lanes at once; registers are arrays over lanes, so that an instruction is a loop a compiler vectorises.
//
// An instruction is decoded once, when its kernel is first launched, to an Inst: a function and the places of its
// operands. Families of instructions (arithmetic.cpp, warp.cpp, memory.cpp, …) offer tables of decoders; machine.cpp
// knows none of them.
namespace emu {

constexpr int kLanes = 32;
using Mask = uint32_t;  // bit l: lane l
constexpr Mask kAllLanes = ~Mask{0};

/// A finding: what a strict mode caught, or a program the machine cannot run. `what()` is the whole report.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Warp;
struct Cta;
struct Cluster;
struct Grid;
struct Inst;
struct Program;

enum class Flow : uint8_t {
  next,   // done: go on behind this instruction
  wait,   // nothing was done: try again once something has changed (barriers, try_wait that must block)
  yield,  // done, and let others run (nanosleep, a failed try_wait)
  jump,   // the handler set the groups' places itself (control.cpp only)
};
using Exec = Flow (*)(Warp&, const Inst&, Mask lanes);

/// Classes that the counts tell apart.
enum class Class : uint8_t {
  integer,
  floating,
  half,
  convert,
  special,
  predicate,
  move,
  control,
  barrier,
  shuffle,
  load_global,
  store_global,
  load_shared,
  store_shared,
  load_local,
  store_local,
  load_param,
  load_const,
  atomic,
  ldmatrix,
  stmatrix,
  mma,
  wgmma,
  cp_async,
  bulk,
  tensor,
  mbarrier,
  fence,
  other,
  count_
};

/// Which lanes must stand at an instruction before it may execute.
enum class Converge : uint8_t {
  none,
  all,     // .aligned, mma.sync, ldmatrix, wgmma, bar.sync: every lane of the warp that has not exited
  member,  // .sync with a membermask in slot[mask_slot]: those lanes, all executing this instruction
};

/// A place: byte offset into Warp::regs of 32 lane values of the register's own size (1-byte types live in 16 bits). A
/// predicate's place holds one Mask. Constants and special registers have places too, filled when the warp starts.
using Place = uint32_t;
constexpr Place kNoPlace = ~Place{0};

struct Inst {
  Exec exec = nullptr;  // what every instruction needs comes first: one cache line with the slots
  Place predicate = kNoPlace;
  uint16_t list_size = 0;
  bool predicate_negated = false;
  Converge converge = Converge::none;
  Class cls = Class::other;
  int line = 0;
  Place mask_slot = kNoPlace;  // Converge::member
  Place slot[6] = {kNoPlace, kNoPlace, kNoPlace, kNoPlace, kNoPlace, kNoPlace};
  uint64_t imm[2] = {};         // whatever the decoder wants to keep
  const Place* list = nullptr;  // longer operand lists (mma fragments, vectors): owned by the Program
  const void* extra = nullptr;  // whatever; allocated with Decoder::keep
};

struct Kernel;

/// What a decoder sees of one statement.
class Decoder {
 public:
  const ptx::Statement& s;

  bool has(std::string_view mod) const;
  /// The first modifier that is a type, from the left, skipping `skip` of them: "f32", "b16x2", …; "" if none.
  std::string_view type(int skip = 0) const;
  /// Place of a destination register of `bytes` (−1: whatever it has); `_` gives kNoPlace.
  Place dst(const ptx::Operand&, int bytes = -1);
  /// Place of a source: a register, or 32 copies of a constant or symbol address of `bytes` (1-byte values as 2).
  /// For predicates bytes = 0; `real`: an f64 constant is rounded to an f32 or kept by `bytes`.
  Place src(const ptx::Operand&, int bytes);
  /// Base of `[…]`, offset not added: 32 uint64_t, or 32 uint32_t where address_bytes is 4 (a 32-bit shared address). A
  /// kernel's parameters are host addresses (ld.param reads those), parameters of calls lie behind kLocalWindow.
  Place address(const ptx::Operand&);
  int address_bytes(const ptx::Operand&);
  /// Like src, of a register that may be larger than the instruction's type (st.u8 of a 32-bit register); src takes
  /// only registers of `bytes` (1: 16-bit ones). `*bytes` becomes the register's size; constants keep it.
  Place any_src(const ptx::Operand&, int* bytes);
  /// The carry of .cc instructions: one Mask.
  Place carry();
  /// Copies to memory that lives as long as the program.
  const Place* list(const std::vector<Place>&);
  template <class T>
  const T* keep(T value) {
    auto copy = std::make_shared<T>(std::move(value));
    own(copy);
    return copy.get();
  }
  uint32_t label(const ptx::Operand&);  // index of the instruction
  /// Size in bytes of the register an operand names.
  int reg_bytes(const ptx::Operand&);
  [[noreturn]] void unknown(const std::string& why = "") const;  // an error naming line and text

  Decoder(const ptx::Statement& s, Program& p) : s(s), program(p) {}
  Program& program;

 private:
  void own(std::shared_ptr<void>);
};

struct Family {
  const char* op;  // "mma"
  void (*decode)(Decoder&, Inst&);
};
/// Each family's table; `end` has op == nullptr.
// arithmetic.cpp: integer, float, half, bf16, packed, logic, setp, selp, mov, special functions
extern const Family kArithmetic[];
extern const Family kConvert[];  // convert.cpp: cvt, cvt.pack
// memory.cpp: ld, st, ldu, atom, red, cvta, isspacep, prefetch, membar, fence (generic)
extern const Family kMemory[];
// warp.cpp: shfl, vote, match, redux, elect, activemask, bar.warp.sync, ldmatrix, stmatrix, movmatrix
extern const Family kWarp[];
extern const Family kMma[];      // mma.cpp: mma.sync (dense; sparse if cheap)
extern const Family kControl[];  // control.cpp: bra, brx, call, ret, exit, trap, bar, barrier.cta, barrier.cluster,
                                 // nanosleep, setmaxnreg, griddepcontrol
extern const Family kAsync[];  // async.cpp, tensor.cpp: cp.async*, mbarrier.*, fence.proxy*, mapa, getctarank, discard
extern const Family kWgmma[];  // wgmma.cpp

struct Program {  // a kernel, decoded
  const ptx::Module* module = nullptr;
  const ptx::Function* function = nullptr;
  std::vector<Inst> code;
  size_t register_bytes = 0;
  int64_t shared_bytes = 0, local_bytes = 0, param_bytes = 0;  // static shared; dynamic begins behind it
  // … machine.cpp: tables of registers and constants, block order
  struct State;
  std::unique_ptr<State> state;
  Program();
  ~Program();
};

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
};

struct Warp {
  std::byte* regs = nullptr;
  Cta* cta = nullptr;
  int index = 0;    // in the CTA
  Mask alive = 0;   // lanes that have not exited
  uint32_t pc = 0;  // of the group that executes
  uint64_t steps = 0;

  template <class T>
  T* at(Place p) {
    return reinterpret_cast<T*>(regs + p);
  }
  Mask& predicate(Place p) { return *reinterpret_cast<Mask*>(regs + p); }
  // … machine.cpp: groups of diverged lanes
  struct State;
  State* state = nullptr;
};

/// Shared addresses: within a CTA's window, byte `kSharedBase + offset` (the first KiB is the system's, as on
/// hardware); of CTA r of the cluster, (r + 1) << 24 added. Generic addresses of shared memory are kSharedWindow +
/// that; of local memory kLocalWindow + offset. Every other generic address is a host pointer: global, constant and
/// parameter memory.
constexpr uint32_t kSharedBase = 1024;
constexpr uint64_t kSharedWindow = 0x1000'0000'0000'0000, kLocalWindow = 0x2000'0000'0000'0000;

struct Cta {
  Cluster* cluster = nullptr;
  Dim3 id;
  uint32_t rank = 0;              // in the cluster
  std::vector<std::byte> shared;  // static + dynamic
  std::vector<Warp> warps;
  struct Barriers;  // control.cpp
  struct Async;     // async.cpp: cp.async groups, mbarriers' pending transfers
  struct Strict;    // strict.cpp: shadow of shared memory, clocks
  std::unique_ptr<Barriers, void (*)(Barriers*)> barriers{nullptr, nullptr};
  std::unique_ptr<Async, void (*)(Async*)> async{nullptr, nullptr};
  std::unique_ptr<Strict, void (*)(Strict*)> strict{nullptr, nullptr};
};

struct Cluster {
  Grid* grid = nullptr;
  Dim3 id;
  std::vector<std::unique_ptr<Cta>> ctas;
};

template <class T>
struct Aligned {  // allocator
  using value_type = T;
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{128})); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{128}); }
  bool operator==(const Aligned&) const = default;
};

uint64_t new_launch();  // strict.cpp

struct Grid {
  Program* program = nullptr;
  Dim3 grid, block, cluster;
  int64_t dynamic_shared = 0;
  std::vector<std::byte, Aligned<std::byte>> params;  // a tensor map in it wants 64 bytes
  uint64_t seed = 0;
  uint64_t launch = new_launch();  // a number that no other launch has
  uint32_t resident = 0;           // CTAs that the device holds at once (SMs x occupancy, whole clusters); 0: no limit
  bool explicit_cluster = false;
  uint64_t max_steps = 4'000'000'000;  // instructions of one warp
};

/// The virtual device; runtime.cpp sets it from SACCADE_EMULATOR before the first launch.
struct Device {
  int major = 9, minor = 0;
  bool specific = true;  // sm_90a, not sm_90
  int sms = 4;
  int threads = 0;  // workers; 0: one a core
};
Device& device();  // runtime.cpp

/// Where a module's .global and .const variables lie; allocated, initialised and tracked by the runtime.
using Symbols = std::map<std::string, std::byte*, std::less<>>;
/// Decodes a kernel. Throws Fault naming the line of what it does not know. Module and symbols outlive the program.
std::unique_ptr<Program> decode(const ptx::Module&, const ptx::Function& kernel, const Symbols&);

/// Local memory of a lane: Program::local_bytes, addressed from kLocalWindow.
std::byte* local(Warp&, int lane);
/// Lanes of the group that executes, before predication.
Mask active(const Warp&);
/// x + y·nx + z·nx·ny.
inline uint64_t linear(const Dim3& i, const Dim3& n) { return i.x + uint64_t{n.x} * (i.y + uint64_t{n.y} * i.z); }

/// A CTA has ended, its shared memory still stands: carries out the asynchronous work that no wait demanded
/// (async.cpp).
void finish_async(Cta&);
/// fence.proxy.*, fence.mbarrier_init: the forms of `fence` that async.cpp knows. False: not one of them.
bool decode_fence_async(Decoder&, Inst&);
/// st.async, red.async: the forms of `st` and `red` that bulk.cpp knows. False: not one of them.
bool decode_store_async(Decoder&, Inst&);

/// Runs a grid to its end on every core; throws the first Fault. `seed` orders warps, CTAs and quanta.
void run(Grid&);

/// "kernel, CTA (x, y, z), warp w, lane l, line n: text" for messages.
std::string where(const Warp&, const Inst&, int lane = -1);

}  // namespace emu
