#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "cudart.h"

// The device, its memory, errors and options.
namespace emu {
namespace {

struct Allocation {
  size_t bytes;
  cudaMemoryType type;
};
std::map<std::byte*, Allocation>& allocations() {
  static auto& all = *new std::map<std::byte*, Allocation>;
  return all;
}
/// The allocation that holds p, or end().
auto holder(const void* p) {
  auto* at = static_cast<std::byte*>(const_cast<void*>(p));
  auto next = allocations().upper_bound(at);
  if (next == allocations().begin()) return allocations().end();
  --next;
  return at < next->first + next->second.bytes || at == next->first ? next : allocations().end();
}
/// False: [p, p + bytes) leaves the allocation in which it starts. Host memory is not known and always fits.
bool fits(const void* p, size_t bytes) {
  const auto found = holder(p);
  if (found == allocations().end()) return p || !bytes;
  return static_cast<const std::byte*>(p) + bytes <= found->first + found->second.bytes;
}

thread_local cudaError_t last_error = cudaSuccess;

bool on_off(std::string_view key, std::string_view value) {
  if (value == "on" || value == "1") return true;
  if (value == "off" || value == "0") return false;
  throw std::invalid_argument("SACCADE_EMULATOR: " + std::string(key) + "=" + std::string(value) +
                              ", wanted on or off");
}
bool one_of(std::string_view key, std::string_view value, std::string_view yes, std::string_view no) {
  if (value == yes) return true;
  if (value == no) return false;
  throw std::invalid_argument("SACCADE_EMULATOR: " + std::string(key) + "=" + std::string(value) + ", wanted " +
                              std::string(yes) + " or " + std::string(no));
}
uint64_t number(std::string_view key, std::string_view value, uint64_t least, uint64_t most) {
  char* end = nullptr;
  const std::string text(value);
  const uint64_t n = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end || n < least || n > most) {
    throw std::invalid_argument("SACCADE_EMULATOR: " + std::string(key) + "=" + text + ", wanted a number from " +
                                std::to_string(least) + " to " + std::to_string(most));
  }
  return n;
}

Device& the_device() {
  static Device d;
  return d;
}
void set_arch(std::string_view value) {
  for (const auto& [name, major, minor] :
       {std::tuple{"sm_80", 8, 0}, {"sm_86", 8, 6}, {"sm_89", 8, 9}, {"sm_90", 9, 0}, {"sm_90a", 9, 0}}) {
    if (value != name) continue;
    the_device().major = major;
    the_device().minor = minor;
    the_device().specific = value.back() == 'a';
    return;
  }
  throw std::invalid_argument("SACCADE_EMULATOR: arch=" + std::string(value) +
                              ", wanted sm_80, sm_86, sm_89, sm_90 or sm_90a");
}

void set_option(std::string_view key, std::string_view value) {
  Strict& s = strict();
  if (key == "arch") return set_arch(value);
  if (key == "sm") return void(the_device().sms = static_cast<int>(number(key, value, 1, 1024)));
  if (key == "threads") return void(the_device().threads = static_cast<int>(number(key, value, 0, 1024)));
  if (key == "seed") return void(s.seed = number(key, value, 0, UINT64_MAX));
  if (key == "races") return void(s.races = on_off(key, value));
  if (key == "uninit") return void(s.uninitialised = on_off(key, value));
  if (key == "bounds") return void(s.bounds = on_off(key, value));
  if (key == "untracked") return void(s.untracked = on_off(key, value));
  if (key == "collectives") return void(s.collectives = on_off(key, value));
  if (key == "async") return void(s.adversarial = one_of(key, value, "late", "eager"));
  if (key == "order") return void(s.random_order = one_of(key, value, "random", "fixed"));
  if (key == "print") return void(options().print = on_off(key, value));
  throw std::invalid_argument("SACCADE_EMULATOR: unknown key '" + std::string(key) + "'");
}

cudaError_t allocate(void** out, size_t bytes, cudaMemoryType type, const char* call) {
  const Call entered;
  if (!out) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = refuse_in_capture(call)) return fail(error);
  *out = nullptr;
  if (!bytes) return cudaSuccess;
  if (bytes > size_t{1} << 40) return fail(cudaErrorMemoryAllocation);
  *out = device_malloc(bytes);
  if (!*out) return fail(cudaErrorMemoryAllocation);
  allocations()[static_cast<std::byte*>(*out)] = {bytes, type};
  return cudaSuccess;
}
cudaError_t release_memory(void* p, const char* call) {
  const Call entered;
  if (const cudaError_t error = refuse_in_capture(call)) return fail(error);
  if (!p) return cudaSuccess;
  if (!allocations().erase(static_cast<std::byte*>(p)) || !device_free(p)) return fail(cudaErrorInvalidValue);
  return cudaSuccess;
}

