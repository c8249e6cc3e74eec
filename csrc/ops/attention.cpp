#include "saccade/attention.h"

#include "ops/run.h"

namespace saccade {

int64_t workspace_bytes(const AttentionForward& p, const Context& c) {
  return Plan<AttentionForward>::make(p, c).bytes;
}
int64_t workspace_bytes(const AttentionBackward& p, const Context& c) {
  return Plan<AttentionBackward>::make(p, c).bytes;
}
void attention_forward(const AttentionForward& p, const Context& c, void* workspace) { run(p, c, workspace); }
void attention_backward(const AttentionBackward& p, const Context& c, void* workspace) { run(p, c, workspace); }
std::vector<Candidate> explain(const AttentionForward& p, const Context& c) { return candidates(check(p), c); }
std::vector<Candidate> explain(const AttentionBackward& p, const Context& c) { return candidates(check(p), c); }

}  // namespace saccade
