#pragma once
#include <cstdint>

#include "ops/check.h"
#include "ops/registry.h"
#include "saccade/error.h"

// Every operation's road: check → choose → run.
namespace saccade {

template <class Problem>
struct Plan {
  Problem problem;
  const Kernel<Problem>& kernel;
  int64_t bytes;

  static Plan make(const Problem& given, const Context& context) {
    const Problem problem = check(given);
    if (context.threads < 1)
      throw Error(std::string(op_name<Problem>()) + ": threads: got " + std::to_string(context.threads) +
                  ", wanted at least 1; set Context::threads");
    const Kernel<Problem>& kernel = choose(problem, context);
    return {problem, kernel, kernel.workspace_bytes(problem, context.threads)};
  }
};

template <class Problem>
void run(const Problem& given, const Context& context, void* workspace) {
  const auto p = Plan<Problem>::make(given, context);
  if (p.bytes > 0 && (!workspace || reinterpret_cast<uintptr_t>(workspace) % 64))
    throw Error(std::string(op_name<Problem>()) + ": workspace: got " + (workspace ? "an unaligned pointer" : "null") +
                ", wanted " + std::to_string(p.bytes) +
                " bytes aligned to 64; allocate workspace_bytes(problem, context)");
  p.kernel.run(p.problem, context, workspace);
}

}  // namespace saccade
