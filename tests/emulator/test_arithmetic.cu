#include <algorithm>

#include "cases.h"

// Integer and f32/f64 arithmetic.
namespace {
#define SUITE Integer

using I128 = __int128;
template <class T>
T clamp_to(I128 v) {
  return static_cast<T>(std::clamp<I128>(v, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}
uint32_t pair(uint32_t high, uint32_t low) { return high << 16 | (low & 0xffff); }
int32_t low_half(uint32_t a) { return static_cast<int16_t>(a); }
int32_t high_half(uint32_t a) { return static_cast<int16_t>(a >> 16); }
I128 sign24(uint32_t a) { return static_cast<int32_t>(a << 8) >> 8; }

CASE2(add_s16, "add.s16 %0, %1, %2;", SH, SH, SH, a + b)
CASE2(add_u32, "add.u32 %0, %1, %2;", U, U, U, I128{a} + b)
CASE2(add_sat_s32, "add.sat.s32 %0, %1, %2;", S, S, S, clamp_to<int32_t>(I128{a} + b))
CASE2(add_s64, "add.s64 %0, %1, %2;", SL, SL, SL, I128{a} + b)
CASE2(add_u16x2, "add.u16x2 %0, %1, %2;", U, U, U, pair((a >> 16) + (b >> 16), a + b))
CASE2(sub_u16, "sub.u16 %0, %1, %2;", H, H, H, a - b)
CASE2(sub_s32, "sub.s32 %0, %1, %2;", S, S, S, I128{a} - b)
CASE2(sub_sat_s32, "sub.sat.s32 %0, %1, %2;", S, S, S, clamp_to<int32_t>(I128{a} - b))
CASE2(sub_u64, "sub.u64 %0, %1, %2;", L, L, L, I128{a} - b)
CASE2(mul_lo_u16, "mul.lo.u16 %0, %1, %2;", H, H, H, I128{a} * b)
CASE2(mul_hi_s16, "mul.hi.s16 %0, %1, %2;", SH, SH, SH, I128{a} * b >> 16)
CASE2(mul_wide_s16, "mul.wide.s16 %0, %1, %2;", S, SH, SH, I128{a} * b)
CASE2(mul_wide_u16, "mul.wide.u16 %0, %1, %2;", U, H, H, I128{a} * b)
CASE2(mul_lo_s32, "mul.lo.s32 %0, %1, %2;", S, S, S, I128{a} * b)
CASE2(mul_hi_u32, "mul.hi.u32 %0, %1, %2;", U, U, U, I128{a} * b >> 32)
CASE2(mul_hi_s32, "mul.hi.s32 %0, %1, %2;", S, S, S, I128{a} * b >> 32)
CASE2(mul_wide_u32, "mul.wide.u32 %0, %1, %2;", L, U, U, I128{a} * b)
CASE2(mul_wide_s32, "mul.wide.s32 %0, %1, %2;", SL, S, S, I128{a} * b)
CASE2(mul_lo_s64, "mul.lo.s64 %0, %1, %2;", SL, SL, SL, I128{a} * b)
CASE2(mul_hi_u64, "mul.hi.u64 %0, %1, %2;", L, L, L, static_cast<unsigned __int128>(a) * b >> 64)
CASE2(mul_hi_s64, "mul.hi.s64 %0, %1, %2;", SL, SL, SL, I128{a} * b >> 64)
CASE3(mad_lo_u16, "mad.lo.u16 %0, %1, %2, %3;", H, H, H, H, I128{a} * b + c)
CASE3(mad_lo_s32, "mad.lo.s32 %0, %1, %2, %3;", S, S, S, S, I128{a} * b + c)
CASE3(mad_hi_u32, "mad.hi.u32 %0, %1, %2, %3;", U, U, U, U, (I128{a} * b >> 32) + c)
CASE3(mad_hi_sat_s32, "mad.hi.sat.s32 %0, %1, %2, %3;", S, S, S, S, clamp_to<int32_t>((I128{a} * b >> 32) + c))
CASE3(mad_wide_u16, "mad.wide.u16 %0, %1, %2, %3;", U, H, H, U, I128{a} * b + c)
CASE3(mad_wide_s32, "mad.wide.s32 %0, %1, %2, %3;", SL, S, S, SL, I128{a} * b + c)
CASE3(mad_lo_u64, "mad.lo.u64 %0, %1, %2, %3;", L, L, L, L, static_cast<unsigned __int128>(a) * b + c)
CASE3(mad_hi_s64, "mad.hi.s64 %0, %1, %2, %3;", SL, SL, SL, SL, (I128{a} * b >> 64) + c)
CASE2(mul24_lo_s32, "mul24.lo.s32 %0, %1, %2;", S, S, S, sign24(a) * sign24(b))
CASE2(mul24_hi_u32, "mul24.hi.u32 %0, %1, %2;", U, U, U, I128{a & 0xffffff} * (b & 0xffffff) >> 16)
CASE3(mad24_lo_u32, "mad24.lo.u32 %0, %1, %2, %3;", U, U, U, U, I128{a & 0xffffff} * (b & 0xffffff) + c)
CASE3(mad24_hi_sat_s32, "mad24.hi.sat.s32 %0, %1, %2, %3;", S, S, S, S,
      clamp_to<int32_t>(static_cast<int32_t>(sign24(a) * sign24(b) >> 16) + I128{c}))
CASE3(sad_s32, "sad.s32 %0, %1, %2, %3;", S, S, S, S, c + (a < b ? I128{b} - a : I128{a} - b))
CASE3(sad_u16, "sad.u16 %0, %1, %2, %3;", H, H, H, H, c + (a < b ? b - a : a - b))
CASE3(sad_u64, "sad.u64 %0, %1, %2, %3;", L, L, L, L, c + (a < b ? b - a : a - b))
CASE2(div_u32, "div.u32 %0, %1, %2;", U, U, U, b == 0 ? 0xffffffff : a / b)
CASE2(div_s32, "div.s32 %0, %1, %2;", S, S, S, b == 0 ? -1 : I128{a} / b)
CASE2(div_s16, "div.s16 %0, %1, %2;", SH, SH, SH, b == 0 ? -1 : a / b)
CASE2(div_u64, "div.u64 %0, %1, %2;", L, L, L, b == 0 ? ~0ull : a / b)
CASE2(div_s64, "div.s64 %0, %1, %2;", SL, SL, SL, b == 0 ? -1 : I128{a} / b)
CASE2(rem_u32, "rem.u32 %0, %1, %2;", U, U, U, b == 0 ? 0xffffffff : a % b)
CASE2(rem_s32, "rem.s32 %0, %1, %2;", S, S, S, b == 0 ? -1 : I128{a} % b)
CASE2(rem_u16, "rem.u16 %0, %1, %2;", H, H, H, b == 0 ? 0xffff : a % b)
CASE2(rem_s64, "rem.s64 %0, %1, %2;", SL, SL, SL, b == 0 ? -1 : I128{a} % b)
CASE1(abs_s16, "abs.s16 %0, %1;", SH, SH, a < 0 ? -a : a)
CASE1(abs_s32, "abs.s32 %0, %1;", S, S, a < 0 ? -I128{a} : a)
CASE1(abs_s64, "abs.s64 %0, %1;", SL, SL, a < 0 ? -I128{a} : a)
CASE1(neg_s32, "neg.s32 %0, %1;", S, S, -I128{a})
CASE1(neg_s64, "neg.s64 %0, %1;", SL, SL, -I128{a})
CASE2(min_s16, "min.s16 %0, %1, %2;", SH, SH, SH, std::min(a, b))
CASE2(min_u32, "min.u32 %0, %1, %2;", U, U, U, std::min(a, b))
CASE2(min_relu_s32, "min.relu.s32 %0, %1, %2;", S, S, S, std::max(0, std::min(a, b)))
CASE2(max_s32, "max.s32 %0, %1, %2;", S, S, S, std::max(a, b))
CASE2(max_relu_s32, "max.relu.s32 %0, %1, %2;", S, S, S, std::max(0, std::max(a, b)))
CASE2(max_u64, "max.u64 %0, %1, %2;", L, L, L, std::max(a, b))
CASE2(min_s64, "min.s64 %0, %1, %2;", SL, SL, SL, std::min(a, b))
CASE2(min_s16x2, "min.s16x2 %0, %1, %2;", U, U, U,
      pair(std::min(high_half(a), high_half(b)), std::min(low_half(a), low_half(b))))
CASE2(max_u16x2, "max.u16x2 %0, %1, %2;", U, U, U, pair(std::max(a >> 16, b >> 16), std::max(a & 0xffff, b & 0xffff)))
CASE2(max_relu_s16x2, "max.relu.s16x2 %0, %1, %2;", U, U, U,
      pair(std::max({0, high_half(a), high_half(b)}), std::max({0, low_half(a), low_half(b)})))

int64_t byte(uint32_t v, int k, bool sign) { return sign ? int8_t(v >> 8 * k) : uint8_t(v >> 8 * k); }
int64_t dot4(uint32_t a, bool sa, uint32_t b, bool sb) {
  int64_t s = 0;
  for (int k = 0; k < 4; ++k) s += byte(a, k, sa) * byte(b, k, sb);
  return s;
}
CASE3(dp4a_s32_s32, "dp4a.s32.s32 %0, %1, %2, %3;", S, S, S, S, c + dot4(a, true, b, true))
CASE3(dp4a_u32_s32, "dp4a.u32.s32 %0, %1, %2, %3;", S, U, S, S, c + dot4(a, false, b, true))
CASE3(dp4a_u32_u32, "dp4a.u32.u32 %0, %1, %2, %3;", U, U, U, U, c + dot4(a, false, b, false))
CASE3(dp2a_lo_s32_u32, "dp2a.lo.s32.u32 %0, %1, %2, %3;", S, S, U, S,
      c + int64_t{low_half(a)} * byte(b, 0, false) + int64_t{high_half(a)} * byte(b, 1, false))
CASE3(dp2a_hi_u32_s32, "dp2a.hi.u32.s32 %0, %1, %2, %3;", S, U, S, S,
      c + int64_t{a & 0xffff} * byte(b, 2, true) + int64_t{a >> 16} * byte(b, 3, true))

// Extended precision: 64-bit arithmetic of 32-bit halves, a · b of 64 bits to 128.
#define HALVES "{ .reg .u32 a, b, c, d, e, f; mov.b64 {a, b}, %1; mov.b64 {c, d}, %2;"
CASE2(add_carry, HALVES "add.cc.u32 e, a, c; addc.u32 f, b, d; mov.b64 %0, {e, f}; }", L, L, L, a + b)
CASE2(sub_borrow, HALVES "sub.cc.u32 e, a, c; subc.u32 f, b, d; mov.b64 %0, {e, f}; }", L, L, L, a - b)
CASE2(add_carry_out, HALVES "add.cc.u32 e, a, c; addc.cc.u32 f, b, d; addc.u32 e, 0, 0; mov.b64 %0, {e, f}; }", L, L, L,
      ((static_cast<unsigned __int128>(a) + b) >> 64) | ((a + b) >> 32 << 32))
CASE2(sub_borrow_out, HALVES "sub.cc.u32 e, a, c; subc.cc.u32 f, b, d; subc.u32 e, 0, 0; mov.b64 %0, {e, f}; }", L, L,
      L, (a < b ? 0xffffffffu : 0u) | ((a - b) >> 32 << 32))
CASE2(add_carry_64, "{ .reg .u64 e; add.cc.u64 e, %1, %2; addc.u64 %0, %1, 0; }", L, L, L,
      a + ((static_cast<unsigned __int128>(a) + b) >> 64))
CASE2(madc_product, HALVES R"(.reg .u32 g, h;
    mul.lo.u32 e, a, c; mul.hi.u32 f, a, c;
    mad.lo.cc.u32 f, b, c, f; madc.hi.u32 g, b, c, 0;
    mad.lo.cc.u32 f, a, d, f; madc.hi.cc.u32 g, a, d, g; madc.hi.u32 h, b, d, 0;
    mad.lo.cc.u32 g, b, d, g; addc.u32 h, h, 0; mov.b64 %0, {g, h}; })",
      L, L, L, static_cast<unsigned __int128>(a) * b >> 64)

#undef SUITE
#define SUITE Floating

float flush(float v) { return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.f, v) : v; }
float unit(float v) { return v > 0 ? std::min(v, 1.f) : 0.f; }
/// `exact` rounded in a direction: −1 down, 1 up, 0 toward zero.
float toward(long double exact, int direction) {
  const float near = static_cast<float>(exact);
  if (direction == 0) direction = exact > 0 ? -1 : 1;
  if (direction < 0 && near > exact) return std::nextafter(near, -HUGE_VALF);
  if (direction > 0 && near < exact) return std::nextafter(near, HUGE_VALF);
  return near;
}
CASE2(add_f32, "add.f32 %0, %1, %2;", F, F, F, a + b)
CASE2(add_ftz_f32, "add.rn.ftz.f32 %0, %1, %2;", F, F, F, flush(flush(a) + flush(b)))
CASE2(add_sat_f32, "add.sat.f32 %0, %1, %2;", F, F, F, unit(a + b))
CASE2(sub_f32, "sub.rn.f32 %0, %1, %2;", F, F, F, a - b)
CASE2(mul_f32, "mul.f32 %0, %1, %2;", F, F, F, a* b)
CASE2(mul_ftz_f32, "mul.ftz.f32 %0, %1, %2;", F, F, F, flush(flush(a) * flush(b)))
CASE2(mul_ftz_sat_f32, "mul.ftz.sat.f32 %0, %1, %2;", F, F, F, unit(flush(flush(a) * flush(b))))
CASE3(fma_f32, "fma.rn.f32 %0, %1, %2, %3;", F, F, F, F, std::fma(a, b, c))
CASE3(fma_ftz_f32, "fma.rn.ftz.f32 %0, %1, %2, %3;", F, F, F, F, flush(std::fma(flush(a), flush(b), flush(c))))
CASE3(mad_f32, "mad.rn.f32 %0, %1, %2, %3;", F, F, F, F, std::fma(a, b, c))
CASE2(div_f32, "div.rn.f32 %0, %1, %2;", F, F, F, a / b)
CASE2(div_ftz_f32, "div.rn.ftz.f32 %0, %1, %2;", F, F, F, flush(flush(a) / flush(b)))
CASE1(rcp_f32, "rcp.rn.f32 %0, %1;", F, F, 1 / a)
CASE1(sqrt_f32, "sqrt.rn.f32 %0, %1;", F, F, std::sqrt(a))
CASE1(neg_f32, "neg.f32 %0, %1;", F, F, -a)
CASE1(abs_f32, "abs.f32 %0, %1;", F, F, std::abs(a))
CASE1(abs_ftz_f32, "abs.ftz.f32 %0, %1;", F, F, std::abs(flush(a)))
CASE2(copysign_f32, "copysign.f32 %0, %1, %2;", U, F, F,
      (std::bit_cast<uint32_t>(a) & 0x80000000) | (std::bit_cast<uint32_t>(b) & 0x7fffffff))

