#include "saccade/attention.h"

#include <cstdint>

#include "ops/check.h"
#include "ops/registry.h"
#include "saccade/error.h"

namespace saccade {
namespace {

template <class Problem>
int64_t bytes_of(const Problem& given, const Context& context) {
  const Problem problem = check(given);
  return choose(problem, context).workspace_bytes(problem, context.threads);
}

template <class Problem>
void run(const char* op, const Problem& given, const Context& context, void* workspace) {
  const Problem problem = check(given);
  const Kernel<Problem>& kernel = choose(problem, context);
  const int64_t bytes = kernel.workspace_bytes(problem, context.threads);
  if (bytes > 0 && (!workspace || reinterpret_cast<uintptr_t>(workspace) % 64))
    throw Error(std::string(op) + ": workspace: got " + (workspace ? "an unaligned pointer" : "null") + ", wanted " +
                std::to_string(bytes) + " bytes aligned to 64; allocate workspace_bytes(problem, context)");
  kernel.run(problem, context, workspace);
}

}  // namespace

int64_t workspace_bytes(const AttentionForward& p, const Context& c) { return bytes_of(p, c); }
int64_t workspace_bytes(const AttentionBackward& p, const Context& c) { return bytes_of(p, c); }
void attention_forward(const AttentionForward& p, const Context& c, void* workspace) {
  run("attention", p, c, workspace);
}
void attention_backward(const AttentionBackward& p, const Context& c, void* workspace) {
  run("attention_backward", p, c, workspace);
}
std::vector<Candidate> explain(const AttentionForward& p, const Context& c) { return candidates(check(p), c); }
std::vector<Candidate> explain(const AttentionBackward& p, const Context& c) { return candidates(check(p), c); }

}  // namespace saccade
