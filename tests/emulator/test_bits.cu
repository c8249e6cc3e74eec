#include <algorithm>

#include "cases.h"

// Logic, shifts, fields and bytes; each expectation goes bit by bit where the PTX ISA does.
namespace {
#define SUITE Bits

CASE2(and_b32, "and.b32 %0, %1, %2;", U, U, U, a& b)
CASE2(or_b16, "or.b16 %0, %1, %2;", H, H, H, a | b)
CASE2(xor_b64, "xor.b64 %0, %1, %2;", L, L, L, a ^ b)
CASE1(not_b32, "not.b32 %0, %1;", U, U, ~a)
CASE1(not_b16, "not.b16 %0, %1;", H, H, ~a)
CASE1(not_b64, "not.b64 %0, %1;", L, L, ~a)
CASE1(cnot_b32, "cnot.b32 %0, %1;", U, U, a == 0 ? 1 : 0)
CASE1(cnot_b64, "cnot.b64 %0, %1;", L, L, a == 0 ? 1 : 0)

CASE2(predicate_logic,
      "{ .reg .pred p, q, r, s; setp.ne.u32 p, %1, 0; setp.lt.s32 q, %2, 0; and.pred r, p, q; selp.u32 %0, 1, 0, r;"
      "or.pred r, p, q; @r add.u32 %0, %0, 2; xor.pred r, p, q; @r add.u32 %0, %0, 4; not.pred s, p; @s add.u32 %0, "
      "%0, 8;"
      "mov.pred s, q; @!s add.u32 %0, %0, 16; }",
      U, U, S,
      (a && b < 0 ? 1 : 0) + (a || b < 0 ? 2 : 0) + ((a != 0) != (b < 0) ? 4 : 0) + (a ? 0 : 8) + (b < 0 ? 0 : 16))

uint32_t lop(int table, uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r = 0;
  for (int k = 0; k < 32; ++k)
    r |= static_cast<uint32_t>(table >> ((a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1)) & 1) << k;
  return r;
}
#define LOP3(table) CASE3(lop3_##table, "lop3.b32 %0, %1, %2, %3, " #table ";", U, U, U, U, lop(table, a, b, c))
LOP3(0x01)
LOP3(0x02)
LOP3(0x04)
LOP3(0x08)
LOP3(0x10)
LOP3(0x20)
LOP3(0x40)
LOP3(0x80)
LOP3(0xe8)
LOP3(0xca)
LOP3(0x96)
CASE3(lop3_or_predicate,
      "{ .reg .pred p, q; setp.eq.u32 q, %3, 7; lop3.or.b32 %0|p, %1, %2, %3, 0x80, q; @p xor.b32 %0, %0, 0x5555; }", U,
      U, U, U, (a & b & c) ^ ((a & b & c) != 0 || c == 7 ? 0x5555 : 0))
CASE3(lop3_and_predicate,
      "{ .reg .pred p, q; setp.lt.u32 q, %3, 7; lop3.and.b32 _|p, %1, %2, %3, 0xfe, q; selp.u32 %0, 1, 0, p; }", U, U,
      U, U, (a | b | c) != 0 && c < 7)

CASE2(shl_b16, "shl.b16 %0, %1, %2;", H, H, U, b > 15 ? 0 : a << b)
CASE2(shl_b32, "shl.b32 %0, %1, %2;", U, U, U, b > 31 ? 0 : a << b)
CASE2(shl_b64, "shl.b64 %0, %1, %2;", L, L, U, b > 63 ? 0 : a << b)
CASE2(shr_u16, "shr.u16 %0, %1, %2;", H, H, U, b > 15 ? 0 : a >> b)
CASE2(shr_s16, "shr.s16 %0, %1, %2;", SH, SH, U, a >> std::min(b, 15u))
CASE2(shr_u32, "shr.u32 %0, %1, %2;", U, U, U, b > 31 ? 0 : a >> b)
CASE2(shr_s32, "shr.s32 %0, %1, %2;", S, S, U, a >> std::min(b, 31u))
CASE2(shr_b64, "shr.b64 %0, %1, %2;", L, L, U, b > 63 ? 0 : a >> b)
CASE2(shr_s64, "shr.s64 %0, %1, %2;", SL, SL, U, a >> std::min(b, 63u))
uint64_t both(uint32_t a, uint32_t b) { return uint64_t{b} << 32 | a; }
CASE3(shf_l_clamp, "shf.l.clamp.b32 %0, %1, %2, %3;", U, U, U, U, both(a, b) << std::min(c, 32u) >> 32)
CASE3(shf_l_wrap, "shf.l.wrap.b32 %0, %1, %2, %3;", U, U, U, U, both(a, b) << (c & 31) >> 32)
CASE3(shf_r_clamp, "shf.r.clamp.b32 %0, %1, %2, %3;", U, U, U, U, both(a, b) >> std::min(c, 32u))
CASE3(shf_r_wrap, "shf.r.wrap.b32 %0, %1, %2, %3;", U, U, U, U, both(a, b) >> (c & 31))

template <class T>
T field(T a, uint32_t at, uint32_t length) {
  constexpr int top = 8 * sizeof(T) - 1;
  at &= 255, length &= 255;
  const auto bit = [a](uint32_t k) { return static_cast<std::make_unsigned_t<T>>(a >> k & 1); };
  const auto sign = std::is_signed_v<T> && length != 0 ? bit(std::min<uint32_t>(at + length - 1, top)) : 0;
  std::make_unsigned_t<T> r = 0;
  for (uint32_t k = 0; k <= top; ++k) r |= (k < length && at + k <= top ? bit(at + k) : sign) << k;
  return static_cast<T>(r);
}
CASE3(bfe_u32, "bfe.u32 %0, %1, %2, %3;", U, U, U, U, field(a, b, c))
CASE3(bfe_s32, "bfe.s32 %0, %1, %2, %3;", S, S, U, U, field(a, b, c))
CASE3(bfe_u64, "bfe.u64 %0, %1, %2, %3;", L, L, U, U, field(a, b, c))
CASE3(bfe_s64, "bfe.s64 %0, %1, %2, %3;", SL, SL, U, U, field(a, b, c))
template <class T>
T inserted(T a, T b, uint32_t at, uint32_t length) {
  at &= 255, length &= 255;
  for (uint32_t k = 0; k < length && at + k < 8 * sizeof(T); ++k)
    b = (b & ~(T{1} << (at + k))) | ((k < 8 * sizeof(T) ? a >> k & 1 : 0) << (at + k));
  return b;
}
CASE3(bfi_b32, "bfi.b32 %0, %1, 0x5a5a1234, %2, %3;", U, U, U, U, inserted(a, 0x5a5a1234u, b, c))
CASE3(bfi_b64, "bfi.b64 %0, %1, 0x5a5a123477778888, %2, %3;", L, L, U, U,
      inserted(a, uint64_t{0x5a5a123477778888}, b, c))
template <class T>
uint32_t leading(T a, bool shift) {
  constexpr int top = 8 * sizeof(T) - 1;
  if (std::is_signed_v<T> && a < 0) a = ~a;
  for (int k = top; k >= 0; --k)
    if (a >> k & 1) return static_cast<uint32_t>(shift ? top - k : k);
  return 0xffffffff;
}
CASE1(bfind_u32, "bfind.u32 %0, %1;", U, U, leading(a, false))
CASE1(bfind_s32, "bfind.s32 %0, %1;", U, S, leading(a, false))
CASE1(bfind_shiftamt_u32, "bfind.shiftamt.u32 %0, %1;", U, U, leading(a, true))
CASE1(bfind_s64, "bfind.s64 %0, %1;", U, SL, leading(a, false))
CASE1(bfind_shiftamt_s64, "bfind.shiftamt.s64 %0, %1;", U, SL, leading(a, true))
template <class T>
T reversed(T a) {
  T r = 0;
  for (size_t k = 0; k < 8 * sizeof(T); ++k) r |= (a >> k & 1) << (8 * sizeof(T) - 1 - k);
  return r;
}
CASE1(brev_b32, "brev.b32 %0, %1;", U, U, reversed(a))
CASE1(brev_b64, "brev.b64 %0, %1;", L, L, reversed(a))
CASE1(popc_b32, "popc.b32 %0, %1;", U, U, std::popcount(a))
CASE1(popc_b64, "popc.b64 %0, %1;", U, L, std::popcount(a))
CASE1(clz_b32, "clz.b32 %0, %1;", U, U, std::countl_zero(a))
CASE1(clz_b64, "clz.b64 %0, %1;", U, L, std::countl_zero(a))

uint32_t permuted(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t n = c >> 4 * k & 15, v = (n & 4 ? b : a) >> 8 * (n & 3) & 255;
    r |= (n & 8 ? (v & 128 ? 255u : 0u) : v) << 8 * k;
  }
  return r;
}
CASE3(prmt, "prmt.b32 %0, %1, %2, %3;", U, U, U, U, permuted(a, b, c))
// Bytes d0 … d3 of the result by c & 3, where 0 … 3 are a's and 4 … 7 b's.
uint32_t bytes(uint32_t a, uint32_t b, int d0, int d1, int d2, int d3) {
  return permuted(a, b, static_cast<uint32_t>((d0 & 7) | (d1 & 7) << 4 | (d2 & 7) << 8 | (d3 & 7) << 12));
}
int mod4(uint32_t c) { return static_cast<int>(c & 3); }
CASE3(prmt_f4e, "prmt.b32.f4e %0, %1, %2, %3;", U, U, U, U, bytes(a, b, mod4(c), mod4(c) + 1, mod4(c) + 2, mod4(c) + 3))
CASE3(prmt_b4e, "prmt.b32.b4e %0, %1, %2, %3;", U, U, U, U, bytes(a, b, mod4(c), mod4(c) - 1, mod4(c) - 2, mod4(c) - 3))
CASE3(prmt_rc8, "prmt.b32.rc8 %0, %1, %2, %3;", U, U, U, U, bytes(a, b, mod4(c), mod4(c), mod4(c), mod4(c)))
CASE3(prmt_ecl, "prmt.b32.ecl %0, %1, %2, %3;", U, U, U, U,
      bytes(a, b, std::max(0, mod4(c)), std::max(1, mod4(c)), std::max(2, mod4(c)), 3))
