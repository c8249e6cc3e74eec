#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <array>
#include <cmath>
#include <functional>

#include "test.h"

// Bulk copies, tensor copies, their groups, swizzles and reductions. What shared memory must hold is computed here from
// the definition: the box densely, dimension 0 innermost, 16-byte chunks exchanged by bits of the shared address.
namespace {

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
__device__ void init(uint64_t* b, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ void expect(uint64_t* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
__device__ void wait(uint64_t* b, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
}
__device__ void fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ void commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ void wait_stored() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
__device__ void wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ uint32_t rank_in_cluster() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ uint32_t map_to(const void* p, uint32_t rank) {
  uint32_t out;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(out) : "r"(shared_address(p)), "r"(rank));
  return out;
}
__device__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// ---- without a tensor map

__device__ void load(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ void store(void* to, uint32_t from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
}

enum Fault {
  none,
  no_proxy_fence,
  early_read,
  too_few_bytes,
  source_overwritten,
  misaligned,
  not_waited,
  no_store_wait
};

__global__ void round_trip(uint32_t* out, const uint32_t* in, int rounds, Fault fault) {
  __shared__ alignas(128) uint32_t s[256];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) init(&full, 1);
  s[t] = 0;
  fence();
  __syncthreads();
  for (int k = 0; k < rounds; ++k) {
    if (t == 0) {
      expect(&full, fault == too_few_bytes ? 1008 : 1024);
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], 512;" ::"l"(in + k * 256) : "memory");
      load(shared_address(s), in + k * 256, 512, shared_address(&full));
      load(shared_address(s + (fault == misaligned ? 129 : 128)), in + k * 256 + 128, 512, shared_address(&full));
    }
    if (fault == not_waited) return;
    if (fault != early_read) wait(&full, k & 1);
    s[t] = s[t] * 3 + 1;
    if (fault != no_proxy_fence) fence();
    __syncthreads();
    if (t == 0) {
      store(out + k * 256, shared_address(s), 1024);
      commit();
      if (fault != source_overwritten) wait_read();
    }
    __syncthreads();
    if (fault == source_overwritten) s[t] = 0;
  }
  if (t == 0 && fault != no_store_wait) wait_stored();
  __syncthreads();
}

std::vector<uint32_t> counting(size_t n) {
  std::vector<uint32_t> v(n);
  for (size_t k = 0; k < n; ++k) v[k] = static_cast<uint32_t>(k * 2654435761u);
  return v;
}

TEST(Bulk, RoundTrip) {
  const auto in = counting(256 * 5);
  test::Buffer<uint32_t> from(in), to(in.size());
  const auto run = [&](Fault fault) { round_trip<<<1, 256>>>(to, from, 5, fault); };
  for (Fault fault : {none, no_store_wait}) {
    run(fault);
    ASSERT_TRUE(test::ok());
    const auto out = to.read();
    for (size_t k = 0; k < in.size(); ++k) ASSERT_EQ(out[k], in[k] * 3 + 1) << k;
  }
#if SACCADE_EMULATED
  {
    test::Options eager("async=eager");
    run(none);
    ASSERT_TRUE(test::ok());
    const auto out = to.read();
    for (size_t k = 0; k < in.size(); ++k) ASSERT_EQ(out[k], in[k] * 3 + 1) << k;
  }
  run(no_proxy_fence);
  EXPECT_TRUE(test::found("missing fence.proxy.async"));
  run(early_read);
  EXPECT_TRUE(test::found("under way"));
  run(too_few_bytes);
  EXPECT_TRUE(test::found("the copies under way bring 1024 bytes"));
  run(source_overwritten);
  EXPECT_TRUE(test::found("still reads it"));
  run(misaligned);
  EXPECT_TRUE(test::found("not aligned to 16"));
  run(not_waited);
  EXPECT_TRUE(test::found("still under way when its CTA ended"));
#endif
}

// From CTA 0 to itself and its peer at once, then from each to the other.
__global__ void __cluster_dims__(2) across(uint32_t* out, const uint32_t* in) {
  __shared__ alignas(128) uint32_t s[128];
  __shared__ alignas(128) uint32_t got[128];
  __shared__ uint64_t full[2];
  const int t = threadIdx.x;
  const uint32_t rank = rank_in_cluster();
  if (t == 0) {
    init(&full[0], 1), init(&full[1], 1);
    expect(&full[0], 512), expect(&full[1], 512);
  }
  cluster_sync();
  if (t == 0 && rank == 0)
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(shared_address(s)),
        "l"(in), "r"(512), "r"(shared_address(&full[0])), "h"(static_cast<uint16_t>(3))
        : "memory");
  wait(&full[0], 0);
  s[t] += rank * 1000;
  fence();
  __syncthreads();
  if (t == 0)
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     map_to(got, rank ^ 1)),
                 "r"(shared_address(s)), "r"(512), "r"(map_to(&full[1], rank ^ 1))
                 : "memory");
  wait(&full[1], 0);
  out[rank * 128 + t] = got[t];
  cluster_sync();
}

