#include <array>

#include "test.h"

// The CUDA runtime itself: launches, memory, symbols, streams, graphs, attributes.
namespace {

__device__ int table[4] = {10, 20, 30, 40};
__device__ int zeroed[2];
__constant__ int constants[4] = {1, 2, 3, 4};
__managed__ int managed = 9;

__global__ void add(int* out, const int* in, int n, int more) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = in[i] + more;
}

TEST(Runtime, LaunchSyntax) {
  std::vector<int> in(1000);
  for (int i = 0; i < 1000; ++i) in[i] = i * i;
  test::Buffer<int> from(in), to(1000);
  add<<<8, 128>>>(to, from, 1000, 7);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(out[i], i * i + 7) << i;
}

__global__ void places(uint32_t* out) {
  const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const uint32_t thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block << 16 | thread;
}

TEST(Runtime, ThreeDimensions) {
  test::Buffer<uint32_t> out(std::vector<uint32_t>(3 * 2 * 2 * 5 * 3 * 4));
  places<<<dim3(3, 2, 2), dim3(5, 3, 4)>>>(out.data());
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], (i / 60) << 16 | i % 60);
}

struct alignas(64) Odd {
  char c;
  double d;
};
struct Large {
  int v[200];
};
__global__ void parameters(char a, short b, const __grid_constant__ Odd odd, float f,
                           const __grid_constant__ Large large, double* out) {
  out[0] = a, out[1] = b, out[2] = odd.c, out[3] = odd.d, out[4] = f, out[5] = large.v[threadIdx.x];
  out[6] = static_cast<double>(reinterpret_cast<uintptr_t>(&odd) % 64);
}

TEST(Runtime, ParametersOfEveryAlignment) {
  test::Buffer<double> out(7);
  Large large{};
  large.v[0] = 6;
  parameters<<<1, 1>>>(1, 2, Odd{3, 4.5}, 5.5f, large, out.data());
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(out.read(), (std::vector<double>{1, 2, 3, 4.5, 5.5, 6, 0}));
}

__global__ void shared_memory(int* out, int n) {
  extern __shared__ int dynamic[];
  __shared__ int fixed[256];
  for (int i = threadIdx.x; i < n; i += blockDim.x) dynamic[i] = i;
  for (int i = threadIdx.x; i < 256; i += blockDim.x) fixed[i] = 2 * i;
  __syncthreads();
  out[threadIdx.x] = dynamic[n - 1 - threadIdx.x] + fixed[threadIdx.x];
}

TEST(Runtime, DynamicSharedMemoryWantsOptingIn) {
  test::Buffer<int> out(32);
  auto launch = [&](int bytes) {
    shared_memory<<<1, 32, bytes>>>(out.data(), bytes / 4);
    cudaDeviceSynchronize();
    return cudaGetLastError();
  };
  cudaFuncAttributes attributes;
  ASSERT_CUDA(cudaFuncGetAttributes(&attributes, shared_memory));
  EXPECT_EQ(attributes.sharedSizeBytes, 1024);
  EXPECT_EQ(attributes.maxDynamicSharedSizeBytes, 48 * 1024 - 1024);
  EXPECT_EQ(launch(47 * 1024), cudaSuccess);
  EXPECT_EQ(out.read()[1], 47 * 256 - 2 + 2);
  EXPECT_EQ(launch(48 * 1024), cudaErrorInvalidValue);
  int most = 0;
  ASSERT_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  EXPECT_EQ(cudaFuncSetAttribute(shared_memory, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
            cudaErrorInvalidValue);
  cudaGetLastError();
  ASSERT_CUDA(cudaFuncSetAttribute(shared_memory, cudaFuncAttributeMaxDynamicSharedMemorySize, most - 1024));
  EXPECT_EQ(launch(most - 1024), cudaSuccess);
  EXPECT_EQ(launch(most - 1020), cudaErrorInvalidValue);
}

__global__ void nothing() {}
__global__ void __launch_bounds__(128) bounded(int* out) { out[threadIdx.x] = 1; }

TEST(Runtime, RefusesWhatTheDriverRefuses) {
  auto launch = [](dim3 grid, dim3 block) {
    nothing<<<grid, block>>>();
    return cudaGetLastError();
  };
  EXPECT_EQ(launch(1, 1024), cudaSuccess);
  EXPECT_EQ(launch(1, 1025), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, dim3(1, 1, 65)), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(0, 32), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(dim3(1, 65536), 32), cudaErrorInvalidConfiguration);
  test::Buffer<int> out(256);
  bounded<<<1, 256>>>(out.data());
  EXPECT_NE(cudaGetLastError(), cudaSuccess);
  static const int host = 0;
  EXPECT_EQ(cudaLaunchKernel(&host, 1, 1, nullptr, 0, nullptr), cudaErrorInvalidDeviceFunction);
  cudaGetLastError();
  nothing<<<1, 32, 0, cudaStreamPerThread>>>();
  EXPECT_TRUE(test::ok());
}

