#include "test.h"

#if SACCADE_EMULATED
#include <cuda_pipeline.h>

#include <functional>

// Planted faults: a kernel with exactly one mistake, which must be reported in the right words, and its repaired twin,
// which must pass. `right` is the twin. Orders of warps and CTAs differ by seed; a finding must not depend on them.
namespace {

void expect(const char* name, const std::function<void(bool right)>& launch, std::initializer_list<const char*> texts) {
  for (const char* options : {"seed=1,print=off", "seed=2,print=off", "seed=3,print=off,threads=1"}) {
    SCOPED_TRACE(std::string(name) + ", " + options);
    const test::Options scope(options);
    launch(false);
    EXPECT_TRUE(test::found(texts));
    launch(true);
    EXPECT_TRUE(test::ok());
  }
}

// ---- bounds ----

__global__ void read_global(const float* in, float* out, int n, bool right) {
  const int i = threadIdx.x;
  if (right ? i < n : i <= n) out[i] = in[i];
}
TEST(Bounds, Global) {
  test::Buffer<float> in(std::vector<float>(40, 1.f)), out(64);
  expect("read", [&](bool right) { read_global<<<1, 64>>>(in, out, 40, right); },
         {"read of 4 bytes out of bounds", "0 bytes behind the 160 bytes", "lane 8", "warp 1", "ld.global"});
}

__global__ void write_global(float4* out, int n, bool right) {
  out[static_cast<int>(threadIdx.x) - (right ? 0 : 1)] = float4{};
}
TEST(Bounds, GlobalBefore) {
  test::Buffer<float4> out(32);
  expect("write", [&](bool right) { write_global<<<1, 32>>>(out, 32, right); },
         {"write of 16 bytes out of bounds", "16 bytes before the 512 bytes", "lane 0"});
}

__global__ void shared_bounds(float* out, int at, bool right) {
  extern __shared__ float dynamic[];
  dynamic[right ? threadIdx.x : threadIdx.x + at] = 1.f;
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x];
}
TEST(Bounds, Shared) {
  test::Buffer<float> out(32);
  expect("shared", [&](bool right) { shared_bounds<<<1, 32, 128>>>(out, 1, right); },
         {"write of 4 bytes out of bounds", "byte 128 of 128 bytes of shared memory", "lane 31"});
}

__global__ void local_bounds(const int* index, float* out) {
  float keep[8];
  for (int i = 0; i < 8; ++i) keep[i] = out[i];
  keep[index[threadIdx.x]] = 1.f;
  for (int i = 0; i < 8; ++i) out[i + 8 * threadIdx.x] += keep[(i + index[threadIdx.x]) & 7];
}
TEST(Bounds, Local) {
  std::vector<int> index(32, 3);
  test::Buffer<int> good(index);
  index[5] = 1000;
  test::Buffer<int> bad(index);
  test::Buffer<float> out(std::vector<float>(8 * 32 + 8));
  const test::Options races("races=off");
  expect("local", [&](bool right) { local_bounds<<<1, 32>>>(right ? good : bad, out); },
         {"write of 4 bytes out of bounds", "bytes of local memory", "lane 5"});
}

__global__ void misaligned(const char* in, float* out, bool right) {
  const int offset = right ? 4 : 2;
  out[threadIdx.x] = *reinterpret_cast<const float*>(in + 4 * threadIdx.x + offset);
}
TEST(Bounds, Misaligned) {
  test::Buffer<char> in(std::vector<char>(256));
  test::Buffer<float> out(32);
  expect("misaligned", [&](bool right) { misaligned<<<1, 32>>>(in, out, right); },
         {"read of 4 bytes at the misaligned address", "a multiple of 4"});
}

__constant__ float constants[4];
__global__ void write_constant(float* out, bool right) {
  const float* to = right ? out : constants;
  asm volatile("st.f32 [%0], %1;" ::"l"(to), "f"(1.f) : "memory");
}
TEST(Bounds, ReadOnly) {
  test::Buffer<float> out(4);
  expect("constant", [&](bool right) { write_constant<<<1, 1>>>(out, right); },
         {"write of 4 bytes to read-only memory"});
}