TEST(Bulk, Cluster) {
  const auto in = counting(128);
  test::Buffer<uint32_t> from(in), to(256);
  across<<<2, 128>>>(to, from);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (int k = 0; k < 256; ++k) ASSERT_EQ(out[k], in[k % 128] + (k < 128 ? 1000 : 0)) << k;
}

// cp.reduce.async.bulk of 64 bytes: every operation and type.
#define REDUCTIONS(X)                                                                                                 \
  X(add, u32, uint32_t, "add.u32")                                                                                    \
  X(add, s32, int32_t, "add.s32")                                                                                     \
  X(add, u64, uint64_t, "add.u64")                                                                                    \
  X(add, f32, float, "add.f32")                                                                                       \
  X(add, f64, double, "add.f64") X(add, f16, __half, "add.noftz.f16") X(add, bf16, __nv_bfloat16, "add.noftz.bf16")   \
      X(min, u32, uint32_t, "min.u32") X(max, u32, uint32_t, "max.u32") X(min, s32, int32_t, "min.s32")               \
          X(max, s32, int32_t, "max.s32") X(min, u64, uint64_t, "min.u64") X(max, s64, int64_t, "max.s64")            \
              X(min, f16, __half, "min.f16") X(max, bf16, __nv_bfloat16, "max.bf16") X(inc, u32, uint32_t, "inc.u32") \
                  X(dec, u32, uint32_t, "dec.u32") X(and, b32, uint32_t, "and.b32") X(or, b32, uint32_t, "or.b32")    \
                      X(xor, b64, uint64_t, "xor.b64")

#define REDUCE_KERNEL(op, type, T, text)                                                                  \
  __global__ void reduce_##op##_##type(void* to, const uint4* from) {                                     \
    __shared__ alignas(128) uint4 s[4];                                                                   \
    if (threadIdx.x < 4) s[threadIdx.x] = from[threadIdx.x];                                              \
    fence();                                                                                              \
    __syncthreads();                                                                                      \
    if (threadIdx.x) return;                                                                              \
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group." text " [%0], [%1], 64;" ::"l"(to), \
                 "r"(shared_address(s))                                                                   \
                 : "memory");                                                                             \
    commit();                                                                                             \
    wait_stored();                                                                                        \
  }
REDUCTIONS(REDUCE_KERNEL)

template <class T>
double value(T v) {
  return static_cast<double>(v);
}
double value(__half v) { return __half2float(v); }
double value(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T>
T rounded(double v) {
  return static_cast<T>(v);
}
template <>
__half rounded(double v) {
  return __double2half(v);
}
template <>
__nv_bfloat16 rounded(double v) {
  return __double2bfloat16(v);
}

template <class T>
T reduced(const std::string& op, T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    if (op == "add") return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    if (op == "min") return std::min(a, b);
    if (op == "max") return std::max(a, b);
    if (op == "inc") return a >= b ? 0 : a + 1;
    if (op == "dec") return a == 0 || a > b ? b : a - 1;
    if (op == "and") return a & b;
    if (op == "or") return a | b;
    return a ^ b;
  } else {
    if (op == "add") return rounded<T>(value(a) + value(b));
    return (op == "min") == (value(a) < value(b)) ? a : b;
  }
}

