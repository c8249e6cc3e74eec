#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "test.h"

// ld, st, atom, red, cvta, isspacep against plain C++ on the host.
namespace {

template <class T>
std::vector<T> random_bits(size_t n, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::vector<T> out(n);
  for (T& v : out) {
    const uint64_t bits = random();
    std::memcpy(&v, &bits, sizeof(T));
  }
  return out;
}

// ---- loads and stores narrower than their register ----

__global__ void narrow_loads(const char* in, int16_t* h, int32_t* w, int64_t* d) {
  const int t = threadIdx.x;
  const char *one = in + t, *two = in + 2 * t, *four = in + 4 * t;
  int16_t a, b;
  asm volatile("ld.global.s8 %0, [%1];" : "=h"(a) : "l"(one));
  asm volatile("ld.global.u8 %0, [%1];" : "=h"(b) : "l"(one));
  h[t] = a, h[32 + t] = b;
  int32_t x[4];
  asm volatile("ld.global.s8 %0, [%1];" : "=r"(x[0]) : "l"(one));
  asm volatile("ld.global.u8 %0, [%1];" : "=r"(x[1]) : "l"(one));
  asm volatile("ld.global.s16 %0, [%1];" : "=r"(x[2]) : "l"(two));
  asm volatile("ld.global.u16 %0, [%1];" : "=r"(x[3]) : "l"(two));
  for (int k = 0; k < 4; ++k) w[32 * k + t] = x[k];
  int64_t y[6];
  asm volatile("ld.global.s8 %0, [%1];" : "=l"(y[0]) : "l"(one));
  asm volatile("ld.global.b8 %0, [%1];" : "=l"(y[1]) : "l"(one));
  asm volatile("ld.global.s16 %0, [%1];" : "=l"(y[2]) : "l"(two));
  asm volatile("ld.global.b16 %0, [%1];" : "=l"(y[3]) : "l"(two));
  asm volatile("ld.global.s32 %0, [%1];" : "=l"(y[4]) : "l"(four));
  asm volatile("ld.global.b32 %0, [%1];" : "=l"(y[5]) : "l"(four));
  for (int k = 0; k < 6; ++k) d[32 * k + t] = y[k];
}
TEST(Load, NarrowerThanItsRegister) {
  const auto bytes = random_bits<char>(128, 1);
  test::Buffer<char> in(bytes);
  test::Buffer<int16_t> h(64);
  test::Buffer<int32_t> w(128);
  test::Buffer<int64_t> d(192);
  narrow_loads<<<1, 32>>>(in, h, w, d);
  ASSERT_TRUE(test::ok());
  const auto hv = h.read();
  const auto wv = w.read();
  const auto dv = d.read();
  for (int t = 0; t < 32; ++t) {
    const int8_t one = bytes[t];
    int16_t two;
    int32_t four;
    std::memcpy(&two, &bytes[2 * t], 2);
    std::memcpy(&four, &bytes[4 * t], 4);
    EXPECT_EQ(hv[t], one);
    EXPECT_EQ(hv[32 + t], static_cast<uint8_t>(one));
    EXPECT_EQ(wv[t], one);
    EXPECT_EQ(wv[32 + t], static_cast<uint8_t>(one));
    EXPECT_EQ(wv[64 + t], two);
    EXPECT_EQ(wv[96 + t], static_cast<uint16_t>(two));
    const int64_t want[6] = {one,  static_cast<uint8_t>(one),  two, static_cast<uint16_t>(two),
                             four, static_cast<uint32_t>(four)};
    for (int k = 0; k < 6; ++k) EXPECT_EQ(dv[32 * k + t], want[k]) << k;
  }
}

__global__ void narrow_stores(const uint64_t* in, char* out) {
  const uint64_t v = in[threadIdx.x];
  char* to = out + 16 * threadIdx.x;
  asm volatile("st.global.u8 [%0], %1;" ::"l"(to), "h"(static_cast<uint16_t>(v)));
  asm volatile("st.global.u8 [%0+1], %1;" ::"l"(to), "r"(static_cast<uint32_t>(v >> 8)));
  asm volatile("st.global.s8 [%0+2], %1;" ::"l"(to), "l"(v >> 16));
  asm volatile("st.global.u16 [%0+4], %1;" ::"l"(to), "r"(static_cast<uint32_t>(v >> 32)));
  asm volatile("st.global.b16 [%0+6], %1;" ::"l"(to), "l"(v >> 48));
  asm volatile("st.global.b32 [%0+8], %1;" ::"l"(to), "l"(v));
}
TEST(Store, NarrowerThanItsRegister) {
  const auto values = random_bits<uint64_t>(32, 2);
  test::Buffer<uint64_t> in(values);
  test::Buffer<char> out(std::vector<char>(512, 0x55));
  narrow_stores<<<1, 32>>>(in, out);
  ASSERT_TRUE(test::ok());
  std::vector<char> want(512, 0x55);
  for (int t = 0; t < 32; ++t) {
    std::memcpy(&want[16 * t], &values[t], 3);
    const uint32_t high = values[t] >> 32, low = static_cast<uint32_t>(values[t]);
    std::memcpy(&want[16 * t + 4], &high, 4);
    std::memcpy(&want[16 * t + 8], &low, 4);
  }
  EXPECT_EQ(out.read(), want);
}

// ---- vectors ----

__global__ void vectors(const char* in, char* out) {
  const char* a = in + 16 * threadIdx.x;
  char* o = out + 64 * threadIdx.x;
  uint32_t r[4];
  uint64_t d[2];
  uint16_t h[4];
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "l"(a));
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(o), "r"(r[3]), "r"(r[2]), "r"(r[1]), "r"(r[0]));
  asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(d[0]), "=l"(d[1]) : "l"(a));
  asm volatile("st.global.v2.b64 [%0+16], {%1, %2};" ::"l"(o), "l"(d[1]), "l"(d[0]));
  asm volatile("ld.global.v4.u16 {%0, %1, %2, %3}, [%4+8];" : "=h"(h[0]), "=h"(h[1]), "=h"(h[2]), "=h"(h[3]) : "l"(a));
  asm volatile("st.global.v4.b16 [%0+32], {%1, %2, %3, %4};" ::"l"(o), "h"(h[3]), "h"(h[2]), "h"(h[1]), "h"(h[0]));
  asm volatile("ld.global.v4.u8 {%0, %1, %2, %3}, [%4+4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "l"(a));
  asm volatile("st.global.v4.u8 [%0+40], {%1, %2, %3, %4};" ::"l"(o), "r"(r[3]), "r"(r[2]), "r"(r[1]), "r"(r[0]));
  // a destination that is the address, and one that is thrown away
  asm volatile("{ .reg .b64 t, u; mov.b64 t, %0; ld.global.v2.b64 {t, u}, [t]; st.global.b64 [%1+48], t; }" ::"l"(a),
               "l"(o)
               : "memory");
  asm volatile("{ .reg .b64 t; ld.global.v2.b64 {_, t}, [%0]; st.global.b64 [%1+56], t; }" ::"l"(a), "l"(o) : "memory");
}
TEST(LoadStore, Vectors) {
  const auto bytes = random_bits<char>(512, 3);
  test::Buffer<char> in(bytes), out(std::vector<char>(64 * 32));
  vectors<<<1, 32>>>(in, out);
  ASSERT_TRUE(test::ok());
  std::vector<char> want(64 * 32);
  for (int t = 0; t < 32; ++t) {
    const char* a = &bytes[16 * t];
    char* o = &want[64 * t];
    for (int k = 0; k < 4; ++k) std::memcpy(o + 4 * k, a + 4 * (3 - k), 4);
    for (int k = 0; k < 2; ++k) std::memcpy(o + 16 + 8 * k, a + 8 * (1 - k), 8);
    for (int k = 0; k < 4; ++k) std::memcpy(o + 32 + 2 * k, a + 8 + 2 * (3 - k), 2);
    for (int k = 0; k < 4; ++k) o[40 + k] = a[4 + 3 - k];
    std::memcpy(o + 48, a, 16);
  }
  EXPECT_EQ(out.read(), want);
}