// ---- uninitialised ----

__global__ void uninitialised_shared(float* out, bool right) {
  __shared__ float s[64];
  if (right || threadIdx.x != 7) s[threadIdx.x] = 1.f;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}
TEST(Uninitialised, Shared) {
  test::Buffer<float> out(32);
  expect("shared", [&](bool right) { uninitialised_shared<<<1, 32>>>(out, right); },
         {"read of uninitialised shared memory", "4 bytes at byte 28", "lane 6"});
}

__global__ void copy(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }
TEST(Uninitialised, Global) {
  test::Buffer<float> in(32), written(std::vector<float>(32)), out(32);
  expect("global", [&](bool right) { copy<<<1, 32>>>(right ? written : in, out); },
         {"read of 4 bytes of uninitialised global memory", "byte 0 of the 128 bytes"});
}

__global__ void partial(float* out, bool right) {
  if (right || threadIdx.x != 9) out[threadIdx.x] = 0.f;
}
TEST(Uninitialised, OutputLeftOut) {  // what a kernel forgot to write is caught where it is read
  test::Buffer<float> out(32);
  test::Buffer<float> fresh[3]{test::Buffer<float>(32), test::Buffer<float>(32), test::Buffer<float>(32)};
  int round = 0;
  expect("output",
         [&](bool right) {
           float* to = fresh[right ? round++ : round];
           partial<<<1, 32>>>(to, right);
           copy<<<1, 32>>>(to, out);
         },
         {"of uninitialised global memory", "byte 36 of the 128 bytes", "lane 9"});
}

// ---- races in a CTA ----

__global__ void missing_barrier(float* out, bool right) {
  __shared__ float s[64];
  s[threadIdx.x] = 1.f;
  if (right) __syncthreads();
  out[threadIdx.x] = s[63 - threadIdx.x];
}
TEST(Race, SharedMissingBarrier) {
  test::Buffer<float> out(64);
  const test::Options uninit("uninit=off");
  expect("barrier", [&](bool right) { missing_barrier<<<1, 64>>>(out, right); },
         {"data race", "of shared memory", "no barrier", "st.shared", "ld.shared", "warp 0", "warp 1"});
}

__global__ void missing_syncwarp(float* out, bool right) {
  __shared__ float s[32];
  s[threadIdx.x] = 1.f;
  if (right) __syncwarp();
  out[threadIdx.x] = s[31 - threadIdx.x];
}
TEST(Race, LanesOfAWarp) {
  test::Buffer<float> out(32);
  expect("lanes", [&](bool right) { missing_syncwarp<<<1, 32>>>(out, right); },
         {"data race", "lanes of one warp, no bar.warp.sync"});
}

