#include <algorithm>
#include <bit>
#include <numeric>

#include "test.h"

// Control flow: divergence and reconvergence, calls, barriers of a CTA and of a cluster, waiting for each other.
namespace {

__device__ uint32_t special_lane() {
  uint32_t lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
__device__ uint32_t load_acquire(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ void store_release(uint32_t* p, uint32_t v) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// Nested loops whose ends differ by lane, a break and a continue.
__host__ __device__ uint32_t collatz_sum(uint32_t lane) {
  uint32_t sum = 0;
  for (uint32_t i = 1; i <= lane % 5 + 1; ++i) {
    uint32_t n = lane * 7 + i;
    while (n > 1) {
      n = n & 1 ? 3 * n + 1 : n / 2;
      ++sum;
      if (sum % 97 == 13) continue;
      if (sum > 400) break;
      sum += n & 3;
    }
    if (n == lane) return sum;
  }
  return sum * 3;
}
__global__ void nested(uint32_t* out) { out[threadIdx.x] = collatz_sum(threadIdx.x); }

TEST(Machine, NestedDivergence) {
  const auto got = test::warp<uint32_t>(nested);
  for (uint32_t l = 0; l < 32; ++l) EXPECT_EQ(got[l], collatz_sum(l)) << l;
}

__global__ void dense_switch(uint32_t* out) {
  uint32_t v = threadIdx.x;
  for (int i = 0; i < 3; ++i) {
    switch ((v + i) % 9) {
      case 0:
        v += 5;
        break;
      case 1:
        v *= 3;
        break;
      case 2:
        v ^= 0x55;
        [[fallthrough]];
      case 3:
        v -= 2;
        break;
      case 4:
        v = ~v;
        break;
      case 5:
        v <<= 2;
        break;
      case 6:
        v /= 3;
        break;
      case 7:
        v = v * v;
        break;
      default:
        out[threadIdx.x] = v;
        return;
    }
  }
  out[threadIdx.x] = v;
}

TEST(Machine, Switch) {
  const auto got = test::warp<uint32_t>(dense_switch);
  for (uint32_t l = 0; l < 32; ++l) {
    uint32_t v = l;
    for (int i = 0; i < 3; ++i) {
      const uint32_t c = (v + i) % 9;
      if (c == 8) break;
      const uint32_t next[] = {v + 5, v * 3, (v ^ 0x55) - 2, v - 2, ~v, v << 2, v / 3, v * v};
      v = next[c];
    }
    EXPECT_EQ(got[l], v) << l;
  }
}

// brx.idx: each lane to its own of four labels.
__global__ void indexed(uint32_t* out, uint32_t over) {
  uint32_t r;
  asm volatile(
      "{ .reg .u32 i;\n"
      "targets: .branchtargets B0, B1, B2, B3;\n"
      "  and.b32 i, %1, 3; add.u32 i, i, %2;\n"
      "  brx.idx i, targets;\n"
      "B0: mov.u32 %0, 100; bra.uni done;\n"
      "B1: mov.u32 %0, 101; bra.uni done;\n"
      "B2: mov.u32 %0, 102; bra.uni done;\n"
      "B3: mov.u32 %0, 103;\n"
      "done: }\n"
      : "=r"(r)
      : "r"(special_lane()), "r"(over));
  out[threadIdx.x] = r;
}

TEST(Machine, IndexedBranch) {
  const auto got = test::warp<uint32_t>(indexed, 0u);
  for (uint32_t l = 0; l < 32; ++l) EXPECT_EQ(got[l], 100 + l % 4) << l;
}

struct Pair {
  uint64_t a;
  int32_t b[3];
};
__device__ __noinline__ int32_t leaf(int32_t x, int32_t n) {
  int32_t s = 0;
  for (int i = 0; i < n; ++i) s = s * 3 + (x ^ i);
  return s;
}
__device__ __noinline__ Pair middle(Pair p, int32_t n) {
  p.a += leaf(p.b[0], n);
  p.b[1] = leaf(p.b[2], 2 * n + 1);
  return p;
}
__global__ void calls(int64_t* out) {
  const int32_t t = threadIdx.x;
  Pair p{uint64_t(t) << 33, {t, 2 * t, 3 * t}};
  if (t % 3) p = middle(p, t % 7);  // lanes are in different calls of one function
  p = middle(p, 5 - t % 5);
  out[t] = static_cast<int64_t>(p.a) + p.b[1];
}

TEST(Machine, CallsWithStructures) {
  const auto host_leaf = [](int32_t x, int32_t n) {
    uint32_t s = 0;
    for (int i = 0; i < n; ++i) s = s * 3 + static_cast<uint32_t>(x ^ i);
    return static_cast<int32_t>(s);
  };
  const auto host_middle = [&](Pair p, int32_t n) {
    p.a += host_leaf(p.b[0], n);
    p.b[1] = host_leaf(p.b[2], 2 * n + 1);
    return p;
  };
  const auto got = test::warp<int64_t>(calls);
  for (int32_t t = 0; t < 32; ++t) {
    Pair p{uint64_t(t) << 33, {t, 2 * t, 3 * t}};
    if (t % 3) p = host_middle(p, t % 7);
    p = host_middle(p, 5 - t % 5);
    EXPECT_EQ(got[t], static_cast<int64_t>(p.a) + p.b[1]) << t;
  }
}

// The same names in several scopes, and a loop within one.
__global__ void scopes(uint32_t* out) {
  uint32_t a, b;
  asm volatile(
      "{ .reg .u32 t; .reg .pred p; mov.u32 t, 0; mov.u32 %0, 1;\n"
      "again: mul.lo.u32 %0, %0, 3; add.u32 t, t, 1; setp.lt.u32 p, t, %1; @p bra again; }"
      : "=&r"(a)
      : "r"(threadIdx.x % 6 + 1));
  asm volatile(
      "{ .reg .u64 t; .reg .pred p; cvt.u64.u32 t, %1; shl.b64 t, t, 36; shr.u64 t, t, 35; cvt.u32.u64 %0, t;\n"
      "setp.eq.u32 p, %0, 8; @p bra again; add.u32 %0, %0, 1; again: }"
      : "=&r"(b)
      : "r"(threadIdx.x));
  out[threadIdx.x] = a * 1000 + b;
}

TEST(Machine, Scopes) {
  const auto got = test::warp<uint32_t>(scopes);
  for (uint32_t l = 0; l < 32; ++l) {
    uint32_t a = 1;
    for (uint32_t i = 0; i < l % 6 + 1; ++i) a *= 3;
    const uint32_t b = 2 * l == 8 ? 8 : 2 * l + 1;
    EXPECT_EQ(got[l], a * 1000 + b) << l;
  }
}

__global__ void specials(uint32_t* out) {
  uint32_t v[8], warps;
  asm volatile("mov.u32 %0, %%laneid; mov.u32 %1, %%lanemask_eq; mov.u32 %2, %%lanemask_lt; mov.u32 %3, %%lanemask_le;"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]));
  asm volatile(
      "mov.u32 %0, %%lanemask_gt; mov.u32 %1, %%lanemask_ge; mov.u32 %2, %%nwarpid; mov.u32 %3, %%total_smem_size;"
      : "=r"(v[4]), "=r"(v[5]), "=r"(warps), "=r"(v[7]));
  asm volatile("mov.u32 %0, %%dynamic_smem_size;" : "=r"(v[6]));
  v[7] += warps;
  for (int i = 0; i < 8; ++i) out[threadIdx.x * 8 + i] = v[i];
}

TEST(Machine, SpecialRegisters) {
  test::Buffer<uint32_t> out(40 * 8);
  specials<<<1, 40, 512>>>(out.data());
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t t = 0; t < 40; ++t) {
    const uint32_t l = t % 32, eq = 1u << l;
    const uint32_t want[] = {l, eq, eq - 1, eq * 2 - 1, ~(eq * 2 - 1), ~(eq - 1), 512};
    for (int i = 0; i < 7; ++i) EXPECT_EQ(got[t * 8 + i], want[i]) << t << " " << i;
    EXPECT_GE(got[t * 8 + 7], 514u);
  }
}

