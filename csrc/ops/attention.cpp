#include "saccade/attention.h"

#include <cstdint>

#include "ops/check.h"
#include "ops/registry.h"
#include "saccade/error.h"

namespace saccade {
namespace {

template <class Problem>
constexpr const char* kOp = "attention";
template <>
constexpr const char* kOp<AttentionBackward> = "attention_backward";

template <class Problem>
struct Plan {
  Problem problem;
  const Kernel<Problem>& kernel;
  int64_t bytes;
};

template <class Problem>
Plan<Problem> plan(const Problem& given, const Context& context) {
  const Problem problem = check(given);
  if (context.threads < 1)
    throw Error(std::string(kOp<Problem>) + ": threads: got " + std::to_string(context.threads) +
                ", wanted at least 1; set Context::threads");
  const Kernel<Problem>& kernel = choose(problem, context);
  return {problem, kernel, kernel.workspace_bytes(problem, context.threads)};
}

template <class Problem>
void run(const Problem& given, const Context& context, void* workspace) {
  const Plan<Problem> p = plan(given, context);
  if (p.bytes > 0 && (!workspace || reinterpret_cast<uintptr_t>(workspace) % 64))
    throw Error(std::string(kOp<Problem>) + ": workspace: got " + (workspace ? "an unaligned pointer" : "null") +
                ", wanted " + std::to_string(p.bytes) +
                " bytes aligned to 64; allocate workspace_bytes(problem, context)");
  p.kernel.run(p.problem, context, workspace);
}

}  // namespace

int64_t workspace_bytes(const AttentionForward& p, const Context& c) { return plan(p, c).bytes; }
int64_t workspace_bytes(const AttentionBackward& p, const Context& c) { return plan(p, c).bytes; }
void attention_forward(const AttentionForward& p, const Context& c, void* workspace) { run(p, c, workspace); }
void attention_backward(const AttentionBackward& p, const Context& c, void* workspace) { run(p, c, workspace); }
std::vector<Candidate> explain(const AttentionForward& p, const Context& c) { return candidates(check(p), c); }
std::vector<Candidate> explain(const AttentionBackward& p, const Context& c) { return candidates(check(p), c); }

}  // namespace saccade
