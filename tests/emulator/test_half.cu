#include <algorithm>

#include "cases.h"

// f16 and bf16, alone and in pairs: exact results rounded once.
namespace {
#define SUITE Half

using test::bf16;
using test::f16;
using test::to_bf16;
using test::to_f16;

uint32_t flush(uint32_t h) { return (h & 0x7c00) == 0 ? h & 0x8000 : h; }  // f16
long double unit(long double v) { return v > 0 ? std::min(v, 1.0L) : 0; }
long double relu(long double v) { return v < 0 || v == 0 ? 0 : v; }
uint32_t fma_bf16(uint32_t x, uint32_t y, uint32_t z) {
  const long double p = static_cast<long double>(bf16(x)) * bf16(y), c = bf16(z), s = p + c, part = s - p;
  const long double rest = (p - (s - part)) + (c - part);
  return test::rounded(8, 7, s, std::isfinite(s) ? rest : 0);
}
uint32_t relu_bits(uint32_t h) { return h == 0x7fff ? h : h >> 15 ? 0 : h; }
template <class F>
uint32_t both(F f, uint32_t a, uint32_t b = 0, uint32_t c = 0) {
  return f(a >> 16, b >> 16, c >> 16) << 16 | f(a & 0xffff, b & 0xffff, c & 0xffff);
}
uint32_t add16(uint32_t a, uint32_t b, uint32_t = 0) { return to_f16(static_cast<long double>(f16(a)) + f16(b)); }
uint32_t fma16(uint32_t a, uint32_t b, uint32_t c) {
  return to_f16(static_cast<long double>(f16(a)) * f16(b) + f16(c));
}
uint32_t add_b(uint32_t a, uint32_t b, uint32_t = 0) {  // a + b = a · 1 + b
  return fma_bf16(a, 0x3f80, b);
}
uint32_t mul_b(uint32_t a, uint32_t b, uint32_t = 0) { return to_bf16(static_cast<long double>(bf16(a)) * bf16(b)); }

CASE2(add_f16, "add.f16 %0, %1, %2;", H, H, H, add16(a, b))
CASE2(add_ftz_f16, "add.rn.ftz.f16 %0, %1, %2;", H, H, H, flush(add16(flush(a), flush(b))))
CASE2(add_sat_f16, "add.sat.f16 %0, %1, %2;", H, H, H, to_f16(unit(f16(a) + f16(b))))
CASE2(sub_f16, "sub.f16 %0, %1, %2;", H, H, H, to_f16(static_cast<long double>(f16(a)) - f16(b)))
CASE2(mul_f16, "mul.f16 %0, %1, %2;", H, H, H, to_f16(static_cast<long double>(f16(a)) * f16(b)))
CASE2(mul_ftz_sat_f16, "mul.ftz.sat.f16 %0, %1, %2;", H, H, H,
      flush(to_f16(unit(static_cast<long double>(f16(flush(a))) * f16(flush(b))))))
CASE3(fma_f16, "fma.rn.f16 %0, %1, %2, %3;", H, H, H, H, fma16(a, b, c))
CASE3(fma_ftz_f16, "fma.rn.ftz.f16 %0, %1, %2, %3;", H, H, H, H, flush(fma16(flush(a), flush(b), flush(c))))
CASE3(fma_sat_f16, "fma.rn.sat.f16 %0, %1, %2, %3;", H, H, H, H,
      to_f16(unit(static_cast<long double>(f16(a)) * f16(b) + f16(c))))
CASE3(fma_relu_f16, "fma.rn.relu.f16 %0, %1, %2, %3;", H, H, H, H,
      to_f16(relu(static_cast<long double>(f16(a)) * f16(b) + f16(c))))
CASE2(add_f16x2, "add.f16x2 %0, %1, %2;", U, U, U, both(add16, a, b))
CASE2(sub_ftz_f16x2, "sub.ftz.f16x2 %0, %1, %2;", U, U, U,
      both([](uint32_t x, uint32_t y, uint32_t) { return flush(to_f16(f16(flush(x)) - f16(flush(y)))); }, a, b))
CASE2(mul_f16x2, "mul.f16x2 %0, %1, %2;", U, U, U,
      both([](uint32_t x, uint32_t y, uint32_t) { return to_f16(f16(x) * f16(y)); }, a, b))
CASE3(fma_f16x2, "fma.rn.f16x2 %0, %1, %2, %3;", U, U, U, U, both(fma16, a, b, c))
CASE3(fma_ftz_relu_f16x2, "fma.rn.ftz.relu.f16x2 %0, %1, %2, %3;", U, U, U, U,
      both([](uint32_t x, uint32_t y, uint32_t z) { return relu_bits(flush(fma16(flush(x), flush(y), flush(z)))); }, a,
           b, c))

CASE2(add_bf16, "add.bf16 %0, %1, %2;", H, H, H, add_b(a, b))
CASE2(sub_bf16, "sub.rn.bf16 %0, %1, %2;", H, H, H, add_b(a, b ^ 0x8000))
CASE2(mul_bf16, "mul.bf16 %0, %1, %2;", H, H, H, mul_b(a, b))
CASE3(fma_bf16_, "fma.rn.bf16 %0, %1, %2, %3;", H, H, H, H, fma_bf16(a, b, c))
CASE3(fma_relu_bf16, "fma.rn.relu.bf16 %0, %1, %2, %3;", H, H, H, H, relu_bits(fma_bf16(a, b, c)))
CASE2(add_bf16x2, "add.bf16x2 %0, %1, %2;", U, U, U, both(add_b, a, b))
CASE2(mul_bf16x2, "mul.bf16x2 %0, %1, %2;", U, U, U, both(mul_b, a, b))
CASE3(fma_bf16x2, "fma.rn.bf16x2 %0, %1, %2, %3;", U, U, U, U, both(fma_bf16, a, b, c))

// Products of 16 bits that are ties, decided by an addend that no double holds with them.
__global__ void far_ties(uint16_t* out) {
  const uint16_t tie = 0x3f88, one = 0x3f88;  // 1.0625² = 1.12890625: between 1.125 and 1.1328125, the tie
  const uint16_t tiny = threadIdx.x & 1 ? 0x8080 : 0x0080;
  asm("fma.rn.bf16 %0, %1, %2, %3;" : "=h"(out[threadIdx.x]) : "h"(tie), "h"(one), "h"(tiny));
}
TEST(Half, FarTies) {
  const auto out = test::warp<uint16_t>(far_ties);
  EXPECT_EQ(out[0], 0x3f91);
  EXPECT_EQ(out[1], 0x3f90);
}

uint32_t sign(uint32_t h, uint32_t bits, bool nan) { return nan ? 0x7fff : h ^ bits; }
CASE1(neg_f16, "neg.f16 %0, %1;", H, H, sign(a, 0x8000, std::isnan(f16(a))))
CASE1(neg_ftz_f16x2, "neg.ftz.f16x2 %0, %1;", U, U,
      both([](uint32_t x, uint32_t, uint32_t) { return sign(flush(x), 0x8000, std::isnan(f16(x))); }, a))
CASE1(neg_bf16, "neg.bf16 %0, %1;", H, H, sign(a, 0x8000, std::isnan(bf16(a))))
CASE1(abs_f16x2, "abs.f16x2 %0, %1;", U, U,
      both([](uint32_t x, uint32_t, uint32_t) { return std::isnan(f16(x)) ? 0x7fff : x & 0x7fff; }, a))
CASE1(abs_bf16, "abs.bf16 %0, %1;", H, H, std::isnan(bf16(a)) ? 0x7fff : a & 0x7fff)

/// By the values' order, −0 before +0; NaNs give way, or win with `nan`.
template <auto value, bool max>
uint32_t extreme(uint32_t a, uint32_t b, bool nan = false) {
  const double x = value(a), y = value(b);
  if (std::isnan(x) && std::isnan(y)) return 0x7fff;
  if (std::isnan(x) || std::isnan(y)) return nan ? 0x7fff : std::isnan(x) ? b : a;
  const bool a_first = x < y || (x == y && a >> 15 > b >> 15);
  return a_first != max ? a : b;
}
CASE2(min_f16, "min.f16 %0, %1, %2;", H, H, H, extreme<f16, false>(a, b))
CASE2(max_f16, "max.f16 %0, %1, %2;", H, H, H, extreme<f16, true>(a, b))
CASE2(max_nan_f16, "max.NaN.f16 %0, %1, %2;", H, H, H, extreme<f16, true>(a, b, true))
CASE2(min_ftz_f16, "min.ftz.f16 %0, %1, %2;", H, H, H, extreme<f16, false>(flush(a), flush(b)))
CASE2(max_bf16, "max.bf16 %0, %1, %2;", H, H, H, extreme<bf16, true>(a, b))
CASE2(min_nan_bf16x2, "min.NaN.bf16x2 %0, %1, %2;", U, U, U,
      both([](uint32_t x, uint32_t y, uint32_t) { return extreme<bf16, false>(x, y, true); }, a, b))
CASE2(max_f16x2, "max.f16x2 %0, %1, %2;", U, U, U,
      both([](uint32_t x, uint32_t y, uint32_t) { return extreme<f16, true>(x, y); }, a, b))
CASE2(min_xorsign_f16, "min.xorsign.abs.f16 %0, %1, %2;", H, H, H,
      std::isnan(f16(a)) && std::isnan(f16(b)) ? 0x7fff
                                               : extreme<f16, false>(a & 0x7fff, b & 0x7fff) | ((a ^ b) & 0x8000))

// Error bounds: the PTX ISA's, plus the rounding to the format.
APPROX1(ex2_f16, "{ .reg .b16 h; ex2.approx.f16 h, %1; cvt.f32.f16 %0, h; }", F, H, 0x1p-9, 0x1p-24,
        f16(to_f16(std::exp2(f16(a)))))
APPROX1(ex2_f16x2, "{ .reg .b16 h, l; .reg .b32 x; ex2.approx.f16x2 x, %1; mov.b32 {l, h}, x; cvt.f32.f16 %0, h; }", F,
        U, 0x1p-9, 0x1p-24, f16(to_f16(std::exp2(f16(a >> 16)))))
APPROX1(tanh_f16, "{ .reg .b16 h; tanh.approx.f16 h, %1; cvt.f32.f16 %0, h; }", F, H, 0x1p-9, 0x1p-24,
        std::tanh(f16(a)))
APPROX1(ex2_bf16, "{ .reg .b16 h; .reg .b32 x; ex2.approx.ftz.bf16 h, %1; mov.b32 x, {0, h}; mov.b32 %0, x; }", F, H,
        0x1p-6, 0x1p-126, bf16(to_bf16(std::exp2(static_cast<long double>(bf16(a))))))
APPROX1(tanh_bf16x2,
        "{ .reg .b16 h, l; .reg .b32 x; tanh.approx.bf16x2 x, %1; and.b32 x, x, 0xffff0000; mov.b32 %0, x; }", F, U,
        0x1p-7, 0x1p-126, std::tanh(double{bf16(a >> 16)}))

}  // namespace