// %clock64 and %globaltimer never run backwards.
__global__ void clocks(uint32_t* out) {
  uint64_t a, b, c, d;
  asm volatile("mov.u64 %0, %%clock64; mov.u64 %1, %%globaltimer;" : "=l"(a), "=l"(b)::"memory");
  __nanosleep(100);
  asm volatile("mov.u64 %0, %%clock64; mov.u64 %1, %%globaltimer;" : "=l"(c), "=l"(d)::"memory");
  out[threadIdx.x] = c > a && d >= b;
}

TEST(Machine, Clocks) {
  for (const uint32_t v : test::warp<uint32_t>(clocks)) EXPECT_EQ(v, 1u);
}

__global__ void sums(const uint32_t* in, uint32_t* out, int n) {  // a tree in shared memory; the last warp is not whole
  __shared__ uint32_t s[256];
  const uint32_t t = threadIdx.x;
  s[t] = in[blockIdx.x * n + t];
  __syncthreads();
  for (int step = 1; step < n; step *= 2) {
    const uint32_t v = t + step < n && t % (2 * step) == 0 ? s[t + step] : 0;
    __syncthreads();
    s[t] += v;
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = s[0];
  const bool odd = in[blockIdx.x * n + t] & 1;
  const int count = __syncthreads_count(odd), any = __syncthreads_or(odd), all = __syncthreads_and(odd);
  if (t == n - 1) out[gridDim.x + blockIdx.x] = count | any << 16 | all << 17;
}

TEST(Machine, Barriers) {
  for (const int n : {1, 31, 32, 40, 97, 256}) {
    std::vector<uint32_t> in(n * 3);
    for (int i = 0; i < n * 3; ++i) in[i] = i < n ? i * i : i < 2 * n ? 2 * i : 2 * i + 1;
    test::Buffer<uint32_t> from(in), to(6);
    sums<<<3, n>>>(from, to, n);
    ASSERT_TRUE(test::ok());
    const auto got = to.read();
    for (int b = 0; b < 3; ++b) {
      uint32_t sum = 0, count = 0;
      for (int i = 0; i < n; ++i) sum += in[b * n + i], count += in[b * n + i] & 1;
      EXPECT_EQ(got[b], sum) << n;
      EXPECT_EQ(got[3 + b], count | (count > 0) << 16 | (count == uint32_t(n)) << 17) << n;
    }
  }
}

// Two producer warps, one consumer: bar.arrive and bar.sync with counts, on two barriers in turn.
__global__ void producers(uint32_t* out, int rounds) {
  __shared__ uint32_t box[64];
  const uint32_t warp = threadIdx.x / 32, t = threadIdx.x;
  uint32_t sum = 0;
  for (int i = 0; i < rounds; ++i) {
    if (warp < 2) {
      if (i > 0) asm volatile("bar.sync 2, 96;" ::: "memory");  // emptied
      box[t] = i * 100 + t;
      asm volatile("bar.arrive 1, 96;" ::: "memory");  // full
    } else {
      asm volatile("barrier.cta.sync.aligned 1, 96;" ::: "memory");
      sum += box[t - 64] + box[t - 32];
      if (i + 1 < rounds) asm volatile("bar.arrive 2, 96;" ::: "memory");
    }
  }
  if (warp == 2) out[t - 64] = sum;
}

TEST(Machine, NamedBarriers) {
  test::Buffer<uint32_t> out(32);
  producers<<<1, 96>>>(out.data(), 20);
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t l = 0; l < 32; ++l) EXPECT_EQ(got[l], 190u * 200 + 20 * (2 * l + 32)) << l;
}