CASE3(prmt_ecr, "prmt.b32.ecr %0, %1, %2, %3;", U, U, U, U,
      bytes(a, b, 0, std::min(1, mod4(c)), std::min(2, mod4(c)), std::min(3, mod4(c))))
CASE3(prmt_rc16, "prmt.b32.rc16 %0, %1, %2, %3;", U, U, U, U,
      bytes(a, b, c & 1 ? 2 : 0, c & 1 ? 3 : 1, c & 1 ? 2 : 0, c & 1 ? 3 : 1))

CASE2(szext_clamp_s32, "szext.clamp.s32 %0, %1, %2;", S, U, U,
      b >= 32  ? a
      : b == 0 ? 0
               : int64_t(uint64_t{a} << (64 - b)) >> (64 - b))
CASE2(szext_wrap_s32, "szext.wrap.s32 %0, %1, %2;", S, U, U,
      (b & 31) == 0 ? 0 : int64_t(uint64_t{a} << (64 - (b & 31))) >> (64 - (b & 31)))
CASE2(szext_clamp_u32, "szext.clamp.u32 %0, %1, %2;", U, U, U, b >= 32 ? a : a & ((uint64_t{1} << b) - 1))
CASE2(szext_wrap_u32, "szext.wrap.u32 %0, %1, %2;", U, U, U, a&((uint64_t{1} << (b & 31)) - 1))
CASE2(bmsk_clamp, "bmsk.clamp.b32 %0, %1, %2;", U, U, U, a > 31 ? 0 : ((uint64_t{1} << std::min(b, 32u)) - 1) << a)
CASE2(bmsk_wrap, "bmsk.wrap.b32 %0, %1, %2;", U, U, U, ((uint64_t{1} << (b & 31)) - 1) << (a & 31))
uint32_t nth(uint32_t mask, uint32_t base, int32_t n) {
  std::vector<uint32_t> set;
  base &= 31;
  if (n == 0) return mask >> base & 1 ? base : 0xffffffff;
  for (uint32_t k = base; k < 32; n > 0 ? ++k : --k)
    if (mask >> k & 1) set.push_back(k);
  const uint64_t at = static_cast<uint64_t>(std::abs(int64_t{n})) - 1;
  return at < set.size() ? set[at] : 0xffffffff;
}
CASE3(fns, "{ .reg .b32 x; and.b32 x, %2, 31; fns.b32 %0, %1, x, %3; }", U, U, U, S, nth(a, b, c))

