#include <numeric>

#include "test.h"

// cp.async, mbarrier, and arrivals across a cluster.
namespace {

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

std::vector<uint32_t> numbers(size_t n, uint32_t seed = 1) {
  std::vector<uint32_t> v(n);
  for (auto& x : v) x = seed = seed * 1664525u + 1013904223u;
  return v;
}

// ---- cp.async

enum Kind { ca4, ca8, ca16, cg16, hinted };

template <Kind kind>
__device__ void copy(void* to, const void* from, uint32_t bytes) {
  const uint32_t s = shared_address(to);
  if constexpr (kind == ca4)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(s), "l"(from), "r"(bytes) : "memory");
  if constexpr (kind == ca8)
    asm volatile("cp.async.ca.shared::cta.global [%0], [%1], 8, %2;" ::"r"(s), "l"(from), "r"(bytes) : "memory");
  if constexpr (kind == ca16)
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(s), "l"(from), "r"(bytes) : "memory");
  if constexpr (kind == cg16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(s), "l"(from), "r"(bytes) : "memory");
  if constexpr (kind == hinted)
    asm volatile(
        "{\n.reg .b64 policy;\ncreatepolicy.fractional.L2::evict_last.b64 policy, 1.0;\n"
        "cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, policy;\n}" ::"r"(s),
        "l"(from), "r"(bytes)
        : "memory");
}
__device__ void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n>
__device__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}
__device__ void wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

template <Kind kind, int size>
__global__ void zero_fill(uint8_t* out, const uint8_t* in) {
  __shared__ alignas(16) uint8_t s[64 * size];
  const int t = threadIdx.x;
  copy<kind>(s + (63 - t) * size, in + t * size, t % (size + 1));
  wait_all();
  __syncthreads();
  for (int k = 0; k < size; ++k) out[t * size + k] = s[t * size + k];
}

template <Kind kind, int size>
void check_zero_fill() {
  SCOPED_TRACE(kind);
  std::vector<uint8_t> in(64 * size);
  for (size_t k = 0; k < in.size(); ++k) in[k] = static_cast<uint8_t>(k * 7 + 1) | 1;
  test::Buffer<uint8_t> from(in), to(in.size());
  zero_fill<kind, size><<<1, 64>>>(to, from);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (int t = 0; t < 64; ++t)
    for (int k = 0; k < size; ++k)
      ASSERT_EQ(out[(63 - t) * size + k], k < t % (size + 1) ? in[t * size + k] : 0) << t << " " << k;
}

TEST(CpAsync, SizesAndZeroFill) {
  check_zero_fill<ca4, 4>();
  check_zero_fill<ca8, 8>();
  check_zero_fill<ca16, 16>();
  check_zero_fill<cg16, 16>();
  check_zero_fill<hinted, 16>();
}

__global__ void ignore_source(uint4* out, const uint4* in) {
  __shared__ uint4 s[32];
  const int t = threadIdx.x;
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\ncp.async.ca.shared.global [%0], [%1], 16, p;\n}" ::"r"(
                   shared_address(s + t)),
               "l"(in + t), "r"(t % 3)
               : "memory");
  wait_all();
  out[t] = s[t];
}

TEST(CpAsync, IgnoreSource) {
  const auto in = numbers(128);
  test::Buffer<uint32_t> from(in), to(128);
  ignore_source<<<1, 32>>>(reinterpret_cast<uint4*>(to.data()), reinterpret_cast<uint4*>(from.data()));
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (int k = 0; k < 128; ++k) ASSERT_EQ(out[k], k / 4 % 3 ? 0 : in[k]) << k;
}

// A ring of three stages: as many groups under way as the program allows.
template <int in_flight>
__global__ void ring(uint32_t* out, const uint32_t* in, int tiles) {
  constexpr int stages = 3;
  __shared__ alignas(16) uint32_t s[stages][4 * 64];
  const int t = threadIdx.x;
  for (int k = 0; k < 4 * stages; ++k) s[0][k * 64 + t] = 0;
  __syncthreads();
  for (int k = 0; k < stages - 1; ++k) {
    copy16(s[k] + 4 * t, in + k * 256 + 4 * t);
    commit();
  }
  uint32_t sum = 0;
  for (int k = 0; k < tiles; ++k) {
    wait<in_flight>();
    __syncthreads();
    for (int e = 0; e < 4; ++e) sum = sum * 31 + s[k % stages][(4 * t + 64 * e + 5) % 256];
    const int next = k + stages - 1;
    if (next < tiles) copy16(s[next % stages] + 4 * t, in + next * 256 + 4 * t);
    commit();
  }
  out[t] = sum;
}

