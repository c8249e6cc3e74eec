#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "test.h"

// wgmma: every pair of types, N from 8 to 256, A in registers and in shared memory, each swizzle, both majors. Operands
// are laid out here by the canonical layouts of the PTX ISA; values are small integers, so that every sum is exact.
namespace {

// ---- kernels: two instructions over K, accumulating

#define TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define LIST_2 "%0, %1"
#define LIST_4 "%0, %1, %2, %3"
#define LIST_6 "%0, %1, %2, %3, %4, %5"
#define LIST_12 TEN() ", %10, %11"
#define LIST_16 TEN() ", %10, %11, %12, %13, %14, %15"
#define LIST_32 TEN() ", " TEN(1) ", " TEN(2) ", %30, %31"
#define LIST_64 TEN() ", " TEN(1) ", " TEN(2) ", " TEN(3) ", " TEN(4) ", " TEN(5) ", %60, %61, %62, %63"
#define LIST_128                                                                                            \
  TEN()                                                                                                     \
  ", " TEN(1) ", " TEN(2) ", " TEN(3) ", " TEN(4) ", " TEN(5) ", " TEN(6) ", " TEN(7) ", " TEN(8) ", " TEN( \
      9) ", " TEN(10) ", " TEN(11) ", %120, %121, %122, %123, %124, %125, %126, %127"
#define BOTH_2(i) "+r"(d[i]), "+r"(d[i + 1])
#define BOTH_4(i) BOTH_2(i), BOTH_2(i + 2)
#define BOTH_16(i) BOTH_4(i), BOTH_4(i + 4), BOTH_4(i + 8), BOTH_4(i + 12)
#define OUT_2 BOTH_2(0)
#define OUT_4 BOTH_4(0)
#define OUT_6 BOTH_4(0), BOTH_2(4)
#define OUT_12 BOTH_4(0), BOTH_4(4), BOTH_4(8)
#define OUT_16 BOTH_16(0)
#define OUT_32 BOTH_16(0), BOTH_16(16)
#define OUT_64 OUT_32, BOTH_16(32), BOTH_16(48)
#define OUT_128 OUT_64, BOTH_16(64), BOTH_16(80), BOTH_16(96), BOTH_16(112)

// the numbers of the operands behind `regs` accumulators
#define ASM(regs, text, list, p, rest, ...)                                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p ", 0;\nwgmma.mma_async.sync.aligned." text " {" LIST_##regs \
               "}, " list ", p" rest ";\n}"                                                                        \
               : OUT_##regs                                                                                        \
               : __VA_ARGS__                                                                                       \
               : "memory")