CASE2(add_rz_f32, "add.rz.f32 %0, %1, %2;", F, F, F,
      !std::isfinite(a + b) ? (std::isfinite(a) && std::isfinite(b) ? std::copysign(3.4028234664e38f, a) : a + b)
      : std::abs(std::log2(std::abs(a / b))) < 30 ? toward(static_cast<long double>(a) + b, 0)
      : a == 0 || b == 0                          ? a + b
      : std::abs(a) > std::abs(b)                 ? ((a > 0) == (b > 0) ? a : std::nextafter(a, 0.f))
                                                  : ((a > 0) == (b > 0) ? b : std::nextafter(b, 0.f)))

#define DIRECTED(name, mode, direction)                                                                      \
  struct name {                                                                                              \
    using Result = float;                                                                                    \
    using Values = std::tuple<uint32_t, uint32_t, uint32_t>;                                                 \
    static __device__ __host__ float tame(uint32_t b) { /* so that a * b + c is exact in 64 bits */          \
      return std::bit_cast<float>((b & 0x807fffff) | (124 + (b >> 23 & 7)) << 23);                           \
    }                                                                                                        \
    static __device__ float run(uint32_t a, uint32_t b, uint32_t c) {                                        \
      float r;                                                                                               \
      asm volatile("fma." mode ".f32 %0, %1, %2, %3;" : "=f"(r) : "f"(tame(a)), "f"(tame(b)), "f"(tame(c))); \
      return r;                                                                                              \
    }                                                                                                        \
    static float want(uint32_t a, uint32_t b, uint32_t c) {                                                  \
      return toward(static_cast<long double>(tame(a)) * tame(b) + tame(c), direction);                       \
    }                                                                                                        \
  };                                                                                                         \
  TEST(SUITE, name) { test::check<name>(); }
