#pragma once
#include <string>

namespace saccade::cpu {

/// Why code compiled for this instruction set ("base", "avx2", "avx512", "neon") is not used here; empty: it can be.
/// SACCADE_CPU_ISA names the highest set to use; a set that is unknown, not built or not had by the machine throws
/// Error.
std::string isa_refusal(const std::string& isa);

}  // namespace saccade::cpu