std::vector<uint32_t> ring_of(const std::vector<uint32_t>& in, int tiles) {
  std::vector<uint32_t> sum(64);
  for (int t = 0; t < 64; ++t)
    for (int k = 0; k < tiles; ++k)
      for (int e = 0; e < 4; ++e) sum[t] = sum[t] * 31 + in[k * 256 + (4 * t + 64 * e + 5) % 256];
  return sum;
}

TEST(CpAsync, Groups) {
  const int tiles = 11;
  const auto in = numbers(tiles * 256);
  test::Buffer<uint32_t> from(in), to(64);
  ring<1><<<1, 64>>>(to, from, tiles);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(to.read(), ring_of(in, tiles));
#if SACCADE_EMULATED
  {
    test::Options eager("async=eager");
    ring<1><<<1, 64>>>(to, from, tiles);
    ASSERT_TRUE(test::ok());
    EXPECT_EQ(to.read(), ring_of(in, tiles));
  }
  ring<2><<<1, 64>>>(to, from, tiles);  // waits for one group too few
  EXPECT_TRUE(test::found({"cp.async", "under way"}));
#endif
}

// Lanes of one warp with different groups.
__global__ void divergent(uint32_t* out, const uint32_t* in) {
  __shared__ alignas(16) uint32_t s[2][32 * 4];
  const int t = threadIdx.x;
  copy16(s[0] + 4 * t, in + 4 * t);
  if (t % 2) commit();
  copy16(s[1] + 4 * t, in + 128 + 4 * t);
  commit();
  if (t % 2) {
    wait<1>();
    out[t] = s[0][4 * t + 1];
    wait<0>();
    out[32 + t] = s[1][4 * t + 2];
  } else {
    wait<0>();
    out[t] = s[0][4 * t + 1];
    out[32 + t] = s[1][4 * t + 2];
  }
}

TEST(CpAsync, GroupsOfLanes) {
  const auto in = numbers(256);
  test::Buffer<uint32_t> from(in), to(64);
  divergent<<<1, 32>>>(to, from);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (int t = 0; t < 32; ++t) {
    EXPECT_EQ(out[t], in[4 * t + 1]) << t;
    EXPECT_EQ(out[32 + t], in[128 + 4 * t + 2]) << t;
  }
}

// ---- mbarrier

__device__ void init(uint64_t* b, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
__device__ uint64_t arrive(uint64_t* b) {
  uint64_t state;
  asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(shared_address(b)) : "memory");
  return state;
}
__device__ bool test_wait(uint64_t* b, uint64_t state) {
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(shared_address(b)), "l"(state)
               : "memory");
  return done;
}
__device__ bool try_wait_parity(uint64_t* b, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2, 1000;\nselp.u32 %0, 1, 0, "
      "p;\n}"
      : "=r"(done)
      : "r"(shared_address(b)), "r"(parity)
      : "memory");
  return done;
}
__device__ uint32_t pending_count(uint64_t state) {
  uint32_t n;
  asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(n) : "l"(state));
  return n;
}

__global__ void exchange(uint32_t* out, int rounds, bool parity) {
  __shared__ uint64_t full, empty;
  __shared__ uint32_t s[96];
  const int t = threadIdx.x;
  if (t == 0) init(&full, blockDim.x), init(&empty, blockDim.x);
  __syncthreads();
  uint32_t sum = 0;
  for (int k = 0; k < rounds; ++k) {
    s[t] = t * 1000 + k;
    const uint64_t state = arrive(&full);
    while (!(parity ? try_wait_parity(&full, k & 1) : test_wait(&full, state))) {
    }
    sum = sum * 3 + s[(t + 33) % blockDim.x];
    const uint64_t read = arrive(&empty);
    while (!(parity ? try_wait_parity(&empty, k & 1) : test_wait(&empty, read))) {
    }
  }
  out[t] = sum;
}