DIRECTED(fma_rz_f32, "rz", 0)
DIRECTED(fma_rm_f32, "rm", -1)
DIRECTED(fma_rp_f32, "rp", 1)

template <class T>
bool before(T a, T b) {
  return a < b || (a == 0 && b == 0 && std::signbit(a) && !std::signbit(b));
}
template <class T>
T least(T a, T b) {
  return std::isnan(a) ? b : std::isnan(b) ? a : before(a, b) ? a : b;
}
template <class T>
T most(T a, T b) {
  return std::isnan(a) ? b : std::isnan(b) ? a : before(a, b) ? b : a;
}
float xorsign(float v, float a, float b) {
  return std::isnan(v) ? v : std::copysign(v, std::signbit(a) != std::signbit(b) ? -1.f : 1.f);
}
CASE2(min_f32, "min.f32 %0, %1, %2;", F, F, F, least(a, b))
CASE2(max_f32, "max.f32 %0, %1, %2;", F, F, F, most(a, b))
CASE2(max_ftz_f32, "max.ftz.f32 %0, %1, %2;", F, F, F, most(flush(a), flush(b)))
CASE2(min_nan_f32, "min.NaN.f32 %0, %1, %2;", F, F, F, std::isnan(a) || std::isnan(b) ? NAN : least(a, b))
CASE2(max_nan_f32, "max.NaN.f32 %0, %1, %2;", F, F, F, std::isnan(a) || std::isnan(b) ? NAN : most(a, b))
CASE2(min_xorsign_f32, "min.xorsign.abs.f32 %0, %1, %2;", F, F, F, xorsign(least(std::abs(a), std::abs(b)), a, b))
CASE2(max_nan_xorsign_f32, "max.NaN.xorsign.abs.f32 %0, %1, %2;", F, F, F,
      std::isnan(a) || std::isnan(b) ? NAN : xorsign(most(std::abs(a), std::abs(b)), a, b))
