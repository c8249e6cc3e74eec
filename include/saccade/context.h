#pragma once
#include <cstdint>
#include <string>

#include "saccade/export.h"

namespace saccade {

/// What a call borrows from its host. The library starts no thread of its own accord and owns no memory.
struct Context {
  /// Calls `body(arg, i)` once for every i in [0, n), on as many threads as the host likes, and returns when all are
  /// done. `self` is passed through. Null runs serially.
  using ParallelFor = void (*)(void* self, int64_t n, void (*body)(void* arg, int64_t i), void* arg);
  ParallelFor parallel_for = nullptr;
  void* parallel_self = nullptr;
  /// Threads that `parallel_for` can use at once; results never depend on it.
  int threads = 1;
  /// cudaStream_t for CUDA tensors.
  void* stream = nullptr;
  /// Name of the kernel to use; empty: the environment variable SACCADE_KERNEL, else the first that can run.
  std::string kernel;
};

/// A context on a small pool of `std::thread`s shared by the process, for hosts without one of their own.
/// `threads` ≤ 0: the hardware's number. The pool lives as long as the process.
SACCADE_API Context pool_context(int threads = 0);

}  // namespace saccade