__global__ void ranks(uint32_t* out) {
  uint32_t rank, id, size;
  asm("mov.u32 %0, %%cluster_ctarank; mov.u32 %1, %%clusterid.x; mov.u32 %2, %%cluster_nctarank;"
      : "=r"(rank), "=r"(id), "=r"(size));
  if (threadIdx.x == 0) out[blockIdx.x] = id << 16 | size << 8 | rank;
}
__global__ void __cluster_dims__(2, 1, 1) pairs(uint32_t* out) {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  if (threadIdx.x == 0) out[blockIdx.x] = rank;
}

TEST(Runtime, Clusters) {
  test::Buffer<uint32_t> out(std::vector<uint32_t>(8));
  cudaLaunchAttribute attribute[2] = {};
  attribute[0].id = cudaLaunchAttributeClusterDimension;
  attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
  attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = 8;
  config.blockDim = 32;
  config.attrs = attribute;
  config.numAttrs = 2;
  auto launch = [&](unsigned size) {
    attribute[0].val.clusterDim.x = size;
    const cudaError_t error = cudaLaunchKernelEx(&config, ranks, out.data());
    cudaGetLastError();
    return error;
  };
  ASSERT_EQ(launch(4), cudaSuccess);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(out.read(), (std::vector<uint32_t>{0x400, 0x401, 0x402, 0x403, 0x10400, 0x10401, 0x10402, 0x10403}));
  EXPECT_NE(launch(3), cudaSuccess);
  EXPECT_NE(launch(16), cudaSuccess);
  int clusters = 0;
  attribute[0].val.clusterDim.x = 2;
  ASSERT_CUDA(cudaOccupancyMaxActiveClusters(&clusters, ranks, &config));
  EXPECT_GT(clusters, 0);
  attribute[0].id = static_cast<cudaLaunchAttributeID>(99);
  EXPECT_NE(launch(1), cudaSuccess);

  pairs<<<8, 32>>>(out.data());
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(out.read(), (std::vector<uint32_t>{0, 1, 0, 1, 0, 1, 0, 1}));
  pairs<<<7, 32>>>(out.data());
  EXPECT_NE(cudaGetLastError(), cudaSuccess);
}

__global__ void read_symbols(int* out) {
  const int i = threadIdx.x;
  out[i] = i < 4 ? table[i] : i < 8 ? constants[i - 4] : i < 10 ? zeroed[i - 8] : managed;
}

TEST(Runtime, Symbols) {
  test::Buffer<int> out(11);
  auto run = [&] {
    read_symbols<<<1, 11>>>(out.data());
    EXPECT_TRUE(test::ok());
    return out.read();
  };
  EXPECT_EQ(run(), (std::vector<int>{10, 20, 30, 40, 1, 2, 3, 4, 0, 0, 9}));
  const int other[2] = {-1, -2};
  ASSERT_CUDA(cudaMemcpyToSymbol(table, other, 8, 8));
  ASSERT_CUDA(cudaMemcpyToSymbol(constants, other, 8));
  managed = 11;
  EXPECT_EQ(run(), (std::vector<int>{10, 20, -1, -2, -1, -2, 3, 4, 0, 0, 11}));
  int back[4] = {};
  ASSERT_CUDA(cudaMemcpyFromSymbol(back, constants, 12, 4));
  EXPECT_EQ(back[0], -2);
  EXPECT_EQ(back[2], 4);
  void* address = nullptr;
  size_t size = 0;
  ASSERT_CUDA(cudaGetSymbolAddress(&address, table));
  ASSERT_CUDA(cudaGetSymbolSize(&size, table));
  EXPECT_EQ(size, 16);
  ASSERT_CUDA(cudaMemset(address, 0, 4));
  EXPECT_EQ(run()[0], 0);
  EXPECT_EQ(cudaMemcpyToSymbol(table, other, 8, 12), cudaErrorInvalidValue);
  static int host;
  EXPECT_EQ(cudaGetSymbolAddress(&address, host), cudaErrorInvalidSymbol);
  cudaGetLastError();
  const int first[4] = {10, 20, 30, 40}, second[4] = {1, 2, 3, 4};  // for --gtest_repeat
  cudaMemcpyToSymbol(table, first, 16);
  cudaMemcpyToSymbol(constants, second, 16);
  managed = 9;
}

