#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "cudart.h"

// Launches: what the driver checks of a configuration, function attributes, occupancy, findings and counts.
namespace emu {
namespace {

struct Launched {
  uint64_t launches = 0;
  Counts counts;
};
struct Record {
  std::vector<std::string> findings;
  std::map<std::string, Launched> kernels;
  uint64_t launches = 0;
};
Record& record() {
  static Record& all = *new Record;
  return all;
}

struct Config {
  Dim3 grid, block, cluster;
  int64_t shared = 0;
  bool explicit_cluster = false, cooperative = false;
};

uint64_t count(Dim3 d) { return uint64_t{d.x} * d.y * d.z; }

cudaError_t refuse(cudaError_t error, const Kernel& kernel, const std::string& why) {
  const std::unique_ptr<char, decltype(&std::free)> readable(
      abi::__cxa_demangle(kernel.name.c_str(), nullptr, nullptr, nullptr), &std::free);
  note("launch of " + (readable ? readable.get() : kernel.name) + ": " + why);
  return error;
}

Dim3 directive(const ptx::Function& f, const char* name) {
  const auto found = f.directives.find(name);
  if (found == f.directives.end()) return {0, 0, 0};
  auto at = [&](size_t i) { return i < found->second.size() ? static_cast<uint32_t>(found->second[i]) : 1; };
  return {at(0), at(1), at(2)};
}

bool same(Dim3 a, Dim3 b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

/// The driver's checks, in its order; may complete the cluster from the kernel's own.
cudaError_t check(const Kernel& kernel, const Program& program, Config& c) {
  const ptx::Function& f = *program.function;
  if (!count(c.grid) || c.grid.x > 0x7FFFFFFF || c.grid.y > 65535 || c.grid.z > 65535) {
    return refuse(cudaErrorInvalidConfiguration, kernel, "grid");
  }
  if (!count(c.block) || count(c.block) > 1024 || c.block.x > 1024 || c.block.y > 1024 || c.block.z > 64) {
    return refuse(cudaErrorInvalidConfiguration, kernel, "block");
  }
  const Dim3 most = directive(f, "maxntid"), exact = directive(f, "reqntid");
  if (count(most) && count(c.block) > count(most)) {
    return refuse(cudaErrorInvalidValue, kernel, "more threads than __launch_bounds__");
  }
  if (count(exact) && !same(exact, c.block)) return refuse(cudaErrorInvalidValue, kernel, "not the block of .reqntid");

  const int64_t opted =
      kernel.max_dynamic_shared < 0 ? kSharedDefault - program.shared_bytes : kernel.max_dynamic_shared;
  if (c.shared > opted || program.shared_bytes + c.shared > limits().shared_cta) {
    return refuse(cudaErrorInvalidValue, kernel,
                  std::to_string(program.shared_bytes) + " + " + std::to_string(c.shared) +
                      " bytes of shared memory; cudaFuncAttributeMaxDynamicSharedMemorySize allows " +
                      std::to_string(opted) + " dynamic, the device " + std::to_string(limits().shared_cta));
  }

  const Dim3 wanted = directive(f, "reqnctapercluster");
  if (count(wanted)) {
    if (c.explicit_cluster && !same(wanted, c.cluster)) {
      return refuse(cudaErrorInvalidClusterSize, kernel, "the cluster is not the one it was compiled for");
    }
    c.cluster = wanted;
    c.explicit_cluster = true;
  }
  if (c.explicit_cluster) {
    if (device().major < 9) return refuse(cudaErrorInvalidClusterSize, kernel, "clusters need sm_90");
    const uint64_t size = count(c.cluster);
    if (!size || size > (kernel.any_cluster ? 16u : 8u)) {
      return refuse(cudaErrorInvalidClusterSize, kernel, "cluster of " + std::to_string(size) + " CTAs");
    }
    if (c.grid.x % c.cluster.x || c.grid.y % c.cluster.y || c.grid.z % c.cluster.z) {
      return refuse(cudaErrorInvalidClusterSize, kernel, "the grid is no multiple of the cluster");
    }
  }
  return cudaSuccess;
}

cudaError_t execute(Kernel& kernel, Config c, const std::vector<std::byte, Aligned<std::byte>>& params) try {
  Program& p = program(kernel);
  if (const cudaError_t error = check(kernel, p, c)) return error;
  const int per_sm = occupancy(static_cast<int64_t>(count(c.block)), p.shared_bytes + c.shared, registers(kernel));
  if (!per_sm) return refuse(cudaErrorLaunchOutOfResources, kernel, "one CTA does not fit an SM");
  const uint64_t cluster = count(c.cluster), room = uint64_t(per_sm) * device().sms;
  if (c.cooperative && count(c.grid) > room) {
    return refuse(cudaErrorCooperativeLaunchTooLarge, kernel,
                  "cooperative, " + std::to_string(count(c.grid)) + " CTAs, room for " + std::to_string(room));
  }
  Grid grid;
  grid.program = &p;
  grid.grid = c.grid;
  grid.block = c.block;
  grid.cluster = c.cluster;
  grid.explicit_cluster = c.explicit_cluster;
  grid.dynamic_shared = c.shared;
  grid.params = params;
  grid.resident = static_cast<uint32_t>(std::max(cluster, room / cluster * cluster));
  grid.seed = strict().seed + 0x9E3779B97F4A7C15u * record().launches++;
  struct Tracked {
    const void* at;
    ~Tracked() { untrack(at); }
  } tracked{grid.params.data()};
  track(grid.params.data(), grid.params.size(), false, true, "parameters");
  run(grid);

  Launched& sum = record().kernels[kernel.name];
  ++sum.launches;
  constexpr size_t words = sizeof(Counts) / sizeof(uint64_t);
  uint64_t to[words], from[words];
  static_assert(sizeof(Counts) == sizeof to);
  std::memcpy(to, &sum.counts, sizeof to);
  std::memcpy(from, &last_counts(), sizeof from);
  for (size_t i = 0; i < words; ++i) to[i] += from[i];
  std::memcpy(&sum.counts, to, sizeof to);
  return cudaSuccess;
} catch (cudaError_t error) {
  return error;
} catch (const Fault& fault) {
  return launch_failed(fault.what());
}

cudaError_t launch(const void* func, Config c, void** args, cudaStream_t stream) {
  const Call entered;
  Kernel* kernel = find_kernel(func);
  if (!kernel) return fail(cudaErrorInvalidDeviceFunction);
  try {
    const auto& p = program(*kernel);
    const auto offsets = parameter_offsets(*p.function);
    std::vector<std::byte, Aligned<std::byte>> params(offsets.back());
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      std::memcpy(params.data() + offsets[i], args[i], p.function->params[i].bytes);
    }
    // A launch that is only recorded is checked all the same.
    if (Config checked = c; const cudaError_t error = check(*kernel, p, checked)) return fail(error);
    return enqueue(stream, cudaGraphNodeTypeKernel, [=] { return execute(*kernel, c, params); });
  } catch (cudaError_t error) {
    return fail(error);
  } catch (const Fault& fault) {
    launch_failed(fault.what());
    return fail(cudaErrorInvalidPtx);
  }
}

Dim3 dim(dim3 d) { return {d.x, d.y, d.z}; }

std::vector<Config>& pushed() {
  thread_local std::vector<Config> stack;
  return stack;
}
thread_local std::vector<cudaStream_t> pushed_streams;

/// Copies out as much as fits, with a final 0; the whole size, without it, is returned.
size_t give(const std::string& text, char* buffer, size_t size) {
  if (buffer && size) {
    const size_t n = std::min(text.size(), size - 1);
    std::memcpy(buffer, text.data(), n);
    buffer[n] = 0;
  }
  return text.size();
}

template <class F>
cudaError_t with_kernel(const void* func, F f) {
  const Call entered;
  Kernel* kernel = find_kernel(func);
  if (!kernel) return fail(cudaErrorInvalidDeviceFunction);
  try {
    return fail(f(*kernel, program(*kernel)));
  } catch (cudaError_t error) {
    return fail(error);
  } catch (const Fault& fault) {
    launch_failed(fault.what());
    return fail(cudaErrorInvalidPtx);
  }
}

}  // namespace

cudaError_t launch_failed(const std::string& report) {
  record().findings.push_back(report);
  note(report);
  return cudaErrorLaunchFailure;
}

const Limits& limits() {
  static const std::map<int, Limits> known = {
      {80, {164 * 1024, 163 * 1024, 2048, 32}},
      {86, {100 * 1024, 99 * 1024, 1536, 16}},
      {89, {100 * 1024, 99 * 1024, 1536, 24}},
      {90, {228 * 1024, 227 * 1024, 2048, 32}},
  };
  return known.at(device().major * 10 + device().minor);
}

int occupancy(int64_t threads, int64_t shared, int registers) {
  constexpr int64_t kRegisters = 65536, kPartitions = 4;  // of an SM: each holds its warps' registers, in units of 256
  const Limits& l = limits();
  if (threads < 1 || threads > 1024 || shared > l.shared_cta) return 0;
  const auto up = [](int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; };
  const int64_t warps = up(threads, kLanes) / kLanes;
  int64_t most = std::min<int64_t>(l.ctas_sm, l.threads_sm / (warps * kLanes));
  most = std::min(most, l.shared_sm / up(shared + kSharedReserved, 128));
  if (registers) {
    const int64_t of_warp = up(registers * kLanes, 256);
    if (of_warp * up(warps, kPartitions) > kRegisters) return 0;
    most = std::min(most, kRegisters / kPartitions / of_warp * kPartitions / warps);
  }
  return static_cast<int>(most);
}

std::vector<std::string> take_findings() {
  const Call entered;
  return std::exchange(record().findings, {});
}
uint64_t launches() {
  const Call entered;
  return record().launches;
}

}  // namespace emu