// Moves: vectors, the lowest part first.
CASE1(mov_b32, "mov.b32 %0, %1;", U, F, std::bit_cast<uint32_t>(a))
CASE1(mov_b64, "mov.b64 %0, %1;", L, D, std::bit_cast<uint64_t>(a))
CASE1(mov_constant, "mov.f32 %0, 0fC0490FDB;", F, U, std::bit_cast<float>(0xc0490fdb))
CASE1(mov_decimal, "mov.f64 %0, 0d3FB999999999999A;", D, U, 0.1)
CASE2(pack_b32, "{ .reg .b16 x, y; cvt.u16.u32 x, %1; cvt.u16.u32 y, %2; mov.b32 %0, {x, y}; }", U, U, U,
      (a & 0xffff) | b << 16)
CASE1(unpack_b32, "{ .reg .b16 x, y; mov.b32 {x, y}, %1; mov.b32 %0, {y, x}; }", U, U, a >> 16 | a << 16)
CASE1(unpack_sink, "{ .reg .b16 x; mov.b32 {_, x}, %1; mov.b32 %0, {x, x}; }", U, U, a >> 16 | a >> 16 << 16)
CASE2(pack_b64, "mov.b64 %0, {%1, %2};", L, U, U, both(a, b))
CASE1(unpack_b64_16, "{ .reg .b16 x<4>; mov.b64 {x0, x1, x2, x3}, %1; mov.b64 %0, {x3, x2, x1, x0}; }", L, L,
      a >> 48 | (a >> 32 & 0xffff) << 16 | (a >> 16 & 0xffff) << 32 | a << 48)