template <class T>
void check_reduction(const char* op, void (*kernel)(void*, const uint4*)) {
  const size_t n = 64 / sizeof(T);
  std::vector<T> a(n), b(n), want(n);
  for (size_t k = 0; k < n; ++k) {
    const int64_t x = static_cast<int64_t>((k * 7 + 3) % 11) - 5, y = static_cast<int64_t>((k * 5 + 1) % 13) - 6;
    a[k] = rounded<T>(std::is_unsigned_v<T> ? static_cast<double>(x + 5) : static_cast<double>(x) * 1.25);
    b[k] = rounded<T>(std::is_unsigned_v<T> ? static_cast<double>(y + 6) : static_cast<double>(y) * 1.125);
    want[k] = reduced(op, a[k], b[k]);
  }
  test::Buffer<T> to(a), from(b);
  kernel<<<1, 32>>>(to.data(), reinterpret_cast<const uint4*>(from.data()));
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (size_t k = 0; k < n; ++k)
    ASSERT_EQ(0, std::memcmp(&out[k], &want[k], sizeof(T)))
        << op << " " << k << ": " << value(out[k]) << " for " << value(want[k]);
}

TEST(Bulk, Reductions) {
#define CHECK_REDUCTION(op, type, T, text) check_reduction<T>(#op, reduce_##op##_##type);
  REDUCTIONS(CHECK_REDUCTION)
}

// ---- with a tensor map

struct Form {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT16;
  int bytes = 2;
  std::vector<uint64_t> size;  // elements
  std::vector<uint32_t> box;
  std::vector<uint32_t> step = {};
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
  bool nan = false;
  int pad = 0;  // bytes behind each row of dimension 0, of 16

  int rank() const { return static_cast<int>(size.size()); }
  std::vector<uint64_t> strides() const {  // bytes, of every dimension
    std::vector<uint64_t> s = {static_cast<uint64_t>(bytes)};
    uint64_t next = (size[0] * bytes + 15) / 16 * 16 + pad;
    for (int d = 1; d < rank(); ++d) s.push_back(next), next *= size[d];
    s.push_back(next);
    return s;
  }
  uint32_t count(int d) const {
    const uint32_t by = step.empty() ? 1 : step[d];
    return (box[d] + by - 1) / by;
  }
  uint32_t row_bytes() const { return count(0) * bytes; }
  uint32_t box_bytes() const {
    uint32_t n = row_bytes();
    for (int d = 1; d < rank(); ++d) n *= count(d);
    return n;
  }
};

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
CUtensorMap encode(const Form& f, void* base) {
  static Encode function = [] {
    void* p = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found);
    return reinterpret_cast<Encode>(p);
  }();
  alignas(64) CUtensorMap map;
  const auto strides = f.strides();
  const auto step = f.step.empty() ? std::vector<uint32_t>(f.rank(), 1) : f.step;
  const CUresult r =
      function(&map, f.type, f.rank(), base, f.size.data(), strides.data() + 1, f.box.data(), step.data(),
               CU_TENSOR_MAP_INTERLEAVE_NONE, f.swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
               f.nan ? CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA : CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  EXPECT_EQ(CUDA_SUCCESS, r);
  return map;
}

struct Coordinates {
  int at[5];
};

#define TENSOR_LOAD(dims, list)                                                                                   \
  asm volatile("cp.async.bulk.tensor." dims                                                                       \
               ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, " list "], [%2];" ::"r"(to), \
               "l"(map), "r"(barrier), "r"(c.at[0]), "r"(c.at[1]), "r"(c.at[2]), "r"(c.at[3]), "r"(c.at[4])       \
               : "memory")