__global__ void predicated(const int* in, int* out) {  // lanes that take no part keep their register, and touch nothing
  int v = -1;
  const int* from = threadIdx.x % 3 == 0 ? in + threadIdx.x : nullptr;
  asm volatile("{ .reg .pred p; setp.ne.u64 p, %1, 0; @p ld.global.u32 %0, [%1]; }" : "+r"(v) : "l"(from));
  out[threadIdx.x] = v;
}
TEST(Load, Predicated) {
  const auto values = random_bits<int>(32, 4);
  test::Buffer<int> in(values), out(32);
  predicated<<<1, 32>>>(in, out);
  ASSERT_TRUE(test::ok());
  auto want = values;
  for (int t = 0; t < 32; ++t)
    if (t % 3) want[t] = -1;
  EXPECT_EQ(out.read(), want);
}

// ---- state spaces and generic addresses ----

__constant__ int table[32];
struct Parameters {
  int value[32];
};
__device__ int device_table[32];

__global__ void spaces(const __grid_constant__ Parameters params, const int* global, int* out) {
  __shared__ int shared[32];
  volatile int local[4];
  const int t = threadIdx.x;
  shared[t] = 100 + t;
  for (int k = 0; k < 4; ++k) local[k] = 1000 * k + t;
  __syncwarp();
  // one load through generic addresses of five spaces in one warp
  const volatile int* from[5] = {global + t, shared + (t ^ 1), local + t % 4, table + t, params.value + t};
  out[t] = *from[t % 5];
  int flags[5];
  for (int k = 0; k < 5; ++k) {
    const void* p = const_cast<const int*>(from[k]);
    flags[k] = __isGlobal(p) | __isShared(p) << 1 | __isLocal(p) << 2 | __isConstant(p) << 3 | __isGridConstant(p) << 4;
  }
  for (int k = 0; k < 5; ++k) out[32 + 32 * k + t] = flags[k];
  uint64_t generic;
  asm volatile("cvta.shared.u64 %0, %1;" : "=l"(generic) : "l"(__cvta_generic_to_shared(shared + t)));
  out[192 + t] = generic == reinterpret_cast<uint64_t>(shared + t);
  asm volatile("cvta.local.u64 %0, %1;" : "=l"(generic) : "l"(__cvta_generic_to_local(const_cast<int*>(local + 1))));
  out[224 + t] = generic == reinterpret_cast<uint64_t>(local + 1);
  device_table[t] = table[31 - t];
}
TEST(Spaces, GenericAddresses) {
  const auto global = random_bits<int>(32, 5), constant = random_bits<int>(32, 6);
  Parameters params;
  for (int k = 0; k < 32; ++k) params.value[k] = -k;
  cudaMemcpyToSymbol(table, constant.data(), 128);
  test::Buffer<int> in(global), out(256);
  spaces<<<1, 32>>>(params, in, out);
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (int t = 0; t < 32; ++t) {
    const int want[5] = {global[t], 100 + (t ^ 1), 1000 * (t % 4) + t, constant[t], -t};
    EXPECT_EQ(got[t], want[t % 5]) << t;
    EXPECT_EQ(got[32 + t], 1);
    EXPECT_EQ(got[64 + t], 2);
    EXPECT_EQ(got[96 + t], 4);
    EXPECT_EQ(got[128 + t] & 14, 8);
    EXPECT_EQ(got[160 + t] & 30, 16);
    EXPECT_EQ(got[192 + t], 1);
    EXPECT_EQ(got[224 + t], 1);
  }
  std::vector<int> copied(32);
  cudaMemcpyFromSymbol(copied.data(), device_table, 128);
  EXPECT_EQ(copied, std::vector<int>(constant.rbegin(), constant.rend()));
}