TEST(Mbarrier, Phases) {
  for (bool parity : {false, true}) {
    test::Buffer<uint32_t> to(96);
    exchange<<<1, 96>>>(to, 7, parity);
    ASSERT_TRUE(test::ok());
    const auto out = to.read();
    for (int t = 0; t < 96; ++t) {
      uint32_t sum = 0;
      for (int k = 0; k < 7; ++k) sum = sum * 3 + (t + 33) % 96 * 1000 + k;
      ASSERT_EQ(out[t], sum) << t;
    }
  }
}

// One thread, so that every answer is determined.
__global__ void states(uint32_t* out) {
  __shared__ uint64_t b;
  if (threadIdx.x) return;
  int n = 0;
  const uint32_t at = shared_address(&b);
  uint64_t state;
  init(&b, 5);
  out[n++] = try_wait_parity(&b, 1);  // the phase before the first counts as complete
  out[n++] = try_wait_parity(&b, 0);
  state = arrive(&b);
  out[n++] = pending_count(state);
  asm volatile("mbarrier.arrive.shared.b64 %0, [%1], 2;" : "=l"(state) : "r"(at) : "memory");
  out[n++] = pending_count(state);
  asm volatile("mbarrier.arrive.noComplete.shared.b64 %0, [%1], 1;" : "=l"(state) : "r"(at) : "memory");
  out[n++] = pending_count(state);
  out[n++] = test_wait(&b, state);
  asm volatile("mbarrier.arrive_drop.shared.b64 %0, [%1];" : "=l"(state) : "r"(at) : "memory");
  out[n++] = pending_count(state);
  out[n++] = test_wait(&b, state);
  out[n++] = try_wait_parity(&b, 0);
  out[n++] = try_wait_parity(&b, 1);
  // second phase: one arrival was dropped for good; three, and 100 bytes
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %0, [%1], 60;"
               : "=l"(state)
               : "r"(at)
               : "memory");
  out[n++] = pending_count(state);
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], 40;" ::"r"(at) : "memory");
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 %0, [%1], 3;" : "=l"(state) : "r"(at) : "memory");
  out[n++] = pending_count(state);
  out[n++] = test_wait(&b, state);
  asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 70;" ::"r"(at) : "memory");
  out[n++] = test_wait(&b, state);
  asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 30;" ::"r"(at) : "memory");
  out[n++] = test_wait(&b, state);
  asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(at) : "memory");
  init(&b, 1);
  out[n++] = try_wait_parity(&b, 0);
  state = arrive(&b);
  out[n++] = test_wait(&b, state);
}

TEST(Mbarrier, States) {
  const std::vector<uint32_t> want = {1, 0, 5, 4, 2, 0, 1, 1, 1, 0, 4, 3, 0, 0, 1, 0, 1};
  test::Buffer<uint32_t> to(std::vector<uint32_t>(want.size()));
  states<<<1, 32>>>(to);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(to.read(), want);
}

template <bool noinc>
__global__ void copy_arrive(uint32_t* out, const uint32_t* in) {
  __shared__ uint64_t full;
  __shared__ alignas(16) uint32_t s[256];
  const int t = threadIdx.x;
  if (t == 0) init(&full, 64);
  __syncthreads();
  copy16(s + 4 * t, in + 4 * t);
  if constexpr (noinc) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&full)) : "memory");
  } else {
    asm volatile("cp.async.mbarrier.arrive.shared.b64 [%0];" ::"r"(shared_address(&full)) : "memory");
    arrive(&full);
  }
  while (!try_wait_parity(&full, 0)) {
  }
  for (int e = 0; e < 4; ++e) out[4 * t + e] = s[255 - 4 * t - e];
}

TEST(CpAsync, MbarrierArrive) {
  const auto in = numbers(256);
  for (bool noinc : {false, true}) {
    test::Buffer<uint32_t> from(in), to(256);
    noinc ? copy_arrive<true><<<1, 64>>>(to, from) : copy_arrive<false><<<1, 64>>>(to, from);
    ASSERT_TRUE(test::ok());
    const auto out = to.read();
    for (int k = 0; k < 256; ++k) ASSERT_EQ(out[k], in[255 - k]) << k;
  }
}

// ---- clusters