__device__ void tensor_load(int rank, uint32_t to, const CUtensorMap* map, uint32_t barrier, const Coordinates& c) {
  if (rank == 1) TENSOR_LOAD("1d", "{%3}");
  if (rank == 2) TENSOR_LOAD("2d", "{%3, %4}");
  if (rank == 3) TENSOR_LOAD("3d", "{%3, %4, %5}");
  if (rank == 4) TENSOR_LOAD("4d", "{%3, %4, %5, %6}");
  if (rank == 5) TENSOR_LOAD("5d", "{%3, %4, %5, %6, %7}");
}
#define TENSOR_STORE(text, dims, list)                                                                          \
  asm volatile("cp." text "async.bulk.tensor." dims ".global.shared::cta." list " [%1];" ::"l"(map), "r"(from), \
               "r"(c.at[0]), "r"(c.at[1]), "r"(c.at[2]), "r"(c.at[3]), "r"(c.at[4])                             \
               : "memory")
__device__ void tensor_store(int rank, bool add, const CUtensorMap* map, uint32_t from, const Coordinates& c) {
  if (add) {
    if (rank == 1) TENSOR_STORE("reduce.", "1d", "add.tile.bulk_group [%0, {%2}],");
    if (rank == 2) TENSOR_STORE("reduce.", "2d", "add.bulk_group [%0, {%2, %3}],");
    if (rank == 3) TENSOR_STORE("reduce.", "3d", "add.bulk_group [%0, {%2, %3, %4}],");
  } else {
    if (rank == 1) TENSOR_STORE("", "1d", "bulk_group [%0, {%2}],");
    if (rank == 2) TENSOR_STORE("", "2d", "tile.bulk_group [%0, {%2, %3}],");
    if (rank == 3) TENSOR_STORE("", "3d", "bulk_group [%0, {%2, %3, %4}],");
    if (rank == 4) TENSOR_STORE("", "4d", "bulk_group [%0, {%2, %3, %4, %5}],");
    if (rank == 5) TENSOR_STORE("", "5d", "bulk_group [%0, {%2, %3, %4, %5, %6}],");
  }
}

// The box as it lies in shared memory, `offset` bytes behind a multiple of 1024.
__global__ void load_box(const __grid_constant__ CUtensorMap map, uint8_t* out, int rank, Coordinates c, uint32_t bytes,
                         uint32_t offset) {
  extern __shared__ __align__(1024) uint8_t raw[];
  __shared__ uint64_t full;
  uint8_t* s = raw + (1024 - shared_address(raw) % 1024) % 1024 + offset;
  if (threadIdx.x == 0) {
    init(&full, 1);
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
    expect(&full, bytes);
    tensor_load(rank, shared_address(s), &map, shared_address(&full), c);
  }
  __syncthreads();
  wait(&full, 0);
  for (uint32_t k = threadIdx.x; k < bytes; k += blockDim.x) out[k] = s[k];
}

__global__ void store_box(const __grid_constant__ CUtensorMap map, const uint8_t* in, int rank, Coordinates c,
                          uint32_t bytes, uint32_t offset, bool add, bool fenced) {
  extern __shared__ __align__(1024) uint8_t raw[];
  uint8_t* s = raw + (1024 - shared_address(raw) % 1024) % 1024 + offset;
  for (uint32_t k = threadIdx.x; k < bytes; k += blockDim.x) s[k] = in[k];
  if (fenced) fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    tensor_store(rank, add, &map, shared_address(s), c);
    commit();
    wait_stored();
  }
}

/// Calls f(offset in the box's shared memory, offset in the tensor or -1) for every element.
void each_element(const Form& f, const Coordinates& c, uint32_t offset,
                  const std::function<void(uint32_t, int64_t)>& visit) {
  const auto strides = f.strides();
  const uint32_t mask = f.swizzle == CU_TENSOR_MAP_SWIZZLE_128B  ? 7
                        : f.swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? 3
                        : f.swizzle == CU_TENSOR_MAP_SWIZZLE_32B ? 1
                                                                 : 0;
  for (uint32_t n = 0; n < f.box_bytes() / f.bytes; ++n) {
    uint32_t rest = n;
    int64_t at = 0;
    bool inside = true;
    for (int d = 0; d < f.rank(); ++d) {
      const int64_t x = c.at[d] + static_cast<int64_t>(rest % f.count(d)) * (f.step.empty() ? 1 : f.step[d]);
      rest /= f.count(d);
      inside &= x >= 0 && x < static_cast<int64_t>(f.size[d]);
      at += x * static_cast<int64_t>(strides[d]);
    }
    const uint32_t address = offset + n * f.bytes;
    const uint32_t chunk = address / 16 % 8, row = address / 128 % 8;
    visit(address - chunk * 16 + (chunk ^ (row & mask)) * 16 - offset, inside ? at : -1);
  }
}

