#include "cases.h"

// set, setp, selp, slct.
namespace {
#define SUITE Compare

#define SETP(name, type, T, ...)                                                                                      \
  CASE2(setp_##name##_##type, "{ .reg .pred p; setp." #name "." #type " p, %1, %2; selp.u32 %0, 1, 0, p; }", U, T, T, \
        __VA_ARGS__)
SETP(eq, s32, S, a == b)
SETP(ne, s32, S, a != b)
SETP(lt, s32, S, a < b)
SETP(le, s32, S, a <= b)
SETP(gt, s32, S, a > b)
SETP(ge, s32, S, a >= b)
SETP(lt, u32, U, a < b)
SETP(lo, u32, U, a < b)
SETP(ls, u32, U, a <= b)
SETP(hi, u32, U, a > b)
SETP(hs, u32, U, a >= b)
SETP(eq, b32, U, a == b)
SETP(ne, b64, L, a != b)
SETP(eq, b16, H, a == b)
SETP(lt, s16, SH, a < b)
SETP(gt, u16, H, a > b)
SETP(lt, s64, SL, a < b)
SETP(ge, u64, L, a >= b)

template <class T>
bool unordered(T a, T b) {
  return std::isnan(a) || std::isnan(b);
}
SETP(eq, f32, F, a == b)
SETP(ne, f32, F, !unordered(a, b) && a != b)
SETP(lt, f32, F, a < b)
SETP(le, f32, F, a <= b)
SETP(gt, f32, F, a > b)
SETP(ge, f32, F, a >= b)
SETP(equ, f32, F, unordered(a, b) || a == b)
SETP(neu, f32, F, unordered(a, b) || a != b)
SETP(ltu, f32, F, unordered(a, b) || a < b)
SETP(leu, f32, F, unordered(a, b) || a <= b)
SETP(gtu, f32, F, unordered(a, b) || a > b)
SETP(geu, f32, F, unordered(a, b) || a >= b)
SETP(num, f32, F, !unordered(a, b))
SETP(nan, f32, F, unordered(a, b))
SETP(ne, f64, D, !unordered(a, b) && a != b)
SETP(neu, f64, D, unordered(a, b) || a != b)
SETP(gt, f64, D, a > b)
SETP(leu, f64, D, unordered(a, b) || a <= b)
float flush(float v) { return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.f, v) : v; }
CASE2(setp_eq_ftz_f32, "{ .reg .pred p; setp.eq.ftz.f32 p, %1, %2; selp.u32 %0, 1, 0, p; }", U, F, F,
      flush(a) == flush(b))
CASE2(setp_gt_ftz_f32, "{ .reg .pred p; setp.gt.ftz.f32 p, %1, %2; selp.u32 %0, 1, 0, p; }", U, F, F,
      flush(a) > flush(b))

#define COMBINED(op, c)                                                            \
  "{ .reg .pred p, q, r; setp.ne.s32 r, %3, 0; setp.lt." op ".s32 p|q, %1, %2, " c \
  "; selp.u32 %0, 1, 0, p; @q add.u32 %0, %0, "                                    \
  "2; }"
CASE3(setp_and, COMBINED("and", "r"), U, S, S, S, (a < b && c) + 2 * (a >= b && c))
CASE3(setp_or, COMBINED("or", "r"), U, S, S, S, (a < b || c) + 2 * (a >= b || c))
CASE3(setp_xor, COMBINED("xor", "r"), U, S, S, S, ((a < b) != (c != 0)) + 2 * ((a >= b) != (c != 0)))
CASE3(setp_and_not, COMBINED("and", "!r"), U, S, S, S, (a < b && !c) + 2 * (a >= b && !c))
CASE2(setp_both, "{ .reg .pred p, q; setp.ge.f32 p|q, %1, %2; selp.u32 %0, 1, 0, p; @q add.u32 %0, %0, 2; }", U, F, F,
      a >= b ? 1 : 2)
CASE3(setp_sink, "{ .reg .pred q, r; setp.ne.s32 r, %3, 0; setp.eq.and.s32 _|q, %1, %2, r; selp.u32 %0, 1, 0, q; }", U,
      S, S, S, a != b && c)

using test::f16;
double flushed(uint16_t h) { return (h & 0x7c00) == 0 ? 0 : f16(h); }
SETP(lt, f16, H, f16(a) < f16(b))
SETP(geu, f16, H, !(f16(a) < f16(b)))
SETP(nan, f16, H, unordered(f16(a), f16(b)))
CASE2(setp_gt_ftz_f16, "{ .reg .pred p; setp.gt.ftz.f16 p, %1, %2; selp.u32 %0, 1, 0, p; }", U, H, H,
      flushed(a) > flushed(b))