CASE2(min_f64, "min.f64 %0, %1, %2;", D, D, D, least(a, b))
CASE2(max_f64, "max.f64 %0, %1, %2;", D, D, D, most(a, b))
CASE2(add_f64, "add.f64 %0, %1, %2;", D, D, D, a + b)
CASE2(sub_f64, "sub.rn.f64 %0, %1, %2;", D, D, D, a - b)
CASE2(mul_f64, "mul.f64 %0, %1, %2;", D, D, D, a* b)
CASE3(fma_f64, "fma.rn.f64 %0, %1, %2, %3;", D, D, D, D, std::fma(a, b, c))
CASE2(div_f64, "div.rn.f64 %0, %1, %2;", D, D, D, a / b)
CASE1(rcp_f64, "rcp.rn.f64 %0, %1;", D, D, 1 / a)
CASE1(sqrt_f64, "sqrt.rn.f64 %0, %1;", D, D, std::sqrt(a))
CASE1(neg_f64, "neg.f64 %0, %1;", D, D, -a)
CASE1(abs_f64, "abs.f64 %0, %1;", D, D, std::abs(a))

#define TESTP(name, type, T, ...)                                                                                \
  CASE1(testp_##name##_##type, "{ .reg .pred p; testp." #name "." #type " p, %1; selp.u32 %0, 1, 0, p; }", U, T, \
        __VA_ARGS__)