std::vector<uint8_t> bytes_of(size_t n) {
  std::vector<uint8_t> v(n);
  for (size_t k = 0; k < n; ++k) v[k] = static_cast<uint8_t>((k * 2654435761u) >> 13 | 1);
  return v;
}

void check_load(const Form& f, const Coordinates& c, uint32_t offset = 0) {
  const auto host = bytes_of(f.strides().back());
  test::Buffer<uint8_t> tensor(host), to(f.box_bytes());
  load_box<<<1, 128, 65536>>>(encode(f, tensor.data()), to, f.rank(), c, f.box_bytes(), offset);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  each_element(f, c, offset, [&](uint32_t at, int64_t from) {
    if (from >= 0) {
      ASSERT_EQ(0, std::memcmp(&out[at], &host[from], f.bytes)) << at << " " << from;
    } else if (f.nan) {
      const double v = f.type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                           ? *reinterpret_cast<const float*>(&out[at])
                           : __half2float(*reinterpret_cast<const __half*>(&out[at]));
      ASSERT_TRUE(std::isnan(v)) << at;
    } else {
      for (int k = 0; k < f.bytes; ++k) ASSERT_EQ(out[at + k], 0) << at;
    }
  });
}

class Tensor : public testing::Test {
 protected:
  void SetUp() override {
    cudaFuncSetAttribute(load_box, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536);
    cudaFuncSetAttribute(store_box, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536);
  }
};

TEST_F(Tensor, LoadDimensions) {
  check_load({.size = {300}, .box = {64}}, {{40}});
  check_load({.size = {100, 50}, .box = {32, 10}}, {{8, 17}});
  check_load({.size = {40, 12, 9}, .box = {16, 5, 3}}, {{8, 3, 2}});
  check_load({.size = {24, 5, 4, 6}, .box = {8, 3, 2, 3}, .pad = 32}, {{8, 1, 1, 2}});
  check_load({.size = {16, 5, 4, 3, 6}, .box = {8, 3, 2, 2, 3}}, {{8, 1, 1, 1, 2}});
}

TEST_F(Tensor, LoadTypes) {
  check_load({.type = CU_TENSOR_MAP_DATA_TYPE_UINT8, .bytes = 1, .size = {100, 50}, .box = {32, 10}}, {{7, 17}});
  check_load({.type = CU_TENSOR_MAP_DATA_TYPE_INT32, .bytes = 4, .size = {100, 50}, .box = {32, 10}}, {{7, 17}});
  check_load({.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32, .bytes = 4, .size = {100, 50}, .box = {256, 10}}, {{7, 17}});
  check_load({.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT64, .bytes = 8, .size = {100, 50}, .box = {32, 10}}, {{7, 17}});
  check_load({.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, .size = {100, 50}, .box = {32, 10}}, {{7, 17}});
}

TEST_F(Tensor, LoadSwizzled) {
  const CUtensorMapSwizzle swizzles[] = {CU_TENSOR_MAP_SWIZZLE_32B, CU_TENSOR_MAP_SWIZZLE_64B,
                                         CU_TENSOR_MAP_SWIZZLE_128B};
  for (int k = 0; k < 3; ++k) {
    for (uint32_t offset : {0u, 128u, 640u, 1024u}) {  // the pattern goes by the address, wherever the box begins
      SCOPED_TRACE(k * 10000 + offset);
      check_load({.size = {200, 70}, .box = {16u << k, 40}, .swizzle = swizzles[k]}, {{24, 20}}, offset);
      check_load({.size = {200, 7, 9}, .box = {16u << k, 5, 6}, .swizzle = swizzles[k]}, {{190, -2, 5}}, offset);
      check_load({.type = CU_TENSOR_MAP_DATA_TYPE_UINT8,
                  .bytes = 1,
                  .size = {300, 70},
                  .box = {32u << k, 64},
                  .swizzle = swizzles[k]},
                 {{16, 30}}, offset);
    }
  }
}