bool valid(cudaMemcpyKind kind) { return kind >= cudaMemcpyHostToHost && kind <= cudaMemcpyDefault; }

cudaError_t copy(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                 cudaMemcpyKind kind, cudaStream_t stream) {
  const Call entered;
  if (!valid(kind)) return fail(cudaErrorInvalidMemcpyDirection);
  if (!width || !height) return cudaSuccess;
  if (height > 1 && (to_pitch < width || from_pitch < width)) return fail(cudaErrorInvalidPitchValue);
  if (!to || !from || !fits(to, (height - 1) * to_pitch + width) || !fits(from, (height - 1) * from_pitch + width)) {
    note("a copy leaves its allocation");
    return fail(cudaErrorInvalidValue);
  }
  return enqueue(stream, cudaGraphNodeTypeMemcpy, [=] {
    for (size_t y = 0; y < height; ++y) {
      std::memmove(static_cast<std::byte*>(to) + y * to_pitch, static_cast<const std::byte*>(from) + y * from_pitch,
                   width);
    }
    return cudaSuccess;
  });
}

cudaError_t fill(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  const Call entered;
  if (!width || !height) return cudaSuccess;
  if (height > 1 && pitch < width) return fail(cudaErrorInvalidPitchValue);
  if (!to || !fits(to, (height - 1) * pitch + width)) {
    note("a memset leaves its allocation");
    return fail(cudaErrorInvalidValue);
  }
  return enqueue(stream, cudaGraphNodeTypeMemset, [=] {
    for (size_t y = 0; y < height; ++y) std::memset(static_cast<std::byte*>(to) + y * pitch, value, width);
    return cudaSuccess;
  });
}

/// The symbol's bytes [offset, offset + bytes), or null with the error kept.
std::byte* symbol_range(const void* symbol, size_t offset, size_t bytes) {
  try {
    const Symbol s = find_symbol(symbol);
    if (!s.address) fail(cudaErrorInvalidSymbol);
    if (s.address && (offset > s.bytes || bytes > s.bytes - offset))
      fail(cudaErrorInvalidValue);
    else if (s.address)
      return s.address + offset;
  } catch (cudaError_t error) {
    fail(error);
  } catch (const Fault& fault) {
    launch_failed(fault.what());
    fail(cudaErrorInvalidPtx);
  }
  return nullptr;
}

}  // namespace

static std::recursive_mutex& api_mutex() {
  static std::recursive_mutex& mutex = *new std::recursive_mutex;
  return mutex;
}
Call::Call() {
  ++saccade_emulator_quiet;
  api_mutex().lock();
}
Call::~Call() {
  api_mutex().unlock();
  --saccade_emulator_quiet;
}

Options& options() {
  static Options o;
  return o;
}

Device& device() {
  static const bool once = [] {
    try {
      if (const char* text = std::getenv("SACCADE_EMULATOR")) set_options(text);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      std::exit(2);
    }
    return true;
  }();
  static_cast<void>(once);
  return the_device();
}