// Without .aligned each half of a warp may come by itself.
__global__ void halves(uint32_t* out) {
  __shared__ uint32_t s[64];
  const uint32_t t = threadIdx.x;
  s[t] = t * 3;
  if (special_lane() < 16) {
    asm volatile("barrier.sync 3, 64;" ::: "memory");
    out[t] = s[63 - t];
  } else {
    asm volatile("barrier.sync 3, 64;" ::: "memory");
    out[t] = s[63 - t] + 1;
  }
}

TEST(Machine, UnalignedBarrier) {
  test::Buffer<uint32_t> out(64);
  halves<<<1, 64>>>(out.data());
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t t = 0; t < 64; ++t) EXPECT_EQ(got[t], (63 - t) * 3 + (t % 32 >= 16)) << t;
}

// A lock that every lane of every warp of every CTA takes: a lane spins while another of its warp is inside.
__global__ void locked(uint32_t* lock, uint32_t* count) {
  for (bool done = false; !done;) {
    if (atomicCAS(lock, 0u, 1u) == 0u) {
      __threadfence();
      *count = *count + 1;
      __threadfence();
      atomicExch(lock, 0u);
      done = true;
    }
  }
}

TEST(Machine, LockAmongLanes) {
  test::Buffer<uint32_t> memory(std::vector<uint32_t>(2));
  locked<<<3, 64>>>(memory.data(), memory.data() + 1);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(memory.read()[1], 3u * 64);
}

