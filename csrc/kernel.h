#pragma once
#include <cstdint>
#include <string>

#include "saccade/context.h"

namespace saccade {

/// What an operation asks of a backend. Lists of these are ordered by preference; the first that supports the problem
/// runs.
template <class Problem>
struct Kernel {
  const char* name;
  /// Why the kernel cannot run this (already checked) problem on this machine; empty: it can. The only home of its
  /// limits.
  std::string (*supports)(const Problem&);
  int64_t (*workspace_bytes)(const Problem&, int threads);
  /// `workspace` is 64-byte aligned and of that size. Throws Error only where a device refuses a launch.
  void (*run)(const Problem&, const Context&, void* workspace);
};

/// A backend's ordered kernels for one operation.
template <class Problem>
struct KernelList {
  const Kernel<Problem>* begin;
  const Kernel<Problem>* end;
};

}  // namespace saccade
