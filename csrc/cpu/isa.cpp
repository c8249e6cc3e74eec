#include "cpu/isa.h"

#include <cstdlib>

#include "saccade/error.h"
#include "saccade/kernels.h"

namespace saccade::cpu {
namespace {

struct Isa {
  const char* name;
  bool (*present)();
};

// Best first. The flags that compile each are in cmake/cpu_isa.cmake; `present` must ask for no less.
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
#if defined(SACCADE_HAVE_ISA_avx512)
    {"avx512", [] { return __builtin_cpu_supports("x86-64-v4") != 0; }},
#endif
#if defined(SACCADE_HAVE_ISA_avx2)
    {"avx2", [] { return __builtin_cpu_supports("x86-64-v3") != 0; }},
#endif
#elif defined(SACCADE_HAVE_ISA_neon)
    {"neon", [] { return true; }},
#endif
    {"base", [] { return true; }},
};

std::string available() {
  std::string names;
  for (const Isa& isa : kIsas)
    if (isa.present()) names += (names.empty() ? "" : ", ") + std::string(isa.name);
  return names;
}

/// The set to use at most: SACCADE_CPU_ISA, else the machine's best.
const Isa& ceiling() {
  const char* forced = std::getenv("SACCADE_CPU_ISA");
  for (const Isa& isa : kIsas)
    if (isa.present() && (!forced || !*forced || std::string(forced) == isa.name)) return isa;
  throw Error("cpu: SACCADE_CPU_ISA: got \"" + std::string(forced) + "\", wanted one of " + available() +
              "; unset it or name an instruction set that this build and machine have");
}

}  // namespace

std::string isa_refusal(const std::string& name) {
  const Isa& top = ceiling();
  bool below = false;
  for (const Isa& isa : kIsas) {
    below |= &isa == &top;
    if (name != isa.name) continue;
    if (!isa.present()) return "this machine lacks " + name;
    return below ? "" : "SACCADE_CPU_ISA allows " + std::string(top.name) + " at most";
  }
  return "this build lacks " + name;
}

}  // namespace saccade::cpu

namespace saccade {

std::string cpu_isa() { return cpu::ceiling().name; }

}  // namespace saccade