#define N2(a, b) ", %" #a ", %" #b
#define SS16(regs, text, a, b, c, e, f, g, h, i, j) \
  ASM(regs, text, "%" #a ", %" #b, c, N2(e, f) N2(g, h), "l"(da), "l"(db), "r"(add), "n"(sa), "n"(sb), "n"(ta), "n"(tb))
#define RS16(regs, text, a, b, c, e, f, g, h, i, j)                                                           \
  ASM(regs, text, "{%" #a ", %" #b ", %" #c ", %" #e "}, %" #f, g, N2(h, i) ", %" #j, "r"(fa[0]), "r"(fa[1]), \
      "r"(fa[2]), "r"(fa[3]), "l"(db), "r"(add), "n"(sa), "n"(sb), "n"(tb))
#define SS8(regs, text, a, b, c, e, f, g, h, i, j) \
  ASM(regs, text, "%" #a ", %" #b, c, N2(e, f), "l"(da), "l"(db), "r"(add), "n"(sa), "n"(sb))
#define RS8(regs, text, a, b, c, e, f, g, h, i, j)                                                               \
  ASM(regs, text, "{%" #a ", %" #b ", %" #c ", %" #e "}, %" #f, g, N2(h, i), "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), \
      "r"(fa[3]), "l"(db), "r"(add), "n"(sa), "n"(sb))
#define SSI(regs, text, a, b, c, e, f, g, h, i, j) ASM(regs, text, "%" #a ", %" #b, c, "", "l"(da), "l"(db), "r"(add))
#define RSI(regs, text, a, b, c, e, f, g, h, i, j)                                                                     \
  ASM(regs, text, "{%" #a ", %" #b ", %" #c ", %" #e "}, %" #f, g, "", "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), \
      "l"(db), "r"(add))
#define WITH_2(X, t) X(2, t, 2, 3, 4, 5, 6, 7, 8, 9, 10)
#define WITH_4(X, t) X(4, t, 4, 5, 6, 7, 8, 9, 10, 11, 12)
#define WITH_6(X, t) X(6, t, 6, 7, 8, 9, 10, 11, 12, 13, 14)
#define WITH_12(X, t) X(12, t, 12, 13, 14, 15, 16, 17, 18, 19, 20)
#define WITH_16(X, t) X(16, t, 16, 17, 18, 19, 20, 21, 22, 23, 24)
#define WITH_32(X, t) X(32, t, 32, 33, 34, 35, 36, 37, 38, 39, 40)
#define WITH_64(X, t) X(64, t, 64, 65, 66, 67, 68, 69, 70, 71, 72)
#define WITH_128(X, t) X(128, t, 128, 129, 130, 131, 132, 133, 134, 135, 136)

struct Image {  // of an operand in shared memory
  const uint8_t* bytes;
  uint32_t size;
  uint64_t descriptor;  // without the start address
  uint32_t step;        // bytes from one instruction's K to the next's
};
enum Fault { none, no_fence, no_proxy_fence, no_wait, early_write, early_read };

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

template <int regs, class Instruction>
__device__ void run(Instruction instruction, Image a, Image b, const uint32_t* fragments, uint32_t* sums, uint32_t add,
                    Fault fault) {
  extern __shared__ __align__(1024) uint8_t raw[];
  uint8_t* s = raw + (1024 - shared_address(raw) % 1024) % 1024;
  uint8_t* sb = s + (a.size + 1023) / 1024 * 1024;
  const int t = threadIdx.x;
  for (uint32_t k = t; k < a.size; k += 128) s[k] = a.bytes[k];
  for (uint32_t k = t; k < b.size; k += 128) sb[k] = b.bytes[k];
  if (fault != no_proxy_fence) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  uint32_t d[regs], fa[2][4];
  for (int r = 0; r < regs; ++r) d[r] = sums[r * 128 + t];
  for (int k = 0; k < 8; ++k) fa[k / 4][k % 4] = fragments[k * 128 + t];
  if (fault != no_fence) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int k = 0; k < 2; ++k)
    instruction(d, fa[k], a.descriptor | (shared_address(s) + k * a.step) >> 4,
                b.descriptor | (shared_address(sb) + k * b.step) >> 4, k == 0 ? add : 1);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  if (fault == early_write) asm volatile("add.u32 %0, %0, 1;" : "+r"(d[0]));
  if (fault == early_read) {
    for (int r = 0; r < regs; ++r) sums[r * 128 + t] = d[r];
  }
  if (fault == no_wait) return;
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  if (fault == early_read) return;
#pragma unroll
  for (int r = 0; r < regs; ++r) asm volatile("" : "+r"(d[r])::"memory");
  for (int r = 0; r < regs; ++r) sums[r * 128 + t] = d[r];
}

using Kernel = void (*)(Image, Image, const uint32_t*, uint32_t*, uint32_t, Fault);
#define KERNEL_OF(name, regs, X, text, faulty)                                                                         \
  template <int sa, int sb, int ta, int tb>                                                                            \
  __global__ void __launch_bounds__(128)                                                                               \
      name(Image a, Image b, const uint32_t* f, uint32_t* sums, uint32_t add, Fault fault) {                           \
    run<regs>(                                                                                                         \
        [](uint32_t(&d)[regs], uint32_t(&fa)[4], uint64_t da, uint64_t db, uint32_t add) { WITH_##regs(X, text); }, a, \
        b, f, sums, add, faulty ? fault : none);                                                                       \
  }
#define KERNEL(name, regs, X, text) KERNEL_OF(name, regs, X, text, false)

// ---- types

enum class Type { f16, bf16, tf32, e4m3, e5m2, s8, u8, f32, s32 };
int bytes_of(Type t) { return t == Type::f16 || t == Type::bf16 ? 2 : t >= Type::e4m3 && t <= Type::u8 ? 1 : 4; }
uint32_t encoded(Type t, double v) {
  const float f = static_cast<float>(v);
  switch (t) {
    case Type::f16:
      return __half_as_ushort(__float2half(f));
    case Type::bf16:
      return __bfloat16_as_ushort(__float2bfloat16(f));
    case Type::e4m3:
      return __nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E4M3);
    case Type::e5m2:
      return __nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E5M2);
    case Type::s8:
    case Type::u8:
      return static_cast<uint8_t>(static_cast<int>(v));
    case Type::s32:
      return static_cast<uint32_t>(static_cast<int64_t>(v));
    default: {
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      return bits;
    }
  }
}