TEST(Runtime, PitchedCopies) {
  std::vector<int> host(6 * 10);
  for (int i = 0; i < 60; ++i) host[i] = i;
  test::Buffer<int> device(std::vector<int>(4 * 16, -1));
  ASSERT_CUDA(cudaMemcpy2D(device, 64, host.data(), 40, 40, 4, cudaMemcpyHostToDevice));
  ASSERT_CUDA(cudaMemset2D(device.data() + 2, 64, 0, 8, 3));
  const auto got = device.read();
  for (int y = 0; y < 4; ++y) {
    for (int x = 0; x < 16; ++x) {
      ASSERT_EQ(got[y * 16 + x], x >= 10 ? -1 : (y < 3 && (x == 2 || x == 3)) ? 0 : y * 10 + x) << y << " " << x;
    }
  }
  EXPECT_EQ(cudaMemcpy2D(device, 32, host.data(), 40, 40, 4, cudaMemcpyHostToDevice), cudaErrorInvalidPitchValue);
  EXPECT_EQ(cudaMemcpy(device, host.data(), 4, static_cast<cudaMemcpyKind>(9)), cudaErrorInvalidMemcpyDirection);
  cudaGetLastError();
}

TEST(Runtime, Pointers) {
  test::Buffer<int> device(4);
  int host = 0;
  cudaPointerAttributes a;
  ASSERT_CUDA(cudaPointerGetAttributes(&a, device.data() + 3));
  EXPECT_EQ(a.type, cudaMemoryTypeDevice);
  ASSERT_CUDA(cudaPointerGetAttributes(&a, &host));
  EXPECT_EQ(a.type, cudaMemoryTypeUnregistered);
  int* pinned = nullptr;
  ASSERT_CUDA(cudaMallocHost(&pinned, 16));
  ASSERT_CUDA(cudaPointerGetAttributes(&a, pinned));
  EXPECT_EQ(a.type, cudaMemoryTypeHost);
  ASSERT_CUDA(cudaFreeHost(pinned));
  EXPECT_EQ(cudaFree(device.data() + 1), cudaErrorInvalidValue);
  cudaGetLastError();
  ASSERT_CUDA(cudaFree(nullptr));
}

TEST(Runtime, Events) {
  cudaEvent_t a, b;
  ASSERT_CUDA(cudaEventCreate(&a));
  ASSERT_CUDA(cudaEventCreate(&b));
  float ms = -1;
  EXPECT_EQ(cudaEventElapsedTime(&ms, a, b), cudaErrorInvalidResourceHandle);
  cudaGetLastError();
  ASSERT_CUDA(cudaEventRecord(a));
  nothing<<<1, 32>>>();
  ASSERT_CUDA(cudaEventRecord(b));
  ASSERT_CUDA(cudaEventSynchronize(b));
  ASSERT_CUDA(cudaEventElapsedTime(&ms, a, b));
  EXPECT_GE(ms, 0);
  ASSERT_CUDA(cudaEventDestroy(a));
  ASSERT_CUDA(cudaEventDestroy(b));
}

class Capture : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    ASSERT_CUDA(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    ASSERT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  void TearDown() override {
    cudaStreamDestroy(stream);
    cudaStreamDestroy(other);
    cudaEventDestroy(event);
    cudaGetLastError();
  }
  cudaStream_t stream, other;
  cudaEvent_t event;
  cudaGraph_t graph = nullptr;
};