SETP(le, bf16, H, test::bf16(a) <= test::bf16(b))
SETP(neu, bf16, H, !(test::bf16(a) == test::bf16(b)))
CASE2(setp_f16x2, "{ .reg .pred p, q; setp.lt.f16x2 p|q, %1, %2; selp.u32 %0, 1, 0, p; @q add.u32 %0, %0, 2; }", U, U,
      U, (f16(a & 0xffff) < f16(b & 0xffff)) + 2 * (f16(a >> 16) < f16(b >> 16)))
CASE3(setp_bf16x2,
      "{ .reg .pred p, q, r; setp.gt.s32 r, %3, 0; setp.gtu.and.bf16x2 p|q, %1, %2, r; selp.u32 %0, 1, 0, p; @q "
      "add.u32 %0, %0, 2; }",
      U, U, U, S,
      c <= 0 ? 0
             : !(test::bf16(a & 0xffff) <= test::bf16(b & 0xffff)) + 2 * !(test::bf16(a >> 16) <= test::bf16(b >> 16)))

CASE2(set_u32_s32, "set.lt.u32.s32 %0, %1, %2;", U, S, S, a < b ? 0xffffffff : 0)
CASE2(set_f32_f32, "set.gt.f32.f32 %0, %1, %2;", F, F, F, a > b ? 1 : 0)
CASE2(set_u32_f64, "set.leu.u32.f64 %0, %1, %2;", U, D, D, unordered(a, b) || a <= b ? 0xffffffff : 0)
CASE3(set_combined, "{ .reg .pred r; setp.ne.s32 r, %3, 0; set.ge.xor.s32.u32 %0, %1, %2, !r; }", S, U, U, S,
      (a >= b) != (c == 0) ? -1 : 0)
CASE2(set_f16, "set.lt.f16.f16 %0, %1, %2;", H, H, H, f16(a) < f16(b) ? 0x3c00 : 0)
CASE2(set_u16_bf16, "set.gt.u16.bf16 %0, %1, %2;", H, H, H, test::bf16(a) > test::bf16(b) ? 0xffff : 0)
CASE2(set_u32_f16, "set.eq.u32.f16 %0, %1, %2;", U, H, H, f16(a) == f16(b) ? 0xffffffff : 0)
CASE2(set_f16x2, "set.lt.f16x2.f16x2 %0, %1, %2;", U, U, U,
      (f16(a & 0xffff) < f16(b & 0xffff) ? 0x3c00 : 0) | (f16(a >> 16) < f16(b >> 16) ? 0x3c000000 : 0))
CASE2(set_u32_bf16x2, "set.neu.u32.bf16x2 %0, %1, %2;", U, U, U,
      (test::bf16(a & 0xffff) == test::bf16(b & 0xffff) ? 0 : 0xffff) |
          (test::bf16(a >> 16) == test::bf16(b >> 16) ? 0 : 0xffff0000))
CASE2(set_bf16x2, "set.ge.bf16x2.bf16x2 %0, %1, %2;", U, U, U,
      (test::bf16(a & 0xffff) >= test::bf16(b & 0xffff) ? 0x3f80 : 0) |
          (test::bf16(a >> 16) >= test::bf16(b >> 16) ? 0x3f800000 : 0))

#define SELP(type, R) \
  CASE3(selp_##type, "{ .reg .pred p; setp.lt.s32 p, %3, 5; selp." #type " %0, %1, %2, p; }", R, R, R, S, c < 5 ? a : b)
SELP(b16, H)
SELP(s32, S)
SELP(b64, L)
CASE1(selp_f32, "{ .reg .pred p; setp.lt.s32 p, %1, 5; selp.f32 %0, 0f3FC00000, 0fC0000000, p; }", F, S,
      a < 5 ? 1.5f : -2.f)
CASE1(selp_f64, "{ .reg .pred p; setp.lt.s32 p, %1, 5; selp.f64 %0, 0d3FF8000000000000, 0dC000000000000000, p; }", D, S,
      a < 5 ? 1.5 : -2.)
CASE3(slct_u32_s32, "slct.u32.s32 %0, %1, %2, %3;", U, U, U, S, c >= 0 ? a : b)
CASE3(slct_u64_f32, "slct.u64.f32 %0, %1, %2, %3;", L, L, L, F, c >= 0 ? a : b)
CASE3(slct_ftz_b16_f32, "slct.ftz.b16.f32 %0, %1, %2, %3;", H, H, H, F, flush(c) >= 0 ? a : b)

}  // namespace