// One lane waits in a spin for another lane of its warp that has not come yet.
__global__ void lane_waits(uint32_t* flag, uint32_t* out) {
  if (threadIdx.x == 0) {
    while (load_acquire(flag) == 0) {
    }
    out[0] = load_acquire(flag);
  } else if (threadIdx.x == 7) {
    store_release(flag, 5);
  }
}

TEST(Machine, LaneWaitsForLane) {
  test::Buffer<uint32_t> memory(std::vector<uint32_t>(2));
  lane_waits<<<1, 32>>>(memory.data(), memory.data() + 1);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(memory.read()[1], 5u);
}

__global__ void tiny(uint32_t* out) { out[blockIdx.x * 32 + threadIdx.x] = blockIdx.x * threadIdx.x; }

TEST(Machine, ManySmallCtas) {
  constexpr uint32_t kCtas = 9000;
  test::Buffer<uint32_t> out(kCtas * 32);
  tiny<<<kCtas, 32>>>(out.data());
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i / 32 * (i % 32));
}

// CTAs wait for each other: a barrier of the grid.
__global__ void grid_barrier(uint32_t* arrived, uint32_t* values, uint32_t* out) {
  extern __shared__ uint32_t room[];
  if (threadIdx.x == 0) {
    values[blockIdx.x] = blockIdx.x * 11;
    __threadfence();
    atomicAdd(arrived, 1);
    while (load_acquire(arrived) < gridDim.x) __nanosleep(20);
    out[blockIdx.x] = values[(blockIdx.x + 1) % gridDim.x];
  }
  room[threadIdx.x] = 0;
}

TEST(Machine, GridBarrier) {
  test::Buffer<uint32_t> arrived(std::vector<uint32_t>(1)), values(std::vector<uint32_t>(8)), out(8);
  grid_barrier<<<8, 64, 256>>>(arrived, values, out.data());
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t b = 0; b < 8; ++b) EXPECT_EQ(got[b], (b + 1) % 8 * 11);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__global__ void __cluster_dims__(4, 1, 1) cluster(uint32_t* out) {
  __shared__ uint32_t mine[32];
  uint32_t rank, size, id, is;
  asm volatile("mov.u32 %0, %%cluster_ctarank; mov.u32 %1, %%cluster_nctarank; mov.u32 %2, %%clusterid.x;"
               : "=r"(rank), "=r"(size), "=r"(id));
  asm volatile("{ .reg .pred p; mov.pred p, %%is_explicit_cluster; selp.u32 %0, 1, 0, p; }" : "=r"(is));
  for (uint32_t round = 1; round <= 3; ++round) {
    mine[threadIdx.x] = blockIdx.x * 100 + threadIdx.x + round;
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(mine + threadIdx.x)), remote, value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"((rank + round) % size));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote) : "memory");
    out[(round - 1) * gridDim.x * 32 + blockIdx.x * 32 + threadIdx.x] = value + id * 100000 + is * 1000000;
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
  }
}