TEST_F(Capture, RecordsAndReplays) {
  test::Buffer<int> a(std::vector<int>(64, 1)), b(std::vector<int>(64, 100));
  ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  cudaStreamCaptureStatus status;
  ASSERT_CUDA(cudaStreamIsCapturing(stream, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  ASSERT_CUDA(cudaMemsetAsync(b, 0, 128, stream));
  add<<<2, 32, 0, stream>>>(a.data(), a.data(), 64, 1);
  ASSERT_CUDA(cudaEventRecord(event, stream));  // a fork
  ASSERT_CUDA(cudaStreamWaitEvent(other, event));
  add<<<2, 32, 0, other>>>(b.data(), a.data(), 64, 0);
  ASSERT_CUDA(cudaEventRecord(event, other));  // and its end
  ASSERT_CUDA(cudaStreamWaitEvent(stream, event));
  ASSERT_CUDA(cudaStreamEndCapture(stream, &graph));
  EXPECT_EQ(a.read()[0], 1);  // nothing ran
  EXPECT_EQ(b.read()[0], 100);

  size_t count = 0;
  ASSERT_CUDA(cudaGraphGetNodes(graph, nullptr, &count));
  ASSERT_EQ(count, 3);
  std::array<cudaGraphNode_t, 3> nodes;
  ASSERT_CUDA(cudaGraphGetNodes(graph, nodes.data(), &count));
  int kernels = 0, memsets = 0;
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    ASSERT_CUDA(cudaGraphNodeGetType(node, &type));
    kernels += type == cudaGraphNodeTypeKernel;
    memsets += type == cudaGraphNodeTypeMemset;
  }
  EXPECT_EQ(kernels, 2);
  EXPECT_EQ(memsets, 1);

  cudaGraphExec_t exec;
  ASSERT_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  ASSERT_CUDA(cudaGraphDestroy(graph));
  for (int i = 0; i < 3; ++i) ASSERT_CUDA(cudaGraphLaunch(exec, stream));
  ASSERT_CUDA(cudaStreamSynchronize(stream));
  ASSERT_CUDA(cudaGraphExecDestroy(exec));
  EXPECT_EQ(a.read(), std::vector<int>(64, 4));
  EXPECT_EQ(b.read(), std::vector<int>(64, 4));
}

TEST_F(Capture, RefusesAllocation) {
  ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 64), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(graph, nullptr);
}

TEST_F(Capture, RefusesSynchronisation) {
  ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
}

TEST_F(Capture, RefusesUnjoinedWork) {
  ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  ASSERT_CUDA(cudaEventRecord(event, stream));
  ASSERT_CUDA(cudaStreamWaitEvent(other, event));
  nothing<<<1, 32, 0, other>>>();
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnjoined);
}

TEST_F(Capture, RefusesTheDefaultStream) {
  cudaStream_t blocking;
  ASSERT_CUDA(cudaStreamCreate(&blocking));
  ASSERT_CUDA(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeGlobal));
  nothing<<<1, 32>>>();
  EXPECT_EQ(cudaGetLastError(), cudaErrorStreamCaptureImplicit);
  EXPECT_EQ(cudaStreamEndCapture(blocking, &graph), cudaErrorStreamCaptureInvalidated);
  ASSERT_CUDA(cudaStreamDestroy(blocking));
}

TEST(Runtime, Occupancy) {
  cudaDeviceProp p;
  ASSERT_CUDA(cudaGetDeviceProperties(&p, 0));
  EXPECT_EQ(p.warpSize, 32);
  int blocks = 0;
  ASSERT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 1024, 0));
  EXPECT_EQ(blocks, p.maxThreadsPerMultiProcessor / 1024);
  ASSERT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 32, 0));
  EXPECT_EQ(blocks, p.maxBlocksPerMultiProcessor);
  ASSERT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 32, 40 * 1024));
  EXPECT_EQ(blocks, static_cast<int>(p.sharedMemPerMultiprocessor / (41 * 1024)));
  cudaFuncAttributes a;
  ASSERT_CUDA(cudaFuncGetAttributes(&a, bounded));
  EXPECT_EQ(a.maxThreadsPerBlock, 128);
  EXPECT_EQ(a.ptxVersion, 90);
  EXPECT_GE(a.numRegs, 4);  // what ptxas gave it: few, whatever its version
  EXPECT_LE(a.numRegs, 32);
}

#if SACCADE_EMULATED