__device__ uint32_t rank_in_cluster() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ uint32_t map(uint32_t address, uint32_t rank) {
  uint32_t out;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(out) : "r"(address), "r"(rank));
  return out;
}
__device__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// Every CTA writes into its neighbour's memory, and arrives there.
__global__ void __cluster_dims__(4) neighbours(uint32_t* out) {
  __shared__ uint64_t full;
  __shared__ uint32_t s[32];
  __shared__ alignas(16) uint32_t sent[32];
  const int t = threadIdx.x;
  const uint32_t rank = rank_in_cluster(), next = (rank + 1) % 4;
  if (t == 0) {
    init(&full, 33);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 128;" ::"r"(shared_address(&full)) : "memory");
  }
  sent[t] = 1000;
  cluster_sync();
  const uint32_t remote = map(shared_address(&full), next), slot = map(shared_address(s + t), next);
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(slot), "r"(rank * 100 + t) : "memory");
  if (t % 4 == 0) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            map(shared_address(sent + t), next)),
        "r"(rank + t), "r"(rank + t + 1), "r"(rank + t + 2), "r"(rank + t + 3), "r"(remote)
        : "memory");
  }
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\nselp.u32 %0, 1, 0, "
        "p;\n}"
        : "=r"(done)
        : "r"(shared_address(&full))
        : "memory");
  uint32_t owner, wide_owner;
  asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(owner) : "r"(remote));
  uint64_t generic;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(generic) : "l"(s + t), "r"(next));
  asm volatile("getctarank.u64 %0, %1;" : "=r"(wide_owner) : "l"(generic));
  uint32_t* mine = out + rank * 128;
  mine[t] = s[t];
  mine[32 + t] = sent[t];
  mine[64 + t] = owner * 10 + wide_owner;
  cluster_sync();
  mine[96 + t] = *reinterpret_cast<uint32_t*>(generic);
  cluster_sync();
}

TEST(Mbarrier, Cluster) {
  test::Buffer<uint32_t> to(512);
  neighbours<<<4, 32>>>(to);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (uint32_t r = 0; r < 4; ++r)
    for (uint32_t t = 0; t < 32; ++t) {
      const uint32_t from = (r + 3) % 4, next = (r + 1) % 4;
      ASSERT_EQ(out[r * 128 + t], from * 100 + t);
      ASSERT_EQ(out[r * 128 + 32 + t], from + t);
      ASSERT_EQ(out[r * 128 + 64 + t], next * 11);
      ASSERT_EQ(out[r * 128 + 96 + t], r * 100 + t);
    }
}

#if SACCADE_EMULATED

// ---- planted faults, each a parameter away from a kernel that passes

enum Fault { none, uninitialised, too_many, overwritten, early_read, no_wait, misaligned };

__global__ void faulty(uint32_t* out, const uint32_t* in, Fault fault) {
  __shared__ uint64_t b;
  __shared__ alignas(16) uint32_t s[128];
  const int t = threadIdx.x;
  if (t == 0 && fault != uninitialised) init(&b, 32);
  for (int e = 0; e < 4; ++e) s[4 * t + e] = 0;
  __syncthreads();
  if (t == 0 && fault == overwritten) s[(&b - reinterpret_cast<uint64_t*>(s)) * 2] = 1;
  __syncthreads();
  copy16(s + 4 * t + (fault == misaligned ? 1 : 0), in + 4 * t);
  if (fault == early_read) out[t] = s[4 * t];
  if (fault != no_wait) wait_all();
  if (fault == too_many && t == 0)
    asm volatile("mbarrier.arrive.shared.b64 _, [%0], 33;" ::"r"(shared_address(&b)) : "memory");
  arrive(&b);
  while (!try_wait_parity(&b, 0)) {
  }
  for (int e = 0; e < 4; ++e) out[4 * t + e] = s[127 - 4 * t - e];
}

testing::AssertionResult run_faulty(Fault fault, const char* text) {
  test::Buffer<uint32_t> from(numbers(128)), to(128);
  faulty<<<1, 32>>>(to, from, fault);
  return text ? test::found(text) : test::ok();
}

TEST(AsyncFaults, Caught) {
  EXPECT_TRUE(run_faulty(none, nullptr));
  EXPECT_TRUE(run_faulty(uninitialised, "no mbarrier was initialised"));
  EXPECT_TRUE(run_faulty(too_many, "more arrivals"));
  EXPECT_TRUE(run_faulty(overwritten, "overwritten"));
  EXPECT_TRUE(run_faulty(misaligned, "aligned to 16"));
  EXPECT_TRUE(run_faulty(early_read, "cp.async"));
  EXPECT_TRUE(run_faulty(no_wait, "cp.async"));
}

#endif

}  // namespace