void set_options(std::string_view text) {
  const Call entered;
  while (!text.empty()) {
    const std::string_view item = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), item.size() + 1));
    if (item.empty()) continue;
    const size_t equals = item.find('=');
    if (equals == item.npos)
      throw std::invalid_argument("SACCADE_EMULATOR: '" + std::string(item) + "', wanted key=value");
    set_option(item.substr(0, equals), item.substr(equals + 1));
  }
}

void note(const std::string& text) {
  if (options().print) std::fprintf(stderr, "saccade emulator: %s\n", text.c_str());
}

cudaError_t fail(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace emu

using namespace emu;

__thread int saccade_emulator_quiet = 0;

extern "C" int saccade_emulator_set(const char* text) {
  try {
    device();
    set_options(text);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

extern "C" void saccade_emulator_track(void* p, size_t bytes, int initialised, const char* what) {
  track(p, bytes, true, initialised != 0, what);
}
extern "C" void saccade_emulator_untrack(void* p) { untrack(p); }

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

static const char* error_text(cudaError_t error, bool name) {
#define ERROR(e, text) \
  case e:              \
    return name ? #e : text;
  switch (error) {
    ERROR(cudaSuccess, "no error")
    ERROR(cudaErrorInvalidValue, "invalid argument")
    ERROR(cudaErrorMemoryAllocation, "out of memory")
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument")
    ERROR(cudaErrorInvalidPitchValue, "invalid pitch argument")
    ERROR(cudaErrorInvalidSymbol, "invalid device symbol")
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")
    ERROR(cudaErrorMissingConfiguration, "__global__ function call is not configured")
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function")
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected")
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal")
    ERROR(cudaErrorInvalidPtx, "a PTX compilation failed")
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device")
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle")
    ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state")
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch")
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure")
    ERROR(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch")
    ERROR(cudaErrorInvalidClusterSize, "misconfigured cluster size")
    ERROR(cudaErrorNotSupported, "operation not supported")
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")
    ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")
    ERROR(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")
    ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")
    ERROR(cudaErrorStreamCaptureImplicit,
          "operation would make the legacy stream depend on a capturing blocking stream")
    ERROR(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream")
    default:
      return name ? "cudaErrorUnknown" : "unknown error";
  }
#undef ERROR
}
const char* cudaGetErrorString(cudaError_t error) { return error_text(error, false); }
const char* cudaGetErrorName(cudaError_t error) { return error_text(error, true); }

cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* index) { return *index = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int index) { return fail(index ? cudaErrorInvalidDevice : cudaSuccess); }
cudaError_t cudaInitDevice(int index, unsigned, unsigned) { return cudaSetDevice(index); }
cudaError_t cudaSetDeviceFlags(unsigned) { return cudaSuccess; }
cudaError_t cudaGetDeviceFlags(unsigned* flags) { return *flags = 0, cudaSuccess; }
cudaError_t cudaDeviceReset() { return cudaGetLastError(), cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) { return cudaSuccess; }  // stacks and heaps have none here
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = size_t{16} << 30, cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
  if (!value) return fail(cudaErrorInvalidValue);
  if (index) return fail(cudaErrorInvalidDevice);
  const bool hopper = device().major >= 9;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      *value = 1024;
      break;
    case cudaDevAttrMaxBlockDimZ:
      *value = 64;
      break;
    case cudaDevAttrMaxGridDimX:
      *value = 0x7FFFFFFF;
      break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *value = 65535;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = kSharedDefault;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = limits().shared_cta;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = limits().shared_sm;
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = kSharedReserved;
      break;
    case cudaDevAttrTotalConstantMemory:
      *value = 65536;
      break;
    case cudaDevAttrWarpSize:
      *value = kLanes;
      break;
    case cudaDevAttrMaxPitch:
      *value = 0x7FFFFFFF;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = 65536;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = device().sms;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = limits().threads_sm;
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = limits().ctas_sm;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = device().major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device().minor;
      break;
    case cudaDevAttrL2CacheSize:
      *value = (hopper ? 50 : 40) << 20;
      break;
    case cudaDevAttrClockRate:
      *value = 1'000'000;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 1'000'000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 5120;
      break;
    case cudaDevAttrTextureAlignment:
      *value = 512;
      break;
    case cudaDevAttrClusterLaunch:
      *value = hopper;
      break;
    case cudaDevAttrAsyncEngineCount:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrStreamPrioritiesSupported:
    case cudaDevAttrGlobalL1CacheSupported:
    case cudaDevAttrLocalL1CacheSupported:
    case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrConcurrentManagedAccess:
    case cudaDevAttrPageableMemoryAccess:  // device memory is host memory
    case cudaDevAttrPageableMemoryAccessUsesHostPageTables:
    case cudaDevAttrDirectManagedMemAccessFromHost:
    case cudaDevAttrCanUseHostPointerForRegisteredMem:
    case cudaDevAttrHostNativeAtomicSupported:
      *value = 1;
      break;
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrIntegrated:
    case cudaDevAttrKernelExecTimeout:
    case cudaDevAttrEccEnabled:
    case cudaDevAttrPciBusId:
    case cudaDevAttrPciDeviceId:
    case cudaDevAttrPciDomainId:
    case cudaDevAttrTccDriver:
    case cudaDevAttrIsMultiGpuBoard:
    case cudaDevAttrGPUDirectRDMASupported:
    case cudaDevAttrComputePreemptionSupported:
    case cudaDevAttrComputeMode:
      *value = 0;
      break;
    default:
      note("cudaDeviceGetAttribute: attribute " + std::to_string(attribute));
      return fail(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int index) {
  if (index) return fail(cudaErrorInvalidDevice);
  std::memset(p, 0, sizeof *p);
  auto get = [](cudaDeviceAttr a) {
    int value = 0;
    cudaDeviceGetAttribute(&value, a, 0);
    return value;
  };
  std::snprintf(p->name, sizeof p->name, "emulated sm_%d%d%s", device().major, device().minor,
                device().specific ? "a" : "");
  p->major = device().major;
  p->minor = device().minor;
  p->multiProcessorCount = device().sms;
  p->totalGlobalMem = size_t{16} << 30;
  p->sharedMemPerBlock = kSharedDefault;
  p->sharedMemPerBlockOptin = static_cast<size_t>(limits().shared_cta);
  p->sharedMemPerMultiprocessor = static_cast<size_t>(limits().shared_sm);
  p->reservedSharedMemPerBlock = kSharedReserved;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = kLanes;
  p->memPitch = 0x7FFFFFFF;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7FFFFFFF;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->totalConstMem = 65536;
  p->maxThreadsPerMultiProcessor = limits().threads_sm;
  p->maxBlocksPerMultiProcessor = limits().ctas_sm;
  p->l2CacheSize = get(cudaDevAttrL2CacheSize);
  p->memoryBusWidth = get(cudaDevAttrGlobalMemoryBusWidth);
  p->textureAlignment = 512;
  p->clusterLaunch = get(cudaDevAttrClusterLaunch);
  p->concurrentKernels = p->unifiedAddressing = p->managedMemory = p->canMapHostMemory = p->cooperativeLaunch =
      p->pageableMemoryAccess = p->concurrentManagedAccess = p->streamPrioritiesSupported = p->asyncEngineCount = 1;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t n) { return allocate(p, n, cudaMemoryTypeDevice, "cudaMalloc"); }
cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) {
  return allocate(p, n, cudaMemoryTypeDevice, "cudaMallocAsync");
}
cudaError_t cudaMallocManaged(void** p, size_t n, unsigned) {
  return allocate(p, n, cudaMemoryTypeManaged, "cudaMallocManaged");
}
cudaError_t cudaMallocHost(void** p, size_t n) { return allocate(p, n, cudaMemoryTypeHost, "cudaMallocHost"); }
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { return allocate(p, n, cudaMemoryTypeHost, "cudaHostAlloc"); }
cudaError_t cudaMallocPitch(void** p, size_t* pitch, size_t width, size_t height) {
  *pitch = (width + 511) / 512 * 512;
  return cudaMalloc(p, *pitch * height);
}
cudaError_t cudaFree(void* p) { return release_memory(p, "cudaFree"); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return release_memory(p, "cudaFreeAsync"); }
cudaError_t cudaFreeHost(void* p) { return release_memory(p, "cudaFreeHost"); }
cudaError_t cudaHostGetDevicePointer(void** out, void* p, unsigned) { return *out = p, cudaSuccess; }
cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
  return track(p, n, true, true, "registered host memory"), cudaSuccess;
}
cudaError_t cudaHostUnregister(void* p) { return untrack(p), cudaSuccess; }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p) {
  const Call entered;
  std::memset(out, 0, sizeof *out);
  const auto found = holder(p);
  out->device = -1;
  out->type = cudaMemoryTypeUnregistered;
  out->hostPointer = const_cast<void*>(p);
  if (found == allocations().end()) return cudaSuccess;
  out->type = found->second.type;
  out->device = 0;
  out->devicePointer = const_cast<void*>(p);
  if (out->type == cudaMemoryTypeDevice) out->hostPointer = nullptr;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy(to, n, from, n, n, 1, kind, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind kind) {
  return copy(to, n, from, n, n, 1, kind, nullptr);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int a, const void* from, int b, size_t n, cudaStream_t stream) {
  if (a || b) return fail(cudaErrorInvalidDevice);
  return copy(to, n, from, n, n, 1, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemcpyPeer(void* to, int a, const void* from, int b, size_t n) {
  return cudaMemcpyPeerAsync(to, a, from, b, n, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy(to, to_pitch, from, from_pitch, width, height, kind, stream);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  return copy(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t stream) {
  return fill(p, n, value, n, 1, stream);
}
cudaError_t cudaMemset(void* p, int value, size_t n) { return fill(p, n, value, n, 1, nullptr); }
cudaError_t cudaMemset2DAsync(void* p, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  return fill(p, pitch, value, width, height, stream);
}
cudaError_t cudaMemset2D(void* p, size_t pitch, int value, size_t width, size_t height) {
  return fill(p, pitch, value, width, height, nullptr);
}

cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t n, size_t offset, cudaMemcpyKind kind,
                                    cudaStream_t stream) {
  const Call entered;
  std::byte* at = symbol_range(symbol, offset, n);
  return at ? copy(at, n, from, n, n, 1, kind, stream) : last_error;
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t n, size_t offset, cudaMemcpyKind kind) {
  return cudaMemcpyToSymbolAsync(symbol, from, n, offset, kind, nullptr);
}
cudaError_t cudaMemcpyFromSymbolAsync(void* to, const void* symbol, size_t n, size_t offset, cudaMemcpyKind kind,
                                      cudaStream_t stream) {
  const Call entered;
  std::byte* at = symbol_range(symbol, offset, n);
  return at ? copy(to, n, at, n, n, 1, kind, stream) : last_error;
}
cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t n, size_t offset, cudaMemcpyKind kind) {
  return cudaMemcpyFromSymbolAsync(to, symbol, n, offset, kind, nullptr);
}
cudaError_t cudaGetSymbolAddress(void** out, const void* symbol) {
  const Call entered;
  return (*out = symbol_range(symbol, 0, 0)) ? cudaSuccess : last_error;
}
cudaError_t cudaGetSymbolSize(size_t* size, const void* symbol) {
  const Call entered;
  if (!symbol_range(symbol, 0, 0)) return last_error;
  return *size = find_symbol(symbol).bytes, cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** out, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  *out = driver_entry(symbol);
  if (status) *status = *out ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  if (!*out) note(std::string("cudaGetDriverEntryPoint: ") + symbol + " is not emulated");
  return cudaSuccess;
}
#ifdef __CUDA_DEPRECATED
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** out, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* status) {
  return cudaGetDriverEntryPointByVersion(symbol, out, CUDART_VERSION, flags, status);
}
