#pragma once
// The CUDA runtime's own declarations, exported: the definitions in runtime.cpp, stream.cpp, launch.cpp are what
// programs link.
#pragma GCC visibility push(default)
#include <cuda_runtime_api.h>
extern "C" {  // what nvcc's generated host code calls
void** __cudaRegisterFatBinary(void* wrapper);
void __cudaRegisterFatBinaryEnd(void** image);
void __cudaUnregisterFatBinary(void** image);
void __cudaRegisterFunction(void** image, const char* host, char* device, const char* name, int thread_limit,
                            uint3* tid, uint3* bid, dim3* block, dim3* grid, int* warp);
void __cudaRegisterVar(void** image, char* host, char* device, const char* name, int ext, size_t size, int constant,
                       int global);
void __cudaRegisterManagedVar(void** image, void** host, char* device, const char* name, int ext, size_t size,
                              int constant, int global);
char __cudaInitModule(void** image);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream);
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream);
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared,
                               cudaStream_t stream);
cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared,
                                    cudaStream_t stream);
}
#pragma GCC visibility pop

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime.h"

namespace emu {

struct Image;  // a fat binary: fatbin.cpp

struct Kernel {
  Image* image = nullptr;
  const void* host = nullptr;
  std::string name;
  int max_dynamic_shared = -1;  // −1: not opted in
  bool any_cluster = false;     // non-portable sizes
};

/// A kernel decoded for the device as it is set now. Throws Fault (what it cannot run) or cudaError_t (no PTX for it).
Program& program(Kernel&);
/// Registers a thread, from the machine code of the device's processor (or an older one's); 0: there is none to read.
int registers(const Kernel&);
std::map<std::string, int> cubin_registers(const std::byte* elf);  // cubin.cpp
Kernel* find_kernel(const void* host_or_handle);
std::vector<size_t> parameter_offsets(const ptx::Function&);  // and their end
struct Symbol {
  std::byte* address = nullptr;
  size_t bytes = 0;
};
Symbol find_symbol(const void* host);  // throws like program(); address null: unknown
void load_managed(Image&);

/// Every call of the API holds one: streams are synchronous, so is the runtime.
struct Call {
  Call();
  ~Call();
};
/// Keeps an error for cudaGetLastError.
cudaError_t fail(cudaError_t);
cudaError_t launch_failed(const std::string& report);

/// Runs `work` now, or records it if the stream captures. `needs_legacy`: calls without a stream of their own.
cudaError_t enqueue(cudaStream_t, cudaGraphNodeType, std::function<cudaError_t()> work);
/// What must not happen while a capture is under way: allocation, synchronisation. Invalidates the capture.
cudaError_t refuse_in_capture(const char* call);

struct Limits {  // of one multiprocessor and CTA
  int shared_sm, shared_cta, threads_sm, ctas_sm;
};
const Limits& limits();
constexpr int kSharedReserved = 1024, kSharedDefault = 48 * 1024;
int occupancy(int64_t block_threads, int64_t shared, int registers);  // CTAs an SM; shared: static and dynamic

struct Options {
  bool print = true;
};
Options& options();

}  // namespace emu
