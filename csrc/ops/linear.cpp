#include "saccade/linear.h"

#include "ops/run.h"

namespace saccade {

int64_t workspace_bytes(const LinearForward& p, const Context& c) { return Plan<LinearForward>::make(p, c).bytes; }
int64_t workspace_bytes(const LinearBackward& p, const Context& c) { return Plan<LinearBackward>::make(p, c).bytes; }
int64_t workspace_bytes(const LinearStep& p, const Context& c) { return Plan<LinearStep>::make(p, c).bytes; }
void linear_forward(const LinearForward& p, const Context& c, void* workspace) { run(p, c, workspace); }
void linear_backward(const LinearBackward& p, const Context& c, void* workspace) { run(p, c, workspace); }
void linear_step(const LinearStep& p, const Context& c, void* workspace) { run(p, c, workspace); }
std::vector<Candidate> explain(const LinearForward& p, const Context& c) { return candidates(check(p), c); }
std::vector<Candidate> explain(const LinearBackward& p, const Context& c) { return candidates(check(p), c); }
std::vector<Candidate> explain(const LinearStep& p, const Context& c) { return candidates(check(p), c); }

}  // namespace saccade