__global__ void reused_buffer(float* out, bool right) {
  __shared__ float s[64];
  s[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = s[63 - threadIdx.x];
  if (right) __syncthreads();
  s[threadIdx.x] = 2;
}
TEST(Race, SharedWriteAfterRead) {
  test::Buffer<float> out(64);
  expect("reuse", [&](bool right) { reused_buffer<<<1, 64>>>(out, right); },
         {"data race with the", "of shared memory", "no barrier", "st.shared", "ld.shared"});
}

// Bytes next to one another are not a race; the same byte is.
__global__ void bytes(uint8_t* out, bool right) {
  __shared__ uint8_t s[256];
  const int at = right ? threadIdx.x : threadIdx.x / 2 * 2;
  s[at] = static_cast<uint8_t>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = s[at];
}
TEST(Race, Bytes) {
  test::Buffer<uint8_t> out(64);
  expect("bytes", [&](bool right) { bytes<<<1, 64>>>(out, right); },
         {"data race with the write by", "lanes of one warp"});
}

__global__ void same_value(int* out, bool right) {  // all lanes store one value: no race, however they come
  __shared__ int s;
  s = right ? 5 : threadIdx.x;
  __syncwarp();
  out[threadIdx.x] = s;
}
TEST(Race, SameValueOfOneInstruction) {
  test::Buffer<int> out(32);
  expect("same", [&](bool right) { same_value<<<1, 32>>>(out, right); },
         {"data race with the write by", "lanes of one warp"});
}

__global__ void shared_counter(int* out, bool right) {
  __shared__ int s;
  if (threadIdx.x == 0) s = 0;
  __syncthreads();
  if (right)
    atomicAdd(&s, 1);
  else
    s = s + 1;
  __syncthreads();
  out[threadIdx.x] = s;
}
TEST(Race, Atomics) {
  test::Buffer<int> out(64);
  expect("atomics", [&](bool right) { shared_counter<<<1, 64>>>(out, right); }, {"data race"});
  EXPECT_EQ(out.read(), std::vector<int>(64, 64));
}

// ---- races in global memory ----

__global__ void neighbours(int* data, int* out, bool right) {  // CTA b reads what CTA b - 1 writes
  data[blockIdx.x] = 1;
  if (!right && blockIdx.x) out[blockIdx.x] = data[blockIdx.x - 1];
}
TEST(Race, GlobalAcrossCtas) {
  test::Buffer<int> data(std::vector<int>(8)), out(8);
  expect("ctas", [&](bool right) { neighbours<<<8, 1>>>(data, out, right); },
         {"data race", "global 0x", "another CTA, no release and acquire"});
}

template <int kHow>  // 0: plain, 1: release and acquire, 2: fences around relaxed accesses, 3: relaxed without fences
__global__ void message(int* data, int* flag, int* out) {
  if (blockIdx.x == 0) {
    data[threadIdx.x] = 7;
    __syncthreads();
    if (threadIdx.x == 0) {
      if (kHow == 0) asm volatile("st.global.u32 [%0], 1;" ::"l"(flag) : "memory");
      if (kHow == 1) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
      if (kHow == 2) __threadfence();
      if (kHow >= 2) asm volatile("st.relaxed.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
    }
  } else {
    if (threadIdx.x == 0) {
      int seen = 0;
      while (!seen) {
        if (kHow == 0) asm volatile("ld.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
        if (kHow == 1) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
        if (kHow >= 2) asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
      }
      if (kHow == 2) __threadfence();
    }
    __syncthreads();
    out[threadIdx.x] = data[threadIdx.x];
  }
}
TEST(Race, MessagePassing) {
  test::Buffer<int> data(64), flag(1), out(64);
  const auto start = [&] { flag.write({0}); };
  expect("plain flag",
         [&](bool right) {
           start(), right ? message<1><<<2, 64>>>(data, flag, out) : message<0><<<2, 64>>>(data, flag, out);
         },
         {"data race", "another CTA, no release and acquire"});
  expect("fences",
         [&](bool right) {
           start(), right ? message<2><<<2, 64>>>(data, flag, out) : message<3><<<2, 64>>>(data, flag, out);
         },
         {"data race", "another CTA, no release and acquire"});
  EXPECT_EQ(out.read(), std::vector<int>(64, 7));
}

__global__ void last_block(int* data, unsigned* count, int* out,
                           bool right) {  // the last CTA sums what all have written
  __shared__ bool last;
  data[blockIdx.x * 64 + threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) {
    if (right) __threadfence();
    last = atomicAdd(count, 1) == gridDim.x - 1;
    if (right) __threadfence();
  }
  __syncthreads();
  if (!last) return;
  int sum = 0;
  for (int b = 0; b < gridDim.x; ++b) sum += data[b * 64 + threadIdx.x];
  out[threadIdx.x] = sum;
}
TEST(Race, LastBlock) {
  test::Buffer<int> data(64 * 16), out(64);
  test::Buffer<unsigned> count(1);
  expect("last block", [&](bool right) { count.write({0}), last_block<<<16, 64>>>(data, count, out, right); },
         {"data race", "another CTA"});
  EXPECT_EQ(out.read(), std::vector<int>(64, 16));
}

__global__ void elected_release(int* data, int* flag, int* out, bool right) {  // lane 0 publishes what its warp wrote
  if (blockIdx.x == 0) {
    data[threadIdx.x] = 3;
    if (right) __syncwarp();
    if (threadIdx.x == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
  } else {
    int seen = 0;
    while (!seen) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    out[threadIdx.x] = data[threadIdx.x];
  }
}
TEST(Race, ReleaseByOneLane) {
  test::Buffer<int> data(32), flag(1), out(32);
  expect("elected", [&](bool right) { flag.write({0}), elected_release<<<2, 32>>>(data, flag, out, right); },
         {"data race", "another CTA"});
}

// ---- collectives ----

__global__ void barrier_count(int* out, bool right) {
  __shared__ int s[96];
  s[threadIdx.x] = threadIdx.x;
  if (threadIdx.x < 64) {
    if (right)
      asm volatile("bar.sync 1, 64;" ::: "memory");
    else
      asm volatile("bar.sync 1, 96;" ::: "memory");
    out[threadIdx.x] = s[63 - threadIdx.x];
  }
}
TEST(Collective, BarrierCount) {
  test::Buffer<int> out(64);
  expect("count", [&](bool right) { barrier_count<<<1, 96>>>(out, right); }, {"deadlock", "bar.sync", "64 of 96"});
}

__global__ void skipped_barrier(int* out, bool right) {
  if (right || threadIdx.x / 32 != 1) asm volatile("bar.sync 0, 128;" ::: "memory");
  out[threadIdx.x] = 1;
}
TEST(Collective, Deadlock) {
  test::Buffer<int> out(128);
  expect("skipped", [&](bool right) { skipped_barrier<<<1, 128>>>(out, right); },
         {"deadlock", "warp 0", "warp 2", "warp 3", "bar.sync"});
}

__global__ void divergent_shuffle(int* out, bool right) {
  int v = threadIdx.x;
  if (right || threadIdx.x < 16)
    asm volatile("shfl.sync.bfly.b32 %0, %0, 1, 31, -1;" : "+r"(v));
  else
    asm volatile("shfl.sync.bfly.b32 %0, %0, 2, 31, -1;" : "+r"(v));
  out[threadIdx.x] = v;
}
TEST(Collective, Divergent) {
  test::Buffer<int> out(32);
  expect("shuffle", [&](bool right) { divergent_shuffle<<<1, 32>>>(out, right); }, {"divergent collective", "shfl"});
}

// ---- cp.async ----

enum class Fault { none, no_wait, no_barrier, overwritten, source };
__device__ void copy16(float4* to, const float4* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
__global__ void copies(float4* in, float4* out, Fault fault) {
  __shared__ float4 s[64];
  s[threadIdx.x] = float4{1};
  __syncthreads();
  copy16(&s[threadIdx.x], &in[threadIdx.x]);
  asm volatile("cp.async.commit_group;" ::: "memory");
  if (fault == Fault::overwritten) s[threadIdx.x] = float4{};
  if (fault != Fault::no_wait) asm volatile("cp.async.wait_group 0;" ::: "memory");
  if (fault != Fault::no_barrier) __syncthreads();
  out[threadIdx.x] = s[63 - threadIdx.x];
}
TEST(CopyAsync, Faults) {
  test::Buffer<float4> in(std::vector<float4>(64)), out(64);
  const auto run = [&](Fault f) { return [&, f](bool right) { copies<<<1, 64>>>(in, out, right ? Fault::none : f); }; };
  expect("read before the wait", run(Fault::no_wait),
         {"read of", "an asynchronous copy to it is under way", "cp.async"});
  expect("others' copies", run(Fault::no_barrier), {"of shared memory: ", "cp.async.cg"});
  expect("overwritten", run(Fault::overwritten), {"write of", "an asynchronous copy to it is under way", "cp.async"});
}

__global__ void stage_reused(const float4* in, float4* out, bool right) {  // two tiles by one stage
  __shared__ float4 s[64];
  float4 sum{};
  for (int tile = 0; tile < 2; ++tile) {
    copy16(&s[threadIdx.x], &in[tile * 64 + threadIdx.x]);
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    sum.x += s[63 - threadIdx.x].x;
    if (right) __syncthreads();
  }
  out[threadIdx.x] = sum;
}
TEST(CopyAsync, WriteAfterRead) {
  test::Buffer<float4> in(std::vector<float4>(128)), out(64);
  expect("stage", [&](bool right) { stage_reused<<<1, 64>>>(in, out, right); }, {"shared memory"});
}

}  // namespace
#endif