CASE1(swap_in_place,
      "{ .reg .b32 x, y; mov.b64 {x, y}, %1; mov.b64 %0, {x, y}; mov.b64 {y, x}, %0; mov.b64 %0, {x, y}; }", L, L,
      a >> 32 | a << 32)
CASE2(b128, "{ .reg .b128 q; .reg .b64 x, y; mov.b128 q, {%1, %2}; mov.b128 {x, y}, q; sub.u64 %0, x, y; }", L, L, L,
      a - b)

// Lanes outside the predicate keep what they had: by the size of the destination.
CASE2(masked_16,
      "{ .reg .pred p; .reg .b16 h; setp.lt.s32 p, %2, 9; mov.b16 %0, 77; mov.b16 h, 3; @p add.u16 %0, %1, h; }", H, H,
      S, b < 9 ? a + 3 : 77)
CASE2(masked_32, "{ .reg .pred p; setp.lt.s32 p, %2, 9; mov.b32 %0, 77; @p add.u32 %0, %1, 3; }", U, U, S,
      b < 9 ? a + 3 : 77)
CASE2(masked_64, "{ .reg .pred p; setp.lt.s32 p, %2, 9; mov.b64 %0, 77; @!p add.u64 %0, %1, 3; }", L, L, S,
      b < 9 ? 77 : a + 3)
CASE2(masked_predicate,
      "{ .reg .pred p, q; setp.lt.s32 p, %2, 9; setp.gt.s32 q, %1, 0; @p setp.lt.s32 q, %1, 0; selp.u32 %0, 1, 0, q; }",
      U, S, S, b < 9 ? a < 0 : a > 0)
CASE2(masked_parts,
      "{ .reg .pred p; .reg .b32 x, y; setp.lt.s32 p, %2, 9; mov.b32 x, 5; mov.b32 y, 6; @p mov.b64 {y, x}, %1; "
      "mov.b64 %0, {x, y}; }",
      L, L, S, b < 9 ? a >> 32 | a << 32 : both(5, 6))

__global__ void clocks(uint32_t* increased) {
  uint32_t a, b;
  uint64_t c, d;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(c));
  asm volatile("mov.u32 %0, %%clock;" : "=r"(a));
  asm volatile("mov.u32 %0, %%clock;" : "=r"(b));
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(d));
  increased[threadIdx.x] = (b != a) + 2 * (d > c);
}
TEST(Bits, Clocks) { EXPECT_EQ(test::warp<uint32_t>(clocks), std::vector<uint32_t>(32, 3)); }

}  // namespace
