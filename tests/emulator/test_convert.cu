#include <algorithm>

#include "cases.h"

// cvt: every kind of pair, rounding and saturation.
namespace {
#define SUITE Convert

using test::Mode;
using test::to_bf16;
using test::to_f16;
using I128 = __int128;

template <class T>
T clamped(I128 v) {
  return static_cast<T>(std::clamp<I128>(v, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}
float flush(float v) { return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.f, v) : v; }

// Between integers; registers may be wider than the type.
CASE1(s32_s8, "cvt.s32.s8 %0, %1;", S, U, int8_t(a))
CASE1(u32_u8, "cvt.u32.u8 %0, %1;", U, H, a & 255)
CASE1(s64_s16, "cvt.s64.s16 %0, %1;", SL, H, int16_t(a))
CASE1(u64_u16, "cvt.u64.u16 %0, %1;", L, L, a & 0xffff)
CASE1(s64_s32, "cvt.s64.s32 %0, %1;", SL, S, a)
CASE1(u32_u64, "cvt.u32.u64 %0, %1;", U, L, a)
CASE1(u16_u32, "cvt.u16.u32 %0, %1;", H, U, a)
CASE1(s8_s32, "cvt.s8.s32 %0, %1;", S, S, int8_t(a))
CASE1(u8_s32, "cvt.u8.s32 %0, %1;", U, S, uint8_t(a))
CASE1(sat_s8_s32, "cvt.sat.s8.s32 %0, %1;", S, S, clamped<int8_t>(a))
CASE1(sat_u8_s32, "cvt.sat.u8.s32 %0, %1;", U, S, clamped<uint8_t>(a))
CASE1(sat_u16_s16, "cvt.sat.u16.s16 %0, %1;", H, SH, clamped<uint16_t>(a))
CASE1(sat_s32_u32, "cvt.sat.s32.u32 %0, %1;", S, U, clamped<int32_t>(a))
CASE1(sat_u32_s64, "cvt.sat.u32.s64 %0, %1;", U, SL, clamped<uint32_t>(a))
CASE1(sat_s32_u64, "cvt.sat.s32.u64 %0, %1;", S, L, clamped<int32_t>(a))
CASE1(sat_s64_u64, "cvt.sat.s64.u64 %0, %1;", SL, L, clamped<int64_t>(a))
CASE1(sat_u64_s64, "cvt.sat.u64.s64 %0, %1;", L, SL, clamped<uint64_t>(a))

// Floating to integer: clamped; a NaN gives 0, or the top bit where a double or 64 bits take part.
template <class T, class V>
T integer(V v, V (*round)(V), uint64_t nan = 0) {
  if (std::isnan(v)) return static_cast<T>(nan);
  const V r = round(v);
  if (std::abs(r) > V(1e30)) return r > 0 ? std::numeric_limits<T>::max() : std::numeric_limits<T>::min();
  return clamped<T>(static_cast<I128>(r));
}
constexpr uint64_t kTop32 = 1u << 31, kTop64 = 1ull << 63;
CASE1(rni_s32_f32, "cvt.rni.s32.f32 %0, %1;", S, F, integer<int32_t>(a, std::nearbyint))
CASE1(rzi_s32_f32, "cvt.rzi.s32.f32 %0, %1;", S, F, integer<int32_t>(a, std::trunc))
CASE1(rmi_s32_f32, "cvt.rmi.s32.f32 %0, %1;", S, F, integer<int32_t>(a, std::floor))
CASE1(rpi_s32_f32, "cvt.rpi.s32.f32 %0, %1;", S, F, integer<int32_t>(a, std::ceil))
CASE1(rpi_ftz_s32_f32, "cvt.rpi.ftz.s32.f32 %0, %1;", S, F, integer<int32_t>(flush(a), std::ceil))
CASE1(rzi_u32_f32, "cvt.rzi.u32.f32 %0, %1;", U, F, integer<uint32_t>(a, std::trunc))
CASE1(rni_u8_f32, "cvt.rni.sat.u8.f32 %0, %1;", U, F, integer<uint8_t>(a, std::nearbyint))
CASE1(rzi_s8_f32, "cvt.rzi.s8.f32 %0, %1;", S, F, integer<int8_t>(a, std::trunc))
CASE1(rni_s16_f32, "cvt.rni.s16.f32 %0, %1;", SH, F, integer<int16_t>(a, std::nearbyint))
CASE1(rzi_s64_f32, "cvt.rzi.s64.f32 %0, %1;", SL, F, integer<int64_t>(a, std::trunc, kTop64))
CASE1(rmi_u64_f32, "cvt.rmi.u64.f32 %0, %1;", L, F, integer<uint64_t>(a, std::floor, kTop64))
CASE1(rzi_s32_f64, "cvt.rzi.s32.f64 %0, %1;", S, D, integer<int32_t>(a, std::trunc, kTop32))
CASE1(rni_u32_f64, "cvt.rni.u32.f64 %0, %1;", U, D, integer<uint32_t>(a, std::nearbyint, kTop32))
CASE1(rpi_s64_f64, "cvt.rpi.s64.f64 %0, %1;", SL, D, integer<int64_t>(a, std::ceil, kTop64))
CASE1(rzi_u64_f64, "cvt.rzi.u64.f64 %0, %1;", L, D, integer<uint64_t>(a, std::trunc, kTop64))
CASE1(rni_s32_f16, "cvt.rni.s32.f16 %0, %1;", S, H, integer<int32_t, double>(test::f16(a), std::nearbyint))
CASE1(rzi_u8_f16, "cvt.rzi.u8.f16 %0, %1;", U, H, integer<uint8_t, double>(test::f16(a), std::trunc))
CASE1(rzi_s64_f16, "cvt.rzi.s64.f16 %0, %1;", SL, H, integer<int64_t, double>(test::f16(a), std::trunc, kTop64))
CASE1(rmi_s32_bf16, "cvt.rmi.s32.bf16 %0, %1;", S, H, integer<int32_t>(test::bf16(a), std::floor))

// Integer to floating.
template <class T>
T toward(long double exact, Mode mode) {
  const T near = static_cast<T>(exact);
  if (mode == Mode::zero) mode = exact > 0 ? Mode::down : Mode::up;
  if (mode == Mode::down && near > exact) return std::nextafter(near, -std::numeric_limits<T>::infinity());
  if (mode == Mode::up && near < exact) return std::nextafter(near, std::numeric_limits<T>::infinity());
  return near;
}
CASE1(rn_f32_s32, "cvt.rn.f32.s32 %0, %1;", F, S, toward<float>(a, Mode::nearest))
CASE1(rz_f32_u32, "cvt.rz.f32.u32 %0, %1;", F, U, toward<float>(a, Mode::zero))
CASE1(rm_f32_s32, "cvt.rm.f32.s32 %0, %1;", F, S, toward<float>(a, Mode::down))
CASE1(rp_f32_s64, "cvt.rp.f32.s64 %0, %1;", F, SL, toward<float>(a, Mode::up))
CASE1(rn_f32_s64, "cvt.rn.f32.s64 %0, %1;", F, SL, toward<float>(a, Mode::nearest))
CASE1(rn_f32_u64, "cvt.rn.f32.u64 %0, %1;", F, L, toward<float>(a, Mode::nearest))
CASE1(rn_f32_s8, "cvt.rn.f32.s8 %0, %1;", F, U, int8_t(a))
CASE1(rn_f32_u8, "cvt.rn.f32.u8 %0, %1;", F, H, uint8_t(a))
CASE1(rn_f32_s16, "cvt.rn.f32.s16 %0, %1;", F, H, int16_t(a))
CASE1(rn_sat_f32_s32, "cvt.rn.sat.f32.s32 %0, %1;", F, S, a > 0 ? 1 : 0)
CASE1(rn_f64_s32, "cvt.rn.f64.s32 %0, %1;", D, S, a)
CASE1(rn_f64_s64, "cvt.rn.f64.s64 %0, %1;", D, SL, toward<double>(a, Mode::nearest))
CASE1(rz_f64_s64, "cvt.rz.f64.s64 %0, %1;", D, SL, toward<double>(a, Mode::zero))
CASE1(rp_f64_u64, "cvt.rp.f64.u64 %0, %1;", D, L, toward<double>(a, Mode::up))
CASE1(rn_f16_s32, "cvt.rn.f16.s32 %0, %1;", H, S, to_f16(a))
CASE1(rz_f16_u64, "cvt.rz.f16.u64 %0, %1;", H, L, to_f16(a, Mode::zero))
CASE1(rn_bf16_u32, "cvt.rn.bf16.u32 %0, %1;", H, U, to_bf16(a))
CASE1(rm_bf16_s64, "cvt.rm.bf16.s64 %0, %1;", H, SL, to_bf16(a, Mode::down))

// Between floating types.
CASE1(f32_f16, "cvt.f32.f16 %0, %1;", F, H, test::f16(a))
CASE1(f64_f16, "cvt.f64.f16 %0, %1;", D, H, test::f16(a))
CASE1(f32_bf16, "cvt.f32.bf16 %0, %1;", F, H, test::bf16(a))
CASE1(f64_f32, "cvt.f64.f32 %0, %1;", D, F, a)
CASE1(f64_ftz_f32, "cvt.ftz.f64.f32 %0, %1;", D, F, flush(a))
CASE1(sat_f32_f32, "cvt.sat.f32.f32 %0, %1;", F, F, a > 0 ? std::min(a, 1.f) : 0.f)
CASE1(ftz_f32_f32, "cvt.ftz.f32.f32 %0, %1;", F, F, flush(a))
CASE1(rni_f32_f32, "cvt.rni.f32.f32 %0, %1;", F, F, std::nearbyint(a))
CASE1(rzi_f32_f32, "cvt.rzi.f32.f32 %0, %1;", F, F, std::trunc(a))
CASE1(rmi_f32_f32, "cvt.rmi.f32.f32 %0, %1;", F, F, std::floor(a))
CASE1(rpi_f32_f32, "cvt.rpi.f32.f32 %0, %1;", F, F, std::ceil(a))
CASE1(rmi_f64_f64, "cvt.rmi.f64.f64 %0, %1;", D, D, std::floor(a))
CASE1(rzi_f16_f16, "cvt.rzi.f16.f16 %0, %1;", H, H, to_f16(std::trunc(test::f16(a))))
CASE1(rn_f32_f64, "cvt.rn.f32.f64 %0, %1;", F, D, toward<float>(a, Mode::nearest))
CASE1(rz_f32_f64, "cvt.rz.f32.f64 %0, %1;", F, D, toward<float>(a, Mode::zero))
CASE1(rm_f32_f64, "cvt.rm.f32.f64 %0, %1;", F, D, toward<float>(a, Mode::down))
CASE1(rp_f32_f64, "cvt.rp.f32.f64 %0, %1;", F, D, toward<float>(a, Mode::up))
CASE1(rp_ftz_f32_f64, "cvt.rp.ftz.f32.f64 %0, %1;", F, D, flush(toward<float>(a, Mode::up)))
CASE1(rn_f16_f64, "cvt.rn.f16.f64 %0, %1;", H, D, to_f16(a))
CASE1(rp_f16_f64, "cvt.rp.f16.f64 %0, %1;", H, D, to_f16(a, Mode::up))
CASE1(rn_bf16_f64, "cvt.rn.bf16.f64 %0, %1;", H, D, to_bf16(a))
CASE1(rn_f16_f32, "cvt.rn.f16.f32 %0, %1;", H, F, to_f16(a))
CASE1(rz_f16_f32, "cvt.rz.f16.f32 %0, %1;", H, F, to_f16(a, Mode::zero))
CASE1(rm_f16_f32, "cvt.rm.f16.f32 %0, %1;", H, F, to_f16(a, Mode::down))
CASE1(rp_f16_f32, "cvt.rp.f16.f32 %0, %1;", H, F, to_f16(a, Mode::up))
CASE1(sat_f16_f32, "cvt.rn.sat.f16.f32 %0, %1;", H, F, to_f16(a > 0 ? std::min(a, 1.f) : 0.f))
CASE1(rn_bf16_f32, "cvt.rn.bf16.f32 %0, %1;", H, F, to_bf16(a))
CASE1(rz_bf16_f32, "cvt.rz.bf16.f32 %0, %1;", H, F, to_bf16(a, Mode::zero))
CASE1(rn_bf16_f16, "cvt.rn.bf16.f16 %0, %1;", H, H, to_bf16(test::f16(a)))
CASE1(rz_f16_bf16, "cvt.rz.f16.bf16 %0, %1;", H, H, to_f16(test::bf16(a), Mode::zero))

// Packed; the first operand gives the upper part.
long double relu(float v) { return v < 0 || v == 0 ? 0 : v; }
template <class T>
T finite(T v, T max) {
  return v > max ? max : v < -max ? -max : v;
}
CASE1(rn_relu_f16_f32, "cvt.rn.relu.f16.f32 %0, %1;", H, F, to_f16(relu(a)))
CASE1(rn_relu_bf16_f32, "cvt.rn.relu.bf16.f32 %0, %1;", H, F, to_bf16(relu(a)))
CASE2(rn_f16x2_f32, "cvt.rn.f16x2.f32 %0, %1, %2;", U, F, F, to_f16(a) << 16 | to_f16(b))
CASE2(rz_f16x2_f32, "cvt.rz.f16x2.f32 %0, %1, %2;", U, F, F, to_f16(a, Mode::zero) << 16 | to_f16(b, Mode::zero))
CASE2(rn_bf16x2_f32, "cvt.rn.bf16x2.f32 %0, %1, %2;", U, F, F, to_bf16(a) << 16 | to_bf16(b))
CASE2(rz_bf16x2_f32, "cvt.rz.bf16x2.f32 %0, %1, %2;", U, F, F, to_bf16(a, Mode::zero) << 16 | to_bf16(b, Mode::zero))
CASE2(rn_relu_bf16x2_f32, "cvt.rn.relu.bf16x2.f32 %0, %1, %2;", U, F, F, to_bf16(relu(a)) << 16 | to_bf16(relu(b)))
CASE2(rz_relu_f16x2_f32, "cvt.rz.relu.f16x2.f32 %0, %1, %2;", U, F, F,
      to_f16(relu(a), Mode::zero) << 16 | to_f16(relu(b), Mode::zero))

uint32_t e4m3(double v) {  // saturating: the largest is 448, and there is no infinity
  if (std::isnan(v)) return 0x7f;
  const uint32_t sign = std::signbit(v) ? 0x80 : 0;
  const double x = std::min(std::abs(v), 1e6), step = std::ldexp(1, std::max(x == 0 ? -6 : std::ilogb(x), -6) - 3);
  const double r = std::min(std::nearbyint(x / step) * step, 448.0);
  if (r < 0x1p-6) return sign | static_cast<uint32_t>(r * 0x1p9);
  const int e = std::ilogb(r);
  return sign | static_cast<uint32_t>((e + 7) * 8 + static_cast<int>(std::ldexp(r, 3 - e)) - 8);
}
uint32_t e5m2(double v) { return std::isnan(v) ? 0x7f : test::rounded(5, 2, finite(v, 57344.0)); }
double from_e4m3(uint32_t v) {
  const int e = v >> 3 & 15, m = v & 7;
  const double r = (v & 127) == 127 ? NAN : e == 0 ? std::ldexp(m, -9) : std::ldexp(m + 8, e - 10);
  return v & 128 ? -r : r;
}
CASE2(e4m3x2_f32, "cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;", H, F, F, e4m3(a) << 8 | e4m3(b))
CASE2(e4m3x2_relu_f32, "cvt.rn.satfinite.relu.e4m3x2.f32 %0, %1, %2;", H, F, F,
      e4m3(static_cast<double>(relu(a))) << 8 | e4m3(static_cast<double>(relu(b))))
CASE2(e5m2x2_f32, "cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;", H, F, F, e5m2(a) << 8 | e5m2(b))
CASE1(e4m3x2_f16x2, "cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;", H, U,
      e4m3(test::f16(a >> 16)) << 8 | e4m3(test::f16(a & 0xffff)))
CASE1(e5m2x2_f16x2, "cvt.rn.satfinite.e5m2x2.f16x2 %0, %1;", H, U,
      e5m2(test::f16(a >> 16)) << 8 | e5m2(test::f16(a & 0xffff)))
CASE1(f16x2_e4m3x2, "cvt.rn.f16x2.e4m3x2 %0, %1;", U, H, to_f16(from_e4m3(a >> 8)) << 16 | to_f16(from_e4m3(a & 255)))
CASE1(f16x2_relu_e4m3x2, "cvt.rn.relu.f16x2.e4m3x2 %0, %1;", U, H,
      to_f16(relu(static_cast<float>(from_e4m3(a >> 8)))) << 16 | to_f16(relu(static_cast<float>(from_e4m3(a & 255)))))
uint32_t from_e5m2(uint32_t v) { return std::isnan(test::f16(v << 8)) ? 0x7fff : v << 8; }  // an f16 of fewer digits
CASE1(f16x2_e5m2x2, "cvt.rn.f16x2.e5m2x2 %0, %1;", U, H, from_e5m2(a >> 8) << 16 | from_e5m2(a & 255))

uint32_t tf32(float v, Mode mode) { return std::isnan(v) ? 0x7fffffff : test::rounded(8, 10, v, 0, mode) << 13; }
uint32_t tf32_away(float v) {  // ties away from zero: half a step is added to the magnitude
  if (!std::isfinite(v)) return std::isnan(v) ? 0x7fffffff : std::bit_cast<uint32_t>(v);
  return (std::bit_cast<uint32_t>(v) + 0x1000) & 0xffffe000;
}
CASE1(rna_tf32, "cvt.rna.tf32.f32 %0, %1;", U, F, tf32_away(a))
CASE1(rn_tf32, "cvt.rn.tf32.f32 %0, %1;", U, F, tf32(a, Mode::nearest))
CASE1(rz_tf32, "cvt.rz.tf32.f32 %0, %1;", U, F, tf32(a, Mode::zero))
CASE1(rn_relu_tf32, "cvt.rn.relu.tf32.f32 %0, %1;", U, F, tf32(static_cast<float>(relu(a)), Mode::nearest))

CASE2(pack_u16, "cvt.pack.sat.u16.s32 %0, %1, %2;", U, S, S,
      uint32_t{clamped<uint16_t>(a)} << 16 | clamped<uint16_t>(b))
CASE2(pack_s16, "cvt.pack.sat.s16.s32 %0, %1, %2;", U, S, S,
      static_cast<uint32_t>(clamped<int16_t>(a)) << 16 | static_cast<uint16_t>(clamped<int16_t>(b)))
CASE3(pack_s8, "cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;", U, S, S, U,
      c << 16 | static_cast<uint32_t>(uint8_t(clamped<int8_t>(a))) << 8 | uint8_t(clamped<int8_t>(b)))
CASE3(pack_u8, "cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;", U, S, S, U,
      c << 16 | uint32_t{clamped<uint8_t>(a)} << 8 | clamped<uint8_t>(b))
CASE3(pack_u4, "cvt.pack.sat.u4.s32.b32 %0, %1, %2, %3;", U, S, S, U,
      c << 8 | static_cast<uint32_t>(std::clamp(a, 0, 15)) << 4 | static_cast<uint32_t>(std::clamp(b, 0, 15)))

}  // namespace
