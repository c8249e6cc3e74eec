#pragma once
#include <atomic>
#include <string>
#include <unordered_map>

#include "machine.h"

// What decode.cpp, machine.cpp and control.cpp share, and nobody else needs.
namespace emu {

struct Symbol {
  enum class Kind : uint8_t { shared, local, host, param } kind;
  uint64_t value;  // address; of a kernel's parameter: offset
};

struct Register {
  Place place;
  int bytes;  // 0: predicate
};

struct FunctionState {
  const ptx::Function* function = nullptr;
  uint32_t first = 0;  // index of its first instruction
  std::unordered_map<std::string_view, Register> registers;
  std::unordered_map<std::string_view, Symbol> symbols;
  Place return_pc = kNoPlace, carry = kNoPlace;  // 32 uint32_t: where each lane's call came from
};

/// Registers that the machine fills when a warp starts. zero: %gridid, %envreg.
// clang-format off
enum class Special : uint8_t {
  parameter, tid, ntid, ctaid, nctaid, laneid, warpid, nwarpid, smid, nsmid, lanemask_eq, lanemask_lt, lanemask_le,
  lanemask_gt, lanemask_ge, clusterid, nclusterid, cluster_ctaid, cluster_nctaid, cluster_ctarank, cluster_nctarank,
  is_explicit_cluster, dynamic_smem_size, total_smem_size, zero
};
// clang-format on

struct Program::State {
  std::string name;  // of the kernel, demangled
  const Symbols* globals = nullptr;
  std::vector<std::unique_ptr<FunctionState>> functions;  // [0]: the kernel
  FunctionState* current = nullptr;                       // that is being decoded
  std::vector<std::byte> image;                           // of a warp's registers as it starts
  std::unordered_map<std::string, Place> constants;       // by bytes and value
  struct AtStart {                                        // what differs between warps
    Place place;
    int bytes;
    Special special;
    int component;    // 0: x
    uint64_t offset;  // of a parameter
    bool same(const AtStart& o) const {
      return bytes == o.bytes && special == o.special && component == o.component && offset == o.offset;
    }
  };
  std::vector<AtStart> at_start;
  std::vector<std::shared_ptr<void>> kept;

  // Basic blocks, numbered along the text; order: of execution among diverged groups.
  struct Block {
    uint32_t first, end, order;
  };
  std::vector<Block> blocks;
  std::vector<uint32_t> block_of;

  Place allocate(int bytes);  // 0: a Mask
  const FunctionState* find(std::string_view name) const;
};

/// A function's basic blocks; its last instruction, number body.size(), is the end of the code.
struct Flowgraph {
  std::vector<uint32_t> first;  // of each block, and the number of instructions
  std::vector<std::vector<uint32_t>> successors;
};
Flowgraph flow_graph(const ptx::Function&);             // blocks.cpp
void order_blocks(Program&);                            // blocks.cpp
void place_registers(FunctionState&, Program::State&);  // registers.cpp
bool decode_system_call(Decoder&, Inst&);              // system.cpp: what every device has; false: not that

std::string lanes_text(Mask);       // report.cpp: "lanes 0-7, 9"
std::string standing(const Warp&);  // report.cpp: a line for each group, where it stands and why

/// Why a group does not go on. retry: it has waited in a handler, which may hold its place (a barrier's arrival), and
/// so is not merged with lanes that come there now.
enum class Waits : uint8_t { no, converge, handler, retry };

struct Group {
  uint32_t pc = 0;
  Mask mask = 0;
  uint32_t spins = 0;  // backward branches while other groups could have run
  Waits waits = Waits::no;
};

struct Warp::State {
  Group groups[kLanes];
  int count = 0;
  int running = -1;
  uint64_t seen = 0;  // the worker's progress when every group was found waiting
  bool blocked = false;
  uint64_t hash = 0;  // of the registers, as the worker last looked
  std::byte* local = nullptr;
  const Program* program = nullptr;

  Group& group() { return groups[running]; }
  /// The running group's `lanes` go to `pc`, the others stay with it.
  void move(Mask lanes, uint32_t pc);
};

}  // namespace emu