// ---- layouts of shared memory, PTX ISA "Asynchronous warpgroup matrix shared memory layout"

struct Layout {
  bool by_k;  // K-major
  int span;   // 16-byte chunks of a swizzled row: 1 (no swizzle), 2, 4, 8
  uint32_t lead, stride, atom, step, size;

  /// `rows` of M or N, 2 instructions of K.
  Layout(bool by_k, int span, uint32_t rows, Type type) : by_k(by_k), span(span) {
    const uint32_t k = 64 / bytes_of(type);  // elements of both
    if (by_k && span == 1) {                 // 8 x 16-byte cores; columns of cores one behind the other, with a gap
      stride = 128, lead = rows / 8 * 128 + 128, atom = 0, step = 2 * lead, size = 4 * lead;
    } else if (by_k) {  // atoms of 8 rows; where one is narrower than K, all rows' next atoms follow
      stride = 128 * span, lead = 16, atom = rows * 16 * span, size = std::max(1, 4 / span) * atom;
      step = span == 2 ? atom : 32;
    } else if (span == 1) {  // 8 elements x 8 k; the cores of a k side by side
      stride = 128, lead = rows / 8 * 128, atom = 0, step = 2 * lead, size = k / 8 * lead;
    } else {  // 8 span elements x 8 k
      lead = 128 * span, stride = rows / (8 * span) * lead, atom = 0, step = 2 * stride, size = k / 8 * stride;
    }
  }
  uint32_t at(uint32_t row, uint32_t k, Type type) const {
    const uint32_t bytes = bytes_of(type), in_k = k * bytes, width = 16 * span;
    uint32_t a;
    if (by_k && span == 1)
      a = in_k / 16 * lead + row / 8 * stride + row % 8 * 16 + in_k % 16;
    else if (by_k)
      a = in_k / width * atom + row / 8 * stride + row % 8 * width + in_k % width;
    else if (span == 1)
      a = row / 8 * stride + k / 8 * lead + k % 8 * 16 + row % 8 * 2;
    else
      a = row / (8 * span) * lead + k / 8 * stride + k % 8 * width + row % (8 * span) * 2;
    const uint32_t chunk = a / 16 % 8, line = a / 128 % 8;
    return a - chunk * 16 + (chunk ^ (line % span)) * 16;
  }
  uint64_t descriptor() const {
    const uint64_t mode = span == 8 ? 1 : span == 4 ? 2 : span == 2 ? 3 : 0;
    return mode << 62 | uint64_t{stride / 16} << 32 | uint64_t{lead / 16} << 16;
  }
};

struct Case {
  Kernel kernel;
  int n;
  Type a, b, d;
  bool registers = false;
  int span_a = 8, span_b = 8;
  bool a_by_k = true, b_by_k = true;
  int sign = 1;
  bool saturate = false, add = true;
  Fault fault = none;
};

std::vector<uint32_t> images(const std::vector<double>& x, const Layout& l, uint32_t rows, uint32_t k, Type type) {
  std::vector<uint32_t> words((l.size + 3) / 4, 0);
  auto* bytes = reinterpret_cast<uint8_t*>(words.data());
  for (uint32_t r = 0; r < rows; ++r)
    for (uint32_t c = 0; c < k; ++c) {
      const uint32_t v = encoded(type, x[r * k + c]);
      std::memcpy(bytes + l.at(r, c, type), &v, bytes_of(type));
    }
  return words;
}

std::vector<double> matrix(uint32_t n, Type type, std::mt19937& random) {
  std::vector<double> x(n);
  for (auto& v : x) {
    const int r = static_cast<int>(random() % 256);
    v = type == Type::u8 ? r : type == Type::s8 ? r - 128 : r % 7 - 3;
  }
  return x;
}

