#pragma once
#include <vector>

#include "kernel.h"
#include "saccade/attention.h"
#include "saccade/kernels.h"
#include "saccade/linear.h"

namespace saccade {

/// Name of a problem's operation: "attention", "linear_attention_backward", …
template <class Problem>
const char* op_name();

/// The kernel that runs this checked problem: the forced one (Context::kernel, else the environment's SACCADE_KERNEL),
/// else the first that supports it. Throws Error, with every candidate and its reason, when there is none.
template <class Problem>
const Kernel<Problem>& choose(const Problem& problem, const Context& context);

/// Every candidate for this checked problem; none is chosen when the forced one cannot run. Throws Error on an unknown
/// forced name.
template <class Problem>
std::vector<Candidate> candidates(const Problem& problem, const Context& context);

/// Copies `bytes` at `from` on the view's device to the host, waiting for the device; false: this build or machine
/// cannot.
bool copy_to_host(void* to, const TensorView& from, int64_t bytes);

}  // namespace saccade