TESTP(finite, f32, F, std::isfinite(a))
TESTP(infinite, f32, F, std::isinf(a))
TESTP(number, f32, F, !std::isnan(a))
TESTP(notanumber, f32, F, std::isnan(a))
TESTP(normal, f32, F, std::isnormal(a) || a == 0)
TESTP(subnormal, f32, F, std::fpclassify(a) == FP_SUBNORMAL)
TESTP(normal, f64, D, std::isnormal(a) || a == 0)
TESTP(infinite, f64, D, std::isinf(a))

// Error bounds: those of the PTX ISA.
APPROX1(rcp_approx, "rcp.approx.ftz.f32 %0, %1;", F, F, 0x1p-22, 0x1p-126, 1 / double{flush(a)})
APPROX1(sqrt_approx, "sqrt.approx.ftz.f32 %0, %1;", F, F, 0x1p-22, 0x1p-126, std::sqrt(double{flush(a)}))
APPROX1(rsqrt_approx, "rsqrt.approx.ftz.f32 %0, %1;", F, F, 0x1p-22, 0, 1 / std::sqrt(double{flush(a)}))
APPROX1(ex2_approx, "ex2.approx.f32 %0, %1;", F, F, 0x1p-21, 0x1p-148, std::exp2(double{a}))
APPROX1(ex2_approx_ftz, "ex2.approx.ftz.f32 %0, %1;", F, F, 0x1p-21, 0x1p-126, std::exp2(double{flush(a)}))
APPROX1(lg2_approx, "lg2.approx.f32 %0, %1;", F, F, 0x1p-21, 0x1p-21, std::log2(double{a}))
APPROX1(lg2_approx_ftz, "lg2.approx.ftz.f32 %0, %1;", F, F, 0x1p-21, 0x1p-21, std::log2(double{flush(a)}))
APPROX1(tanh_approx, "tanh.approx.f32 %0, %1;", F, F, 0x1p-10, 0, std::tanh(double{a}))
#define WITHIN \
  "{ .reg .f32 x; .reg .pred p; abs.f32 x, %1; setp.le.f32 p, x, 0f40C90FDB; selp.f32 x, %1, 0f3F000000, p; "