void launch(const Case& c, const std::vector<double>& a, const std::vector<double>& b, const std::vector<double>& sum,
            std::vector<uint32_t>& registers) {
  const int k = 64 / bytes_of(c.a), regs = c.n / (c.d == Type::f16 ? 4 : 2);
  const Layout la(c.a_by_k, c.span_a, 64, c.a), lb(c.b_by_k, c.span_b, c.n, c.b);
  test::Buffer<uint32_t> ia(images(a, la, 64, k, c.a)), ib(images(b, lb, c.n, k, c.b));
  // A in registers: as mma's fragment of 16 rows: register r of lane 4 g + t has row g + 8 (r & 1), word t + 4 (r >> 1)
  std::vector<uint32_t> fragments(8 * 128, 0);
  const int each = 4 / bytes_of(c.a);
  for (int t = 0; t < 128; ++t)
    for (int r = 0; r < 8; ++r)
      for (int e = 0; e < each; ++e) {
        const int row = t / 32 * 16 + t % 32 / 4 + 8 * (r & 1);
        const int column = r / 4 * (k / 2) + (t % 4 + 4 * (r % 4 >> 1)) * each + e;
        fragments[r * 128 + t] |= encoded(c.a, a[row * k + column]) << (32 / each * e);
      }
  // D: register i of lane 4 g + t has row g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2; f16 has two of them
  const int halves = c.d == Type::f16 ? 2 : 1;
  std::vector<uint32_t> d(regs * 128, 0);
  const auto spot = [&](int t, int i) {
    const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + t % 4 * 2 + i % 2;
    return row * c.n + column;
  };
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < regs * halves; ++i)
      d[i / halves * 128 + t] |= encoded(c.d, sum[spot(t, i)]) << (16 * (i % halves));
  test::Buffer<uint32_t> f(fragments), sums(d);
  cudaFuncSetAttribute(c.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000);
  c.kernel<<<1, 128, 100000>>>({reinterpret_cast<uint8_t*>(ia.data()), la.size, la.descriptor(), la.step},
                               {reinterpret_cast<uint8_t*>(ib.data()), lb.size, lb.descriptor(), lb.step}, f, sums,
                               c.add, c.fault);
  if (c.fault != none && c.fault != early_read) return;
  ASSERT_TRUE(test::ok());
  const auto out = sums.read();
  registers.assign(64 * c.n, 0);
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < regs * halves; ++i)
      registers[spot(t, i)] = halves == 1 ? out[i * 128 + t] : out[i / 2 * 128 + t] >> (16 * (i % 2)) & 0xFFFF;
}

void check(const Case& c) {
  SCOPED_TRACE(testing::Message() << "n " << c.n << ", types " << static_cast<int>(c.a) << " " << static_cast<int>(c.b)
                                  << " " << static_cast<int>(c.d) << (c.registers ? ", registers" : "") << ", swizzles "
                                  << c.span_a << " " << c.span_b << ", K-major " << c.a_by_k << c.b_by_k);
  std::mt19937 random(c.n);
  const int k = 64 / bytes_of(c.a);
  const auto a = matrix(64 * k, c.a, random), b = matrix(c.n * k, c.b, random);
  auto sum = matrix(64 * c.n, Type::f16, random);
  if (c.saturate)
    for (auto& v : sum) v += v > 0 ? 2147400000.0 : -2147400000.0;
  std::vector<uint32_t> got;
  launch(c, a, b, sum, got);
  if (testing::Test::HasFatalFailure()) return;
  for (int r = 0; r < 64; ++r)
    for (int n = 0; n < c.n; ++n) {
      double want = c.add ? sum[r * c.n + n] : 0;
      for (int half = 0; half < 2; ++half) {
        double part = 0;
        for (int x = half * k / 2; x < (half + 1) * k / 2; ++x) part += a[r * k + x] * b[n * k + x];
        want += c.sign * part;
        if (c.saturate) want = std::min(2147483647.0, std::max(-2147483648.0, want));
      }
      ASSERT_EQ(got[r * c.n + n], encoded(c.d, want)) << "row " << r << ", column " << n << ": " << want;
    }
}

// ---- tests