TEST_F(Tensor, LoadOutOfBounds) {
  const CUtensorMapDataType f16 = CU_TENSOR_MAP_DATA_TYPE_FLOAT16, f32 = CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  for (Coordinates c : {Coordinates{{-5, -3}}, {{90, 45}}, {{-40, 0}}, {{0, 60}}, {{200, -200}}, {{-7, 46}}}) {
    SCOPED_TRACE(c.at[0]);
    check_load({.type = f16, .size = {100, 50}, .box = {32, 10}}, c);
    check_load({.type = f16, .size = {100, 50}, .box = {32, 10}, .nan = true}, c);
    check_load({.type = f32,
                .bytes = 4,
                .size = {100, 50},
                .box = {32, 10},
                .swizzle = CU_TENSOR_MAP_SWIZZLE_128B,
                .nan = true},
               c);
  }
}

TEST_F(Tensor, LoadStrided) {
  check_load({.size = {100, 50, 20}, .box = {32, 20, 7}, .step = {1, 3, 2}}, {{8, 17, 9}});
  check_load({.size = {100, 50}, .box = {64, 40}, .step = {1, 8}, .swizzle = CU_TENSOR_MAP_SWIZZLE_128B}, {{8, 27}});
}

template <class T>
void check_store(const Form& f, const Coordinates& c, bool add, uint32_t offset = 0) {
  std::vector<T> host(f.strides().back() / sizeof(T)), box(f.box_bytes() / sizeof(T));
  for (size_t k = 0; k < host.size(); ++k) host[k] = rounded<T>(static_cast<double>(k * 7 % 64));
  for (size_t k = 0; k < box.size(); ++k) box[k] = rounded<T>(static_cast<double>(k * 11 % 53 + 1));
  test::Buffer<T> tensor(host), from(box);
  store_box<<<1, 128, 65536>>>(encode(f, tensor.data()), reinterpret_cast<const uint8_t*>(from.data()), f.rank(), c,
                               f.box_bytes(), offset, add, true);
  ASSERT_TRUE(test::ok());
  const auto out = tensor.read();
  auto want = host;
  each_element(f, c, offset, [&](uint32_t at, int64_t to) {
    if (to < 0) return;
    T& w = want[to / sizeof(T)];
    w = add ? rounded<T>(value(w) + value(box[at / sizeof(T)])) : box[at / sizeof(T)];
  });
  for (size_t k = 0; k < want.size(); ++k) ASSERT_EQ(value(out[k]), value(want[k])) << k;
}

TEST_F(Tensor, Store) {
  check_store<uint16_t>({.size = {300}, .box = {64}}, {{40}}, false);
  check_store<uint16_t>({.size = {100, 50}, .box = {32, 10}}, {{-8, 45}}, false);
  check_store<uint16_t>({.size = {40, 12, 9}, .box = {16, 5, 3}, .pad = 16}, {{8, 3, 2}}, false);
  check_store<uint16_t>({.size = {24, 5, 4, 6}, .box = {8, 3, 2, 3}}, {{8, 1, 1, 2}}, false);
  check_store<uint16_t>({.size = {16, 5, 4, 3, 6}, .box = {8, 3, 2, 2, 3}}, {{8, -1, 1, 1, 2}}, false);
  check_store<uint16_t>({.size = {100, 50}, .box = {16, 10}, .swizzle = CU_TENSOR_MAP_SWIZZLE_32B}, {{90, 3}}, false);
  check_store<uint16_t>({.size = {100, 50}, .box = {32, 10}, .swizzle = CU_TENSOR_MAP_SWIZZLE_64B}, {{90, 3}}, false,
                        128);
  check_store<uint16_t>({.size = {100, 50}, .box = {64, 30}, .swizzle = CU_TENSOR_MAP_SWIZZLE_128B}, {{80, 30}}, false,
                        384);
}