float within(float a) { return std::abs(a) <= 6.2831855f ? a : 0.5f; }
APPROX1(sin_approx, WITHIN "sin.approx.f32 %0, x; }", F, F, 0, 0x1p-20, std::sin(double{within(a)}))
APPROX1(cos_approx, WITHIN "cos.approx.f32 %0, x; }", F, F, 0, 0x1p-20, std::cos(double{within(a)}))
double upper(double v) { return std::bit_cast<double>(std::bit_cast<uint64_t>(v) & 0xffffffff00000000); }
APPROX1(rcp_approx_f64, "rcp.approx.ftz.f64 %0, %1;", D, D, 0x1p-20, 0x1p-1022, 1 / upper(a))
APPROX1(rsqrt_approx_f64, "rsqrt.approx.f64 %0, %1;", D, D, 0x1p-50, 0, 1 / std::sqrt(a))

__global__ void divide(float* approx, float* full, const float* a, const float* b) {
  const int i = static_cast<int>(threadIdx.x);
  asm("div.approx.f32 %0, %1, %2;" : "=f"(approx[i]) : "f"(a[i]), "f"(b[i]));
  asm("div.full.f32 %0, %1, %2;" : "=f"(full[i]) : "f"(a[i]), "f"(b[i]));
}
TEST(Floating, ApproximateQuotients) {
  const float inf = HUGE_VALF;
  const std::vector<float> a = {1, 7, -3, 1, -5, inf, 0x1p127f, 0, 1e30f},
                           b = {3, -9, 7, 0x1.8p126f, 0x1.8p127f, -0x1.8p126f, 0x1p126f, 5, inf};
  test::Buffer<float> approx(a.size()), full(a.size()), x(a), y(b);
  divide<<<1, static_cast<unsigned>(a.size())>>>(approx, full, x, y);
  ASSERT_TRUE(test::ok());
  const auto got = approx.read(), whole = full.read();
  for (size_t i = 0; i < a.size(); ++i) {
    const float want = a[i] / b[i];
    EXPECT_TRUE(whole[i] == want || std::abs(whole[i] - want) <= std::abs(want) * 0x1p-22f) << i << ": " << whole[i];
    if (std::abs(b[i]) > 0x1p126f) {  // its reciprocal counts as zero
      EXPECT_TRUE(std::isinf(a[i]) ? std::isnan(got[i]) : got[i] == 0) << i << ": " << got[i];
    } else {
      EXPECT_NEAR(got[i], want, std::abs(want) * 0x1p-22f) << i;
    }
  }
}

}  // namespace