KERNEL(half_8, 4, SS16, "m64n8k16.f32.f16.f16")
KERNEL(half_24, 12, SS16, "m64n24k16.f32.f16.f16")
KERNEL(half_64, 32, SS16, "m64n64k16.f32.f16.f16")
KERNEL(half_128, 64, SS16, "m64n128k16.f32.f16.f16")
KERNEL(half_256, 128, SS16, "m64n256k16.f32.f16.f16")
KERNEL(half_8_rs, 4, RS16, "m64n8k16.f32.f16.f16")
KERNEL(half_24_rs, 12, RS16, "m64n24k16.f32.f16.f16")
KERNEL(half_64_rs, 32, RS16, "m64n64k16.f32.f16.f16")
KERNEL(half_128_rs, 64, RS16, "m64n128k16.f32.f16.f16")
KERNEL(half_256_rs, 128, RS16, "m64n256k16.f32.f16.f16")

TEST(Wgmma, Columns) {
  const Type h = Type::f16, f = Type::f32;
  for (int span : {1, 2, 4, 8}) {
    check({half_8<1, 1, 0, 0>, 8, h, h, f, false, span, span});
    check({half_24<1, 1, 0, 0>, 24, h, h, f, false, span, 8 / span});
    check({half_64<1, 1, 0, 0>, 64, h, h, f, false, span, span});
    check({half_128<1, 1, 0, 0>, 128, h, h, f, false, 8, span});
    check({half_256<1, 1, 0, 0>, 256, h, h, f, false, span, 8});
    check({half_8_rs<1, 1, 0, 0>, 8, h, h, f, true, 8, span});
    check({half_24_rs<1, 1, 0, 0>, 24, h, h, f, true, 8, span});
    check({half_64_rs<1, 1, 0, 0>, 64, h, h, f, true, 8, span});
    check({half_128_rs<1, 1, 0, 0>, 128, h, h, f, true, 8, span});
    check({half_256_rs<1, 1, 0, 0>, 256, h, h, f, true, 8, span});
  }
}

KERNEL(brain_64, 32, SS16, "m64n64k16.f32.bf16.bf16")
KERNEL(brain_128_rs, 64, RS16, "m64n128k16.f32.bf16.bf16")

TEST(Wgmma, Majors) {
  const Type h = Type::f16, b = Type::bf16, f = Type::f32;
  for (int span_a : {1, 2, 4, 8})
    for (int span_b : {1, 2, 4, 8}) {
      check({half_64<1, 1, 1, 0>, 64, h, h, f, false, span_a, span_b, false, true});
      check({half_64<1, 1, 0, 1>, 64, h, h, f, false, span_a, span_b, true, false});
      check({brain_64<1, 1, 1, 1>, 64, b, b, f, false, span_a, span_b, false, false});
    }
  for (int span : {1, 2, 4, 8}) {
    check({half_128<1, 1, 0, 1>, 128, h, h, f, false, 8, span, true, false});
    check({half_256<1, 1, 1, 1>, 256, h, h, f, false, 8, span, false, false});
    check({brain_128_rs<1, 1, 0, 1>, 128, b, b, f, true, 8, span, true, false});
  }
  check({half_24<1, 1, 1, 1>, 24, h, h, f, false, 2, 1, false, false});
  check({half_8<1, 1, 0, 1>, 8, h, h, f, false, 8, 1, true, false});
}

TEST(Wgmma, Signs) {
  const Type h = Type::f16, b = Type::bf16, f = Type::f32;
  check({half_64<-1, 1, 0, 0>, 64, h, h, f, false, 8, 8, true, true, -1});
  check({half_64<1, -1, 0, 0>, 64, h, h, f, false, 8, 8, true, true, -1});
  check({half_64<-1, -1, 0, 0>, 64, h, h, f});
  check({brain_64<1, 1, 0, 0>, 64, b, b, f, false, 8, 8, true, true, 1, false, false});
  check({half_64_rs<-1, 1, 0, 0>, 64, h, h, f, true, 8, 8, true, true, -1, false, false});
}

