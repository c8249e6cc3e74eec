#pragma once
#include <string>
#include <vector>

#include "saccade/export.h"

namespace saccade {

/// One kernel of an operation's ordered list.
struct Candidate {
  std::string name;    // e.g. "cpu.avx2.attention"
  std::string reason;  // why it cannot run; empty: it can
  bool chosen = false;
};

/// A kernel of the build: its operation ("attention", "attention_backward"), its name, and why this machine cannot run
/// it ("": it can).
struct KernelInfo {
  std::string op, name, reason;
};

/// Every kernel in this build, in order of preference within each operation.
SACCADE_API std::vector<KernelInfo> list_kernels();

/// The CPU instruction set in use ("avx512", "avx2", "neon", "base"); SACCADE_CPU_ISA forces one, and an Error names
/// the choices.
SACCADE_API std::string cpu_isa();

/// Version of the library, "major.minor.patch".
SACCADE_API const char* version();

}  // namespace saccade