// ---- atomics ----

enum class Where { global, shared };

// One atomic a lane on its own place; old and new value.
#define ATOMIC_KERNEL(name, T, reg, sem, suffix)                                                               \
  template <Where kWhere>                                                                                      \
  __global__ void name(const T* start, const T* b, const T* c, T* old, T* now) {                               \
    __shared__ T s[32];                                                                                        \
    const int t = threadIdx.x;                                                                                 \
    T r{};                                                                                                     \
    if (kWhere == Where::global) {                                                                             \
      now[t] = start[t];                                                                                       \
      asm volatile("atom" sem ".global." suffix : "=" reg(r) : "l"(now + t), reg(b[t]), reg(c[t]) : "memory"); \
    } else {                                                                                                   \
      s[t] = start[t];                                                                                         \
      const auto at = static_cast<unsigned>(__cvta_generic_to_shared(s + t));                                  \
      asm volatile("atom" sem ".shared." suffix : "=" reg(r) : "r"(at), reg(b[t]), reg(c[t]) : "memory");      \
      now[t] = s[t];                                                                                           \
    }                                                                                                          \
    old[t] = r;                                                                                                \
  }
ATOMIC_KERNEL(add_u32, uint32_t, "r", "", "add.u32 %0, [%1], %2;")
ATOMIC_KERNEL(add_u64, uint64_t, "l", "", "add.u64 %0, [%1], %2;")
ATOMIC_KERNEL(add_f32, float, "f", "", "add.f32 %0, [%1], %2;")
ATOMIC_KERNEL(add_f64, double, "d", "", "add.f64 %0, [%1], %2;")
ATOMIC_KERNEL(min_s32, int32_t, "r", "", "min.s32 %0, [%1], %2;")
ATOMIC_KERNEL(max_s32, int32_t, "r", ".relaxed.gpu", "max.s32 %0, [%1], %2;")
ATOMIC_KERNEL(min_u32, uint32_t, "r", "", "min.u32 %0, [%1], %2;")
ATOMIC_KERNEL(max_u64, uint64_t, "l", ".acq_rel.cta", "max.u64 %0, [%1], %2;")
ATOMIC_KERNEL(min_s64, int64_t, "l", "", "min.s64 %0, [%1], %2;")
ATOMIC_KERNEL(and_b32, uint32_t, "r", "", "and.b32 %0, [%1], %2;")
ATOMIC_KERNEL(or_b64, uint64_t, "l", "", "or.b64 %0, [%1], %2;")
ATOMIC_KERNEL(xor_b32, uint32_t, "r", "", "xor.b32 %0, [%1], %2;")
ATOMIC_KERNEL(exch_b64, uint64_t, "l", "", "exch.b64 %0, [%1], %2;")
ATOMIC_KERNEL(cas_b16, uint16_t, "h", "", "cas.b16 %0, [%1], %2, %3;")
ATOMIC_KERNEL(cas_b32, uint32_t, "r", "", "cas.b32 %0, [%1], %2, %3;")
ATOMIC_KERNEL(cas_b64, uint64_t, "l", ".release.gpu", "cas.b64 %0, [%1], %2, %3;")
ATOMIC_KERNEL(inc_u32, uint32_t, "r", "", "inc.u32 %0, [%1], %2;")
ATOMIC_KERNEL(dec_u32, uint32_t, "r", "", "dec.u32 %0, [%1], %2;")

