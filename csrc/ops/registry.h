#pragma once
#include <vector>

#include "kernel.h"
#include "saccade/attention.h"
#include "saccade/kernels.h"

namespace saccade {

/// The kernel that runs this checked problem: the forced one (Context::kernel, else the environment's SACCADE_KERNEL),
/// else the first that supports it. Throws Error, with every candidate and its reason, when there is none.
const Kernel<AttentionForward>& choose(const AttentionForward& problem, const Context& context);
const Kernel<AttentionBackward>& choose(const AttentionBackward& problem, const Context& context);

/// Every candidate for this checked problem; none is chosen when the forced one cannot run. Throws Error on an unknown
/// forced name.
std::vector<Candidate> candidates(const AttentionForward& problem, const Context& context);
std::vector<Candidate> candidates(const AttentionBackward& problem, const Context& context);

/// Copies `bytes` at `from` on the view's device to the host, waiting for the device; false: this build or machine
/// cannot.
bool copy_to_host(void* to, const TensorView& from, int64_t bytes);

}  // namespace saccade
