#include "cuda/launch.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/kernels.h"
#include "saccade/error.h"

namespace saccade {
namespace cuda {
namespace {

std::string name(int index) { return "cuda:" + std::to_string(index); }

std::mutex mutex;  // of the two maps

const Device* facts(int index, std::string& reason) {
  static std::map<int, Device> known;
  const std::lock_guard lock(mutex);
  if (const auto it = known.find(index); it != known.end()) return &it->second;
  cudaError_t error = cudaSuccess;
  const auto attribute = [&](cudaDeviceAttr a) {
    int value = 0;
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, a, index);
    return value;
  };
  Device d{.index = index};
  d.arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor);
  d.arch += attribute(cudaDevAttrComputeCapabilityMinor);
  d.processors = attribute(cudaDevAttrMultiProcessorCount);
  d.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  d.pageable = attribute(cudaDevAttrPageableMemoryAccess) != 0;
  if (error != cudaSuccess) {
    cudaGetLastError();  // it is reported here
    reason = "needs a CUDA device: " + std::string(cudaGetErrorString(error));
    return nullptr;
  }
  return &known.emplace(index, d).first->second;
}

}  // namespace

const Device* find_device(const TensorView& t, std::string& reason) {
  int index = t.device_index;
  if (t.device == DeviceType::cpu)
    if (const cudaError_t error = cudaGetDevice(&index); error != cudaSuccess) {
      cudaGetLastError();
      reason = "needs a CUDA device: " + std::string(cudaGetErrorString(error));
      return nullptr;
    }
  const Device* d = facts(index, reason);
  if (d && t.device == DeviceType::cpu && !d->pageable) {
    reason = name(index) + " cannot read host memory; move the tensors there";
    return nullptr;
  }
  return d;
}

Queue::Queue(const char* op, const TensorView& placed, const Context& context)
    : op_(op), stream_(static_cast<cudaStream_t>(context.stream)), host_tensors_(placed.device == DeviceType::cpu) {
  std::string reason;
  device_ = find_device(placed, reason);
  if (!device_) throw Error(std::string(op) + ": kernel: " + reason);
  int now = -1;
  check(cudaGetDevice(&now), "cudaGetDevice");
  if (now == device_->index) return;
  check(cudaSetDevice(device_->index), "cudaSetDevice");
  before_ = now;
}

Queue::~Queue() {
  if (before_ >= 0) cudaSetDevice(before_);
}

void Queue::check(cudaError_t error, const char* what) const {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it is reported here
  throw Error(std::string(op_) + ": " + name(device_->index) + ": got " + cudaGetErrorName(error) + " (" +
              cudaGetErrorString(error) + ") from " + what +
              ", wanted success; see the CUDA documentation of the error");
}

void Queue::launch(const void* kernel, dim3 grid, int threads, int shared_bytes, void** arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr int kDefaultShared = 48 << 10;
  if (shared_bytes > kDefaultShared) {
    static std::map<std::pair<const void*, int>, int> allowed;
    const std::lock_guard lock(mutex);
    int& bytes = allowed[{kernel, device_->index}];
    if (bytes < shared_bytes) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
            "cudaFuncSetAttribute");
      bytes = shared_bytes;
    }
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream_;
  check(cudaLaunchKernelExC(&config, kernel, arguments), "cudaLaunchKernelExC");
}

void Queue::finish() {
  if (host_tensors_) check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

}  // namespace cuda

bool cuda_copy_to_host(void* to, const void* from, int64_t bytes, int device_index) {
  int before = 0;
  bool ok = cudaGetDevice(&before) == cudaSuccess && cudaSetDevice(device_index) == cudaSuccess;
  ok = ok && cudaDeviceSynchronize() == cudaSuccess &&
       cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost) == cudaSuccess;
  if (!ok) cudaGetLastError();
  cudaSetDevice(before);
  return ok;
}

}  // namespace saccade