__global__ void store(int* out, int at) { out[at] = 1; }

TEST(Emulated, AFindingIsALaunchFailureAndIsKept) {
  const test::Options quiet("print=off");
  test::Buffer<int> out(std::vector<int>(4));
  store<<<1, 1>>>(out.data(), 4);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorLaunchFailure);
  EXPECT_TRUE(test::found({"out of bounds", "store"}));
  store<<<1, 1>>>(out.data(), 3);
  EXPECT_TRUE(test::ok());
  EXPECT_TRUE(emu::take_findings().empty());
}

TEST(Emulated, CopiesStayInTheirAllocation) {
  const test::Options quiet("print=off");
  test::Buffer<int> out(4);
  int host[5] = {};
  EXPECT_EQ(cudaMemcpy(out, host, 20, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(out.data() + 1, 0, 16), cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST(Emulated, OptionsAreChecked) {
  EXPECT_THROW(emu::set_options("racs=off"), std::invalid_argument);
  EXPECT_THROW(emu::set_options("races=maybe"), std::invalid_argument);
  EXPECT_THROW(emu::set_options("arch=sm_75"), std::invalid_argument);
  EXPECT_THROW(emu::set_options("sm=0"), std::invalid_argument);
  EXPECT_THROW(emu::set_options("sm"), std::invalid_argument);
  const test::Options options("arch=sm_80,sm=7,races=off,seed=12,async=eager");
  EXPECT_FALSE(emu::strict().races);
  EXPECT_FALSE(emu::strict().adversarial);
  EXPECT_EQ(emu::strict().seed, 12);
  cudaDeviceProp p;
  ASSERT_CUDA(cudaGetDeviceProperties(&p, 0));
  EXPECT_EQ(p.major * 10 + p.minor, 80);
  EXPECT_EQ(p.multiProcessorCount, 7);
  EXPECT_EQ(p.sharedMemPerBlockOptin, 163 * 1024);
  EXPECT_EQ(p.clusterLaunch, 0);
}

TEST(Emulated, ArchitectureSpecificPtxRunsOnlyThere) {
  for (const char* arch : {"arch=sm_80,print=off", "arch=sm_90,print=off"}) {
    const test::Options options(arch);
    nothing<<<1, 1>>>();
    EXPECT_EQ(cudaGetLastError(), cudaErrorNoKernelImageForDevice) << arch;
  }
}

TEST(Emulated, ClusterLimits) {
  const test::Options options("sm=3");
  cudaLaunchAttribute cooperative = {};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.blockDim = 1024;  // two an SM
  config.attrs = &cooperative;
  config.numAttrs = 1;
  config.gridDim = 6;
  EXPECT_EQ(cudaLaunchKernelEx(&config, nothing), cudaSuccess);
  config.gridDim = 7;
  EXPECT_EQ(cudaLaunchKernelEx(&config, nothing), cudaErrorCooperativeLaunchTooLarge);
  cudaGetLastError();
}

TEST(Emulated, CountsAndFindingsForPython) {
  const test::Options quiet("print=off");
  saccade_emulator_clear();
  test::Buffer<int> out(std::vector<int>(4));
  store<<<2, 32>>>(out.data(), 0);
  cudaGetLastError();
  store<<<1, 1>>>(out.data(), 0);
  store<<<1, 1>>>(out.data(), -1);
  cudaGetLastError();
  EXPECT_GE(saccade_emulator_launches(), 2);
  std::string json(saccade_emulator_counts(nullptr, 0) + 1, 0);
  EXPECT_EQ(saccade_emulator_counts(json.data(), json.size()), json.size() - 1);
  EXPECT_NE(json.find("\"kernel\": \"_Z"), json.npos) << json;
  EXPECT_NE(json.find("\"store_global\": "), json.npos) << json;
  char some[8];
  EXPECT_GT(saccade_emulator_findings(some, sizeof some), sizeof some);
  EXPECT_EQ(std::strlen(some), 7);
  saccade_emulator_clear();
  EXPECT_EQ(saccade_emulator_findings(some, sizeof some), 0);
  EXPECT_EQ(saccade_emulator_counts(nullptr, 0), 0);
  EXPECT_EQ(saccade_emulator_set("arch=sm_12"), 1);
}

#endif

}  // namespace