TEST(Machine, Cluster) {
  test::Buffer<uint32_t> out(3 * 8 * 32);
  cluster<<<8, 32>>>(out.data());
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t round = 1; round <= 3; ++round)
    for (uint32_t b = 0; b < 8; ++b)
      for (uint32_t t = 0; t < 32; ++t) {
        const uint32_t peer = b / 4 * 4 + (b % 4 + round) % 4;
        ASSERT_EQ(got[(round - 1) * 256 + b * 32 + t], peer * 100 + t + round + b / 4 * 100000 + 1000000);
      }
}

__global__ void __launch_bounds__(256, 1) registers(uint32_t* out, int wrong) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if (threadIdx.x / 128 == 0) {
    if (wrong && threadIdx.x / 32 == 1)
      asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    else
      asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 152;");
  }
#endif
  out[threadIdx.x] = threadIdx.x;
}

TEST(Machine, SetMaxRegisters) {
  test::Buffer<uint32_t> out(256);
  registers<<<1, 256>>>(out.data(), 0);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(out.read()[255], 255u);
}
#endif

#if SACCADE_EMULATED

__global__ void together(uint32_t* out) {
  uint32_t v = 0, mask;
  if (threadIdx.x % 3 == 0)
    for (uint32_t i = 0; i < threadIdx.x; ++i) v += i * v + 1;
  else if (threadIdx.x & 1)
    v = out[threadIdx.x];
  asm volatile("activemask.b32 %0;" : "=r"(mask)::"memory");
  out[threadIdx.x] = mask + (v == 77);
}

TEST(Machine, LanesComeTogetherAgain) {
  for (const uint32_t v : test::warp<uint32_t>(together)) EXPECT_EQ(v, ~0u);
}

TEST(MachineFault, IndexedBranchOutside) {
  test::Buffer<uint32_t> out(32);
  indexed<<<1, 32>>>(out.data(), 1u);
  EXPECT_TRUE(test::found({"brx.idx", "index 4", "lane 3", "brx.idx"}));
}

__global__ void barrier_counts(int first, int second) {
  if (threadIdx.x < 32)
    asm volatile("bar.sync 1, %0;" ::"r"(first) : "memory");
  else
    asm volatile("bar.sync 1, %0;" ::"r"(second) : "memory");
}

TEST(MachineFault, BarrierCounts) {
  barrier_counts<<<1, 64>>>(64, 64);
  EXPECT_TRUE(test::ok());
  barrier_counts<<<1, 64>>>(48, 48);
  EXPECT_TRUE(test::found({"barrier 1", "48 is no positive multiple of 32", "bar.sync"}));
  barrier_counts<<<1, 128>>>(128, 64);  // three come with 64: in any order, one meets the 128
  EXPECT_TRUE(test::found({"barrier 1", "arrived with"}));
  barrier_counts<<<1, 64>>>(96, 96);
  EXPECT_TRUE(test::found("exceeds the CTA's 64 threads"));
}

__global__ void missing(int warps) {
  if (threadIdx.x / 32 < warps)
    asm volatile("bar.sync 4, 96;" ::: "memory");
  else
    asm volatile("bar.sync 5, 96;" ::: "memory");
}

TEST(MachineFault, Deadlock) {
  missing<<<1, 96>>>(3);
  EXPECT_TRUE(test::ok());
  missing<<<2, 96>>>(2);
  EXPECT_TRUE(test::found(
      {"deadlock", "missing(int)", "warp 0", "barrier 4: 64 of 96", "warp 2", "barrier 5: 32 of 96", "bar.sync"}));
}

__global__ void unequal_warp(int split) {
  if (special_lane() < split)
    asm volatile("bar.sync 1, 32;" ::: "memory");
  else
    asm volatile("bar.sync 2, 32;" ::: "memory");
}

TEST(MachineFault, DivergentBarrier) {
  unequal_warp<<<1, 32>>>(32);
  EXPECT_TRUE(test::ok());
  unequal_warp<<<1, 32>>>(9);
  EXPECT_TRUE(test::found({"divergent collective", "lanes 0-8", "lanes 9-31", "bar.sync"}));
}