// X(name, registers of D, form of the operands, text, n, a, b, d)
#define TYPES(X)                                                            \
  X(brain_256, 128, SS16, "m64n256k16.f32.bf16.bf16", 256, bf16, bf16, f32) \
  X(halves_8, 2, SS16, "m64n8k16.f16.f16.f16", 8, f16, f16, f16)            \
  X(halves_24, 6, SS16, "m64n24k16.f16.f16.f16", 24, f16, f16, f16)         \
  X(halves_64, 16, SS16, "m64n64k16.f16.f16.f16", 64, f16, f16, f16)        \
  X(halves_256, 64, SS16, "m64n256k16.f16.f16.f16", 256, f16, f16, f16)     \
  X(halves_128_rs, 32, RS16, "m64n128k16.f16.f16.f16", 128, f16, f16, f16)  \
  X(tf32_8, 4, SS8, "m64n8k8.f32.tf32.tf32", 8, tf32, tf32, f32)            \
  X(tf32_128, 64, SS8, "m64n128k8.f32.tf32.tf32", 128, tf32, tf32, f32)     \
  X(tf32_64_rs, 32, RS8, "m64n64k8.f32.tf32.tf32", 64, tf32, tf32, f32)     \
  X(e4m3_64, 32, SS8, "m64n64k32.f32.e4m3.e4m3", 64, e4m3, e4m3, f32)       \
  X(e4m3_e5m2, 64, SS8, "m64n128k32.f32.e4m3.e5m2", 128, e4m3, e5m2, f32)   \
  X(e5m2_e4m3_rs, 12, RS8, "m64n24k32.f32.e5m2.e4m3", 24, e5m2, e4m3, f32)  \
  X(e5m2_256, 64, SS8, "m64n256k32.f16.e5m2.e5m2", 256, e5m2, e5m2, f16)    \
  X(e4m3_half_rs, 16, RS8, "m64n64k32.f16.e4m3.e4m3", 64, e4m3, e4m3, f16)  \
  X(s8_64, 32, SSI, "m64n64k32.s32.s8.s8", 64, s8, s8, s32)                 \
  X(s8_u8, 64, SSI, "m64n128k32.s32.s8.u8", 128, s8, u8, s32)               \
  X(u8_s8_rs, 12, RSI, "m64n24k32.s32.u8.s8", 24, u8, s8, s32)              \
  X(u8_256, 128, SSI, "m64n256k32.s32.u8.u8", 256, u8, u8, s32)             \
  X(s8_8_rs, 4, RSI, "m64n8k32.s32.s8.s8", 8, s8, s8, s32)                  \
  X(s8_saturated, 32, SSI, "m64n64k32.s32.s8.s8.satfinite", 64, s8, s8, s32)
#define TYPE_KERNEL(name, regs, X, text, n, a, b, d) KERNEL(name, regs, X, text)
TYPES(TYPE_KERNEL)

TEST(Wgmma, Types){
#define TYPE_CHECK(name, regs, X, text, n, a, b, d)                                                               \
  for (int span : {1, 2, 4, 8})                                                                                   \
    check({name<1, 1, 0, 0>, n, Type::a, Type::b, Type::d, std::string(#X)[0] == 'R', span, span == 1 ? 8 : span, \
           true, true, 1, std::string(#name) == "s8_saturated"});
    TYPES(TYPE_CHECK)}

#if SACCADE_EMULATED
KERNEL_OF(faulty, 32, SS16, "m64n64k16.f32.f16.f16", true)

    TEST(Wgmma, Faults) {
  const Type h = Type::f16, f = Type::f32;
  const auto run = [&](Fault fault, std::vector<uint32_t>* got = nullptr) {
    std::mt19937 random(1);
    std::vector<uint32_t> unused;
    launch({faulty<1, 1, 0, 0>, 64, h, h, f, false, 8, 8, true, true, 1, false, true, fault},
           matrix(64 * 32, h, random), matrix(64 * 32, h, random), matrix(64 * 64, h, random), got ? *got : unused);
  };
  run(no_fence);
  EXPECT_TRUE(test::found("without a wgmma.fence"));
  run(no_proxy_fence);
  EXPECT_TRUE(test::found("missing fence.proxy.async"));
  run(no_wait);
  EXPECT_TRUE(test::found("no wgmma.wait_group"));
  run(early_write);
  EXPECT_TRUE(test::found("an accumulator was written before wgmma.wait_group"));
  std::vector<uint32_t> got;
  run(early_read, &got);
  for (uint32_t v : got) ASSERT_EQ(v, 0xFFFFFFFF);
  test::Options eager("async=eager");
  check({half_64<1, 1, 0, 0>, 64, h, h, f});
}
#endif

}  // namespace