TEST_F(Tensor, ReduceAdd) {
  check_store<uint32_t>({.type = CU_TENSOR_MAP_DATA_TYPE_UINT32, .bytes = 4, .size = {300}, .box = {64}}, {{-10}},
                        true);
  check_store<float>({.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                      .bytes = 4,
                      .size = {100, 50},
                      .box = {32, 10},
                      .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                     {{80, 45}}, true);
  check_store<__half>({.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                       .size = {100, 5, 8},
                       .box = {64, 3, 2},
                       .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                      {{80, 3, 1}}, true);
  check_store<__nv_bfloat16>({.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, .size = {100, 50}, .box = {32, 10}}, {{8, 5}},
                             true);
}

#if SACCADE_EMULATED
TEST_F(Tensor, Faults) {
  const Form f{.size = {100, 50}, .box = {32, 10}};
  test::Buffer<uint8_t> tensor(bytes_of(f.strides().back())), box(bytes_of(f.box_bytes()));
  const CUtensorMap map = encode(f, tensor.data());
  const Coordinates c{{0, 0}};
  store_box<<<1, 128, 65536>>>(map, box, 2, c, f.box_bytes(), 0, false, true);
  EXPECT_TRUE(test::ok());
  store_box<<<1, 128, 65536>>>(map, box, 2, c, f.box_bytes(), 0, false, false);
  EXPECT_TRUE(test::found("missing fence.proxy.async"));
  store_box<<<1, 128, 65536>>>(map, box, 2, c, f.box_bytes(), 64, false, true);
  EXPECT_TRUE(test::found("not aligned to 128"));
  load_box<<<1, 128, 65536>>>(map, box, 2, c, f.box_bytes(), 16);
  EXPECT_TRUE(test::found("not aligned to 128"));
  load_box<<<1, 128, 65536>>>(map, box, 3, c, f.box_bytes(), 0);
  EXPECT_TRUE(test::found("2 dimensions"));
  load_box<<<1, 128, 65536>>>(map, box, 2, c, f.box_bytes() + 16, 0);
  EXPECT_TRUE(test::found({"loop without an effect", "0 of 1 arrivals and 656 bytes missing, 640 bytes under way"}));
  CUtensorMap broken{};
  load_box<<<1, 128, 65536>>>(broken, box, 2, c, f.box_bytes(), 0);
  EXPECT_TRUE(test::found("cuTensorMapEncodeTiled"));
}
#endif

// Each of two CTAs loads half of a tile for both.
__global__ void __cluster_dims__(2) multicast(const __grid_constant__ CUtensorMap map, uint16_t* out) {
  __shared__ alignas(1024) uint16_t s[2][16 * 64];
  __shared__ uint64_t full;
  const uint32_t rank = rank_in_cluster();
  if (threadIdx.x == 0) {
    init(&full, 1);
    expect(&full, sizeof s);
  }
  cluster_sync();
  if (threadIdx.x == 0)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint "
        "[%0], [%1, "
        "{%2, %3}], [%4], %5, %6;" ::"r"(shared_address(s[rank])),
        "l"(&map), "r"(0), "r"(rank * 16), "r"(shared_address(&full)), "h"(static_cast<uint16_t>(3)),
        "l"(0x1000000000000000)
        : "memory");
  wait(&full, 0);
  for (int k = threadIdx.x; k < 2048; k += blockDim.x) out[rank * 2048 + k] = s[0][k];
  cluster_sync();
}

TEST_F(Tensor, Multicast) {
  const Form f{.size = {64, 40}, .box = {64, 16}};
  std::vector<uint16_t> host(64 * 40);
  for (size_t k = 0; k < host.size(); ++k) host[k] = static_cast<uint16_t>(k);
  test::Buffer<uint16_t> tensor(host), to(4096);
  multicast<<<2, 128>>>(encode(f, tensor.data()), to);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (int k = 0; k < 4096; ++k) ASSERT_EQ(out[k], k % 2048) << k;
}

}  // namespace