__global__ void shuffle_in_branch(uint32_t* out, uint32_t mask, uint32_t limit) {
  uint32_t v = threadIdx.x;
  if (threadIdx.x < limit)
    asm volatile("shfl.sync.idx.b32 %0, %0, 3, 31, %1;" : "+r"(v) : "r"(mask));
  else
    asm volatile("bar.warp.sync %0;" ::"r"(mask));
  out[threadIdx.x] = v;
}

TEST(MachineFault, DivergentShuffle) {
  test::Buffer<uint32_t> out(32);
  shuffle_in_branch<<<1, 32>>>(out.data(), ~0u, 32u);
  EXPECT_TRUE(test::ok());
  shuffle_in_branch<<<1, 32>>>(out.data(), ~0u, 16u);
  EXPECT_TRUE(test::found({"divergent collective", "shfl.sync", "bar.warp.sync"}));
  shuffle_in_branch<<<1, 32>>>(out.data(), 0xffu, 32u);
  EXPECT_TRUE(test::found({"not in the membermask", "lane 8"}));
}

__global__ void predicated_barrier(uint32_t limit) {
  asm volatile("{ .reg .pred p; setp.lt.u32 p, %0, %1; @p bar.sync 0; }" ::"r"(threadIdx.x), "r"(limit) : "memory");
}

TEST(MachineFault, PredicatedBarrier) {
  predicated_barrier<<<1, 32>>>(32);
  EXPECT_TRUE(test::ok());
  predicated_barrier<<<1, 32>>>(20);
  EXPECT_TRUE(test::found({"divergent collective", "lanes 20-31", "bar.sync"}));
}

__global__ void spin(uint32_t* flag, uint32_t* out) {
  if (threadIdx.x == 0) {
    while (load_acquire(flag) == 0) {
    }
  }
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = 1;
}

TEST(MachineFault, Livelock) {
  test::Buffer<uint32_t> flag(std::vector<uint32_t>(1, 1u)), out(128);
  spin<<<2, 64>>>(flag, out.data());
  EXPECT_TRUE(test::ok());
  flag.write({0});
  spin<<<2, 64>>>(flag, out.data());
  EXPECT_TRUE(test::found({"livelock", "warp 0, lane 0", "lanes 1-31", "warp 1"}));
}

TEST(MachineFault, CtasWaitForOneWithoutRoom) {  // two CTAs fit the only SM, so the third never starts
  const test::Options one("sm=1");
  test::Buffer<uint32_t> arrived(std::vector<uint32_t>(1)), values(std::vector<uint32_t>(3)), out(3);
  constexpr int kRoom = 100 << 10;
  ASSERT_CUDA(cudaFuncSetAttribute(grid_barrier, cudaFuncAttributeMaxDynamicSharedMemorySize, kRoom));
  grid_barrier<<<2, 64, kRoom>>>(arrived, values, out.data());
  EXPECT_TRUE(test::ok());
  arrived.write({0});
  grid_barrier<<<3, 64, kRoom>>>(arrived, values, out.data());
  EXPECT_TRUE(test::found({"livelock", "warp 0"}));
}

__global__ void trapped(uint32_t lane) {
  if (threadIdx.x == lane) asm volatile("trap;");
}

TEST(MachineFault, Trap) {
  trapped<<<1, 32>>>(99);
  EXPECT_TRUE(test::ok());
  trapped<<<1, 32>>>(5);
  EXPECT_TRUE(test::found({"trap", "lane 5"}));
}

__global__ void __cluster_dims__(2, 1, 1) cluster_wait(int arrivals) {
  for (int i = 0; i < arrivals; ++i) asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

TEST(MachineFault, ClusterBarrier) {
  cluster_wait<<<2, 32>>>(1);
  EXPECT_TRUE(test::ok());
  cluster_wait<<<2, 32>>>(0);
  EXPECT_TRUE(test::found("wait without arrive"));
  cluster_wait<<<2, 32>>>(2);
  EXPECT_TRUE(test::found("a second time without wait"));
}

TEST(MachineFault, SetMaxRegisters) {
  test::Buffer<uint32_t> out(256);
  registers<<<1, 256>>>(out.data(), 1);
  EXPECT_TRUE(test::found({"setmaxnreg", "of the warpgroup executed that of line"}));
}

#endif

}  // namespace
