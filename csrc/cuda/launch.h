#pragma once
#include <cuda_runtime_api.h>

#include <string>

#include "saccade/context.h"
#include "saccade/tensor.h"

// From a problem to launches: which device, what it can do, the stream. Nothing here waits, allocates or prints, so
// calls can be captured in a graph; only problems of host tensors (forced by name) end with a wait.
namespace saccade::cuda {

struct Device {
  int index;
  int arch;          // 80 for compute capability 8.0
  int processors;    // SMs
  int shared_bytes;  // most dynamic shared memory of a block
  bool pageable;     // reads the host's memory
};

/// The device that a problem with tensors placed like `t` runs on: theirs, or for host tensors the current one. Null,
/// and the reason, where there is none that can.
const Device* find_device(const TensorView& t, std::string& reason);

/// The problem's device and stream; the caller's device is current again at the end.
class Queue {
 public:
  Queue(const char* op, const TensorView& placed, const Context& context);
  ~Queue();
  Queue(const Queue&) = delete;

  const Device& device() const { return *device_; }

  /// Throws Error if the launch fails. An empty grid is none.
  template <class P>
  void launch(void (*kernel)(P), dim3 grid, int threads, int shared_bytes, const P& params) {
    void* arguments[] = {const_cast<P*>(&params)};
    launch(reinterpret_cast<const void*>(kernel), grid, threads, shared_bytes, arguments);
  }
  /// Host tensors are read by whoever comes next: waits for them.
  void finish();

 private:
  void launch(const void* kernel, dim3 grid, int threads, int shared_bytes, void** arguments);
  void check(cudaError_t error, const char* what) const;

  const char* op_;
  const Device* device_;
  cudaStream_t stream_;
  bool host_tensors_;
  int before_ = -1;  // the caller's device
};

}  // namespace saccade::cuda