using namespace emu;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  pushed().push_back({dim(grid), dim(block), {}, static_cast<int64_t>(shared)});
  pushed_streams.push_back(stream);
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (pushed().empty()) return fail(cudaErrorMissingConfiguration);
  const Config c = pushed().back();
  *grid = {c.grid.x, c.grid.y, c.grid.z};
  *block = {c.block.x, c.block.y, c.block.z};
  *shared = static_cast<size_t>(c.shared);
  *static_cast<cudaStream_t*>(stream) = pushed_streams.back();
  pushed().pop_back();
  pushed_streams.pop_back();
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* func, dim3 grid, dim3 block, void** args, size_t shared, cudaStream_t stream) {
  return launch(func, {dim(grid), dim(block), {}, static_cast<int64_t>(shared)}, args, stream);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, args, shared, stream);
}
cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared,
                                    cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, args, shared, stream);
}
cudaError_t cudaLaunchCooperativeKernel(const void* func, dim3 grid, dim3 block, void** args, size_t shared,
                                        cudaStream_t stream) {
  Config c{dim(grid), dim(block), {}, static_cast<int64_t>(shared)};
  c.cooperative = true;
  return launch(func, c, args, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* func, void** args) {
  if (!config) return fail(cudaErrorInvalidValue);
  Config c{dim(config->gridDim), dim(config->blockDim), {}, static_cast<int64_t>(config->dynamicSmemBytes)};
  for (const cudaLaunchAttribute& a : std::span(config->attrs, config->numAttrs)) {
    switch (a.id) {
      case cudaLaunchAttributeClusterDimension:
        c.cluster = {a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z};
        c.explicit_cluster = true;
        break;
      case cudaLaunchAttributeCooperative:
        c.cooperative = a.val.cooperative != 0;
        break;
      // Streams are synchronous: the grid before has ended, and there is nothing to be ahead of.
      case cudaLaunchAttributeIgnore:
      case cudaLaunchAttributeProgrammaticStreamSerialization:
      case cudaLaunchAttributePriority:
      case cudaLaunchAttributeAccessPolicyWindow:
      case cudaLaunchAttributeClusterSchedulingPolicyPreference:
      case cudaLaunchAttributePreferredSharedMemoryCarveout:
      case cudaLaunchAttributeMemSyncDomain:
      case cudaLaunchAttributeMemSyncDomainMap:
        break;
      default:
        note("cudaLaunchKernelExC: attribute " + std::to_string(a.id) + " is not known");
        return fail(cudaErrorInvalidValue);
    }
  }
  return launch(func, c, args, config->stream);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, const void* func) {
  return with_kernel(func, [&](Kernel& kernel, Program& p) {
    std::memset(out, 0, sizeof *out);
    const Dim3 most = directive(*p.function, "maxntid"), cluster = directive(*p.function, "reqnctapercluster");
    out->sharedSizeBytes = static_cast<size_t>(p.shared_bytes);
    out->localSizeBytes = static_cast<size_t>(p.local_bytes);
    out->numRegs = registers(kernel);
    out->maxThreadsPerBlock = count(most) ? static_cast<int>(count(most)) : 1024;
    out->ptxVersion = out->binaryVersion = device().major * 10 + device().minor;
    out->maxDynamicSharedSizeBytes =
        kernel.max_dynamic_shared < 0 ? kSharedDefault - static_cast<int>(p.shared_bytes) : kernel.max_dynamic_shared;
    out->preferredShmemCarveout = -1;
    out->clusterDimMustBeSet = count(cluster) != 0;
    out->requiredClusterWidth = static_cast<int>(cluster.x);
    out->requiredClusterHeight = static_cast<int>(cluster.y);
    out->requiredClusterDepth = static_cast<int>(cluster.z);
    out->nonPortableClusterSizeAllowed = kernel.any_cluster;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncSetAttribute(const void* func, cudaFuncAttribute attribute, int value) {
  return with_kernel(func, [&](Kernel& kernel, Program& p) {
    switch (attribute) {
      case cudaFuncAttributeMaxDynamicSharedMemorySize:
        if (value < 0 || value + p.shared_bytes > limits().shared_cta) return cudaErrorInvalidValue;
        kernel.max_dynamic_shared = value;
        return cudaSuccess;
      case cudaFuncAttributePreferredSharedMemoryCarveout:
        return value < -1 || value > 100 ? cudaErrorInvalidValue : cudaSuccess;
      case cudaFuncAttributeNonPortableClusterSizeAllowed:
        kernel.any_cluster = value != 0;
        return cudaSuccess;
      case cudaFuncAttributeClusterSchedulingPolicyPreference:
        return cudaSuccess;
      default:
        note("cudaFuncSetAttribute: attribute " + std::to_string(attribute));
        return cudaErrorInvalidValue;
    }
  });
}

cudaError_t cudaFuncSetCacheConfig(const void* func, cudaFuncCache) {
  return with_kernel(func, [](Kernel&, Program&) { return cudaSuccess; });
}

cudaError_t cudaFuncGetName(const char** name, const void* func) {
  return with_kernel(func, [&](Kernel& kernel, Program&) {
    *name = kernel.name.c_str();
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetParamInfo(const void* func, size_t index, size_t* offset, size_t* size) {
  return with_kernel(func, [&](Kernel&, Program& p) {
    const auto offsets = parameter_offsets(*p.function);
    if (index + 1 >= offsets.size()) return cudaErrorInvalidValue;
    *offset = offsets[index];
    if (size) *size = static_cast<size_t>(p.function->params[index].bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* func) { return __cudaGetKernel(kernel, func); }
cudaError_t cudaGetFuncBySymbol(cudaFunction_t* function, const void* func) {
  return __cudaGetKernel(reinterpret_cast<cudaKernel_t*>(function), func);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* func, int threads,
                                                                   size_t shared, unsigned) {
  return with_kernel(func, [&](Kernel& kernel, Program& p) {
    *blocks = occupancy(threads, p.shared_bytes + static_cast<int64_t>(shared), registers(kernel));
    return cudaSuccess;
  });
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* func, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, func, threads, shared, 0);
}

cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* shared, const void* func, int blocks, int threads) {
  return with_kernel(func, [&](Kernel& kernel, Program& p) {
    if (blocks < 1 || occupancy(threads, p.shared_bytes, registers(kernel)) < blocks) return cudaErrorInvalidValue;
    const int64_t room = limits().shared_sm / blocks / 128 * 128 - kSharedReserved - p.shared_bytes;
    *shared = static_cast<size_t>(std::min<int64_t>(room, limits().shared_cta - p.shared_bytes));
    return cudaSuccess;
  });
}

static cudaError_t clusters(const void* func, const cudaLaunchConfig_t* config, int* active, int* largest) {
  return with_kernel(func, [&](Kernel& kernel, Program& p) {
    Dim3 cluster = directive(*p.function, "reqnctapercluster");
    for (const cudaLaunchAttribute& a : std::span(config->attrs, config->numAttrs)) {
      if (a.id == cudaLaunchAttributeClusterDimension)
        cluster = {a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z};
    }
    const auto room =
        device().sms * occupancy(static_cast<int64_t>(count(dim(config->blockDim))),
                                 p.shared_bytes + static_cast<int64_t>(config->dynamicSmemBytes), registers(kernel));
    const int most = kernel.any_cluster ? 16 : 8;
    if (device().major < 9) return cudaErrorInvalidClusterSize;
    if (largest) *largest = std::min(most, room);
    if (active) {
      const int size = std::max(1, static_cast<int>(count(cluster)));
      if (size > most) return cudaErrorInvalidClusterSize;
      *active = room / size;
    }
    return cudaSuccess;
  });
}
cudaError_t cudaOccupancyMaxActiveClusters(int* active, const void* func, const cudaLaunchConfig_t* config) {
  return clusters(func, config, active, nullptr);
}
cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void* func, const cudaLaunchConfig_t* config) {
  return clusters(func, config, nullptr, size);
}

extern "C" {
size_t saccade_emulator_findings(char* buffer, size_t size) {
  const Call entered;
  std::string all;
  for (const std::string& f : record().findings) all += f + "\n\n";
  return give(all, buffer, size);
}

size_t saccade_emulator_counts(char* buffer, size_t size) {
  const Call entered;
  std::string all;
  for (const auto& [name, sum] : record().kernels) {
    all += "{\"kernel\": \"" + name + "\", \"launches\": " + std::to_string(sum.launches) + ", " + to_json(sum.counts) +
           "}\n";
  }
  return give(all, buffer, size);
}

uint64_t saccade_emulator_launches(void) { return launches(); }

void saccade_emulator_clear(void) {
  const Call entered;
  record() = {};
  cudaGetLastError();
}
}