template <class T, class F, class Kernel>
void check_atomic(const char* name, Kernel on_global, Kernel on_shared, F f, std::vector<T> start, std::vector<T> b,
                  std::vector<T> c = std::vector<T>(32)) {
  SCOPED_TRACE(name);
  for (Kernel kernel : {on_global, on_shared}) {
    SCOPED_TRACE(kernel == on_global ? "global" : "shared");
    test::Buffer<T> s(start), bs(b), cs(c), old(32), now(32);
    kernel<<<1, 32>>>(s, bs, cs, old, now);
    ASSERT_TRUE(test::ok());
    const auto o = old.read(), n = now.read();
    EXPECT_EQ(std::memcmp(o.data(), start.data(), 32 * sizeof(T)), 0);
    for (int t = 0; t < 32; ++t) {
      const T want = f(start[t], b[t], c[t], kernel == on_global);
      EXPECT_EQ(std::memcmp(&n[t], &want, sizeof(T)), 0) << t << ": " << +n[t] << " for " << +want;
    }
  }
}
#define CHECK_ATOMIC(T, name, ...) \
  check_atomic<T>(#name, name<Where::global>, name<Where::shared>, [](T a, T b, T c, bool global) -> T __VA_ARGS__)

template <class T>
std::vector<T> mixed(uint32_t seed) {  // small, equal, extreme and arbitrary values
  auto v = random_bits<T>(32, seed);
  for (int t = 0; t < 16; ++t) v[t] = static_cast<T>((t * 7 + seed) % 5);
  v[30] = std::numeric_limits<T>::max();
  v[31] = std::numeric_limits<T>::lowest();
  return v;
}
std::vector<float> floats(uint32_t seed) {
  std::vector<float> v;
  std::mt19937 random(seed);
  for (int t = 0; t < 32; ++t)
    v.push_back(std::ldexp(static_cast<float>(random()) - 0x1p31f, static_cast<int>(random() % 40) - 60));
  return v;
}
float flushed(float v, bool flush) {
  return flush && std::fabs(v) < std::numeric_limits<float>::min() ? std::copysign(0.f, v) : v;
}

TEST(Atomics, Integers) {
  CHECK_ATOMIC(uint32_t, add_u32, { return a + b; }, mixed<uint32_t>(1), mixed<uint32_t>(2));
  CHECK_ATOMIC(uint64_t, add_u64, { return a + b; }, mixed<uint64_t>(3), mixed<uint64_t>(4));
  CHECK_ATOMIC(int32_t, min_s32, { return std::min(a, b); }, mixed<int32_t>(5), mixed<int32_t>(6));
  CHECK_ATOMIC(int32_t, max_s32, { return std::max(a, b); }, mixed<int32_t>(7), mixed<int32_t>(8));
  CHECK_ATOMIC(uint32_t, min_u32, { return std::min(a, b); }, mixed<uint32_t>(9), mixed<uint32_t>(10));
  CHECK_ATOMIC(uint64_t, max_u64, { return std::max(a, b); }, mixed<uint64_t>(11), mixed<uint64_t>(12));
  CHECK_ATOMIC(int64_t, min_s64, { return std::min(a, b); }, mixed<int64_t>(13), mixed<int64_t>(14));
  CHECK_ATOMIC(uint32_t, and_b32, { return a & b; }, mixed<uint32_t>(15), mixed<uint32_t>(16));
  CHECK_ATOMIC(uint64_t, or_b64, { return a | b; }, mixed<uint64_t>(17), mixed<uint64_t>(18));
  CHECK_ATOMIC(uint32_t, xor_b32, { return a ^ b; }, mixed<uint32_t>(19), mixed<uint32_t>(20));
  CHECK_ATOMIC(uint64_t, exch_b64, { return b; }, mixed<uint64_t>(21), mixed<uint64_t>(22));
  CHECK_ATOMIC(
      uint16_t, cas_b16, { return a == b ? c : a; }, mixed<uint16_t>(23), mixed<uint16_t>(24), mixed<uint16_t>(25));
  CHECK_ATOMIC(
      uint32_t, cas_b32, { return a == b ? c : a; }, mixed<uint32_t>(26), mixed<uint32_t>(27), mixed<uint32_t>(28));
  CHECK_ATOMIC(
      uint64_t, cas_b64, { return a == b ? c : a; }, mixed<uint64_t>(29), mixed<uint64_t>(30), mixed<uint64_t>(31));
  CHECK_ATOMIC(uint32_t, inc_u32, { return a >= b ? 0 : a + 1; }, mixed<uint32_t>(32), mixed<uint32_t>(33));
  CHECK_ATOMIC(uint32_t, dec_u32, { return a == 0 || a > b ? b : a - 1; }, mixed<uint32_t>(34), mixed<uint32_t>(35));
}

TEST(Atomics, Floats) {
  auto a = floats(1), b = floats(2);
  a[0] = 0x1p-130f, b[0] = 0x1p-130f;  // subnormals: flushed in global memory, kept in shared
  a[1] = 0x1.8p-126f, b[1] = -0x1p-126f;
  a[2] = 1.f, b[2] = 0x1p-149f;
  CHECK_ATOMIC(float, add_f32, { return flushed(flushed(a, global) + flushed(b, global), global); }, a, b);
  std::vector<double> x(a.begin(), a.end()), y(b.begin(), b.end());
  CHECK_ATOMIC(double, add_f64, { return a + b; }, x, y);
}

// Packed halves: an exact sum in f32, rounded once.
template <class T>
__global__ void packed_add(T* data, const T* add, T* old) {
  old[threadIdx.x] = atomicAdd(data + threadIdx.x, add[threadIdx.x]);
}
template <class T, class Round>
void check_packed(Round round) {
  std::vector<T> a(32), b(32);
  std::mt19937 random(3);
  const auto value = [&] {
    return round(std::ldexp(static_cast<float>(random() % 4096) - 2048, static_cast<int>(random() % 8) - 8));
  };
  for (int t = 0; t < 32; ++t) a[t].x = value(), a[t].y = value(), b[t].x = value(), b[t].y = value();
  test::Buffer<T> data(a), add(b), old(32);
  packed_add<<<1, 32>>>(data.data(), add.data(), old.data());
  ASSERT_TRUE(test::ok());
  const auto n = data.read(), o = old.read();
  EXPECT_EQ(std::memcmp(o.data(), a.data(), 32 * sizeof(T)), 0);
  for (int t = 0; t < 32; ++t) {
    EXPECT_EQ(static_cast<float>(n[t].x),
              static_cast<float>(round(static_cast<float>(a[t].x) + static_cast<float>(b[t].x))))
        << t;
    EXPECT_EQ(static_cast<float>(n[t].y),
              static_cast<float>(round(static_cast<float>(a[t].y) + static_cast<float>(b[t].y))))
        << t;
  }
}
TEST(Atomics, PackedHalves) {
  check_packed<__half2>([](float v) { return __float2half_rn(v); });
  check_packed<__nv_bfloat162>([](float v) { return __float2bfloat16_rn(v); });
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__global__ void vector_add(float* data) {
  float* at = data + 4 * (threadIdx.x % 8);
  float r[4];
  asm volatile("atom.global.add.v4.f32 {%0, %1, %2, %3}, [%4], {%5, %6, %7, %8};"
               : "=f"(r[0]), "=f"(r[1]), "=f"(r[2]), "=f"(r[3])
               : "l"(at), "f"(1.f), "f"(2.f), "f"(3.f), "f"(4.f)
               : "memory");
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(at), "f"(10.f), "f"(20.f) : "memory");
  asm volatile("red.global.add.noftz.v2.bf16x2 [%0], {%1, %1};" ::"l"(data + 32 + 2 * (threadIdx.x % 8)),
               "r"(0x3F803F80)
               : "memory");
}
TEST(Atomics, Vectors) {
  test::Buffer<float> data(std::vector<float>(48));
  vector_add<<<4, 64>>>(data);
  ASSERT_TRUE(test::ok());
  const auto got = data.read();
  for (int k = 0; k < 32; ++k) EXPECT_EQ(got[k], 32 * ((k % 4 + 1) + (k % 4 < 2 ? 10 * (k % 4 + 1) : 0))) << k;
  for (int k = 32; k < 48; ++k) {
    uint32_t bits;
    std::memcpy(&bits, &got[k], 4);
    EXPECT_EQ(bits, 0x42004200u) << k;  // 32 twice
  }
}

__global__ void quads(uint64_t* data, uint64_t* old) {
  uint64_t* at = data + 2 * threadIdx.x;
  uint64_t low, high;
  asm volatile(
      "{ .reg .b128 d, b, c; mov.b128 b, {%3, %4}; mov.b128 c, {%5, %6}; atom.global.cas.b128 d, [%2], b, c; mov.b128 "
      "{%0, %1}, d; }"
      : "=l"(low), "=l"(high)
      : "l"(at), "l"(uint64_t{threadIdx.x}), "l"(uint64_t{7}), "l"(uint64_t{11}), "l"(uint64_t{12})
      : "memory");
  old[2 * threadIdx.x] = low, old[2 * threadIdx.x + 1] = high;
}
TEST(Atomics, Quads) {
  std::vector<uint64_t> start(64);
  for (int t = 0; t < 32; ++t) start[2 * t] = t, start[2 * t + 1] = t % 2 ? 7 : 8;
  test::Buffer<uint64_t> data(start), old(64);
  quads<<<1, 32>>>(data, old);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(old.read(), start);
  auto want = start;
  for (int t = 1; t < 32; t += 2) want[2 * t] = 11, want[2 * t + 1] = 12;
  EXPECT_EQ(data.read(), want);
}
#endif

__global__ void contended(unsigned* counts, float* sum, unsigned long long* exchanged, unsigned* lock_free) {
  atomicAdd(&counts[threadIdx.x % 4], 1u);
  atomicAdd(sum, 1.f);
  atomicMax(&counts[4], blockIdx.x * blockDim.x + threadIdx.x);
  for (int k = 0; k < 3; ++k) {
    unsigned seen = *reinterpret_cast<volatile unsigned*>(lock_free), was;
    do was = seen, seen = atomicCAS(lock_free, was, was + 3);
    while (seen != was);
  }
  atomicExch(exchanged, (blockIdx.x + 1ull) << 32 | (blockIdx.x + 1));  // halves must never mix
  const unsigned long long got = *reinterpret_cast<volatile unsigned long long*>(exchanged);
  if (got >> 32 != (got & 0xFFFFFFFF)) atomicAdd(&counts[5], 1u);
}
TEST(Atomics, Contended) {
  test::Buffer<unsigned> counts(std::vector<unsigned>(6)), lock_free(std::vector<unsigned>(1));
  test::Buffer<float> sum(std::vector<float>(1));
  test::Buffer<unsigned long long> exchanged(std::vector<unsigned long long>(1));
  contended<<<64, 128>>>(counts, sum, exchanged, lock_free);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(counts.read(), (std::vector<unsigned>{2048, 2048, 2048, 2048, 8191, 0}));
  EXPECT_EQ(sum.read()[0], 8192.f);
  EXPECT_EQ(lock_free.read()[0], 3u * 3 * 8192);
}

#if SACCADE_EMULATED
// ---- counts ----

__global__ void strided(int stride) {
  __shared__ volatile float s[32 * 33];
  s[threadIdx.x * stride] = 1.f;
}
__global__ void wide(int stride) {  // 16 bytes a lane
  __shared__ float4 s[32 * 8];
  asm volatile("st.shared.v4.f32 [%0], {%1, %1, %1, %1};" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(s + threadIdx.x * stride))),
               "f"(0.f)
               : "memory");
}
TEST(Counts, BankConflicts) {
  struct {
    int stride;
    uint64_t wavefronts;
  } const narrow[] = {{1, 1}, {2, 2}, {8, 8}, {32, 32}, {33, 1}, {0, 1}}, broad[] = {{1, 4}, {2, 8}, {8, 32}, {3, 4}};
  for (const auto& c : narrow) {
    strided<<<1, 32>>>(c.stride);
    ASSERT_TRUE(test::ok()) << c.stride;
    EXPECT_EQ(emu::last_counts().shared_requests, 1u);
    EXPECT_EQ(emu::last_counts().shared_wavefronts, c.wavefronts) << c.stride;
    EXPECT_EQ(emu::last_counts().shared_ideal, 1u) << c.stride;
  }
  for (const auto& c : broad) {  // by quarter warps of 128 bytes
    wide<<<1, 32>>>(c.stride);
    ASSERT_TRUE(test::ok()) << c.stride;
    EXPECT_EQ(emu::last_counts().shared_wavefronts, c.wavefronts) << c.stride;
    EXPECT_EQ(emu::last_counts().shared_ideal, 4u) << c.stride;
  }
}

__global__ void gather(const float* in, float* out, int stride) { out[threadIdx.x] = in[threadIdx.x * stride]; }
TEST(Counts, Sectors) {
  test::Buffer<float> in(std::vector<float>(32 * 32)), out(32);
  const std::pair<int, uint64_t> strides[] = {{1, 4}, {2, 8}, {8, 32}, {0, 1}};
  for (const auto& [stride, sectors] : strides) {
    gather<<<1, 32>>>(in, out, stride);
    ASSERT_TRUE(test::ok());
    EXPECT_EQ(emu::last_counts().global_requests, 2u);
    EXPECT_EQ(emu::last_counts().global_sectors, sectors + 4) << stride;
    EXPECT_EQ(emu::last_counts().global_bytes, 256u);
  }
}
#endif

}  // namespace
