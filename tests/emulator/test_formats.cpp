#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "formats.h"

// Each format is listed in full, and a rounding is right if no listed value lies between the result and the input.
namespace {

struct Description {
  int exponent, mantissa;
  bool infinity, nan;  // are there any
};
double value(const Description& f, uint32_t v) {  // of the magnitude bits
  const int e = static_cast<int>(v >> f.mantissa), m = static_cast<int>(v & ((1u << f.mantissa) - 1));
  const int last = (1 << f.exponent) - 1, bias = (1 << (f.exponent - 1)) - 1;
  if (f.infinity && e == last) return m ? NAN : INFINITY;
  if (!f.infinity && f.nan && e == last && m == (1 << f.mantissa) - 1) return NAN;
  return e == 0 ? std::ldexp(m, 1 - bias - f.mantissa) : std::ldexp(m + (1 << f.mantissa), e - bias - f.mantissa);
}
std::vector<double> magnitudes(const Description& f) {  // ascending; the index is the encoding
  std::vector<double> out;
  for (uint32_t v = 0; v < 1u << (f.exponent + f.mantissa) && std::isfinite(value(f, v)); ++v)
    out.push_back(value(f, v));
  return out;
}

enum class Mode { rn, rz, rm, rp, rna };
/// The encoding of v by search.
uint32_t expected(const Description& f, const std::vector<double>& all, double v, Mode mode, bool satfinite,
                  uint32_t nan) {
  const uint32_t sign = std::signbit(v) ? 1u << (f.exponent + f.mantissa) : 0;
  const uint32_t max = static_cast<uint32_t>(all.size()) - 1;
  const uint32_t beyond = f.infinity ? max + 1 : nan;
  if (std::isnan(v)) return nan;
  const double x = std::abs(v);
  if (std::isinf(v)) return sign | (satfinite ? max : beyond);
  uint32_t below = static_cast<uint32_t>(std::upper_bound(all.begin(), all.end(), x) - all.begin()) - 1;
  if (all[below] == x) return sign | below;
  const double next = below == max ? 2 * all[max] - all[max - 1] : all[below + 1];  // what max + 1 would be
  const bool away = mode == Mode::rm ? sign != 0 : mode == Mode::rp ? sign == 0 : false;
  const double middle = (all[below] + next) / 2;
  bool up = away;
  if (mode == Mode::rn) up = x > middle || (x == middle && below % 2 == 1);
  if (mode == Mode::rna) up = x >= middle;
  if (!up && below < max) return sign | below;
  if (!up) return sign | max;
  return sign | (below < max ? below + 1 : satfinite ? max : beyond);
}

std::vector<float> inputs(const std::vector<double>& all) {
  std::vector<float> out = {0.f, -0.f, INFINITY, -INFINITY, NAN, 1e-45f, -1e-45f, 1e38f, -3.4028235e38f, 1e-30f};
  const auto around = [&](double v) {
    const float x = static_cast<float>(v);
    for (const float y : {x, std::nextafter(x, 0.f), std::nextafter(x, HUGE_VALF)}) out.push_back(y), out.push_back(-y);
  };
  for (size_t i = 0; i + 1 < all.size(); ++i) around(all[i]), around((all[i] + all[i + 1]) / 2);
  const double max = all.back(), step = max - all[all.size() - 2];
  for (const double v : {max, max + step / 4, max + step / 2, max + step, 2 * max}) around(v);
  std::mt19937 g(3);
  for (int i = 0; i < 20000; ++i) out.push_back(std::bit_cast<float>(static_cast<uint32_t>(g())));
  return out;
}

template <class F, emu::Round R, bool satfinite>
void rounding(const Description& f, Mode mode) {
  const auto all = magnitudes(f);
  int wrong = 0;
  const auto compare = [&](auto v) {
    const uint32_t got = emu::encode<F, R, satfinite>(v), want = expected(f, all, v, mode, satfinite, F::nan);
    if (got != want && ++wrong <= 3)
      ADD_FAILURE() << std::hexfloat << v << std::hex << ": got " << got << ", want " << want << ", mode " << int(mode);
  };
  for (const float v : inputs(all)) {
    compare(v);
    for (const double d : {double{v}, std::nextafter(double{v}, 0.0), std::nextafter(double{v}, HUGE_VAL)}) compare(d);
  }
  for (const double d : {1e300, -1e300, 1e-300, -1e-300, 5e-324}) compare(d);
  EXPECT_EQ(wrong, 0);
}
template <class F>
void format(const Description& f) {
  const auto all = magnitudes(f);
  const uint32_t sign = 1u << (f.exponent + f.mantissa);
  for (uint32_t v = 0; v < sign; ++v) {
    const double want = value(f, v);
    const float got = emu::decode<F>(v), negative = emu::decode<F>(v | sign);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got) && std::isnan(negative)) << v;
    } else {
      ASSERT_EQ(static_cast<double>(got), want) << v;
      ASSERT_TRUE(negative == -got && std::signbit(negative)) << v;
    }
  }
  rounding<F, emu::Round::rn, false>(f, Mode::rn);
  rounding<F, emu::Round::rn, true>(f, Mode::rn);
  rounding<F, emu::Round::rz, false>(f, Mode::rz);
  rounding<F, emu::Round::rz, true>(f, Mode::rz);
  rounding<F, emu::Round::rna, false>(f, Mode::rna);
  rounding<F, emu::Round::rna, true>(f, Mode::rna);
  if (f.infinity) {
    rounding<F, emu::Round::rm, false>(f, Mode::rm);
    rounding<F, emu::Round::rp, false>(f, Mode::rp);
  }
}

TEST(Formats, F16) { format<emu::F16>({5, 10, true, true}); }
TEST(Formats, Bf16) { format<emu::Bf16>({8, 7, true, true}); }
TEST(Formats, E5m2) { format<emu::E5m2>({5, 2, true, true}); }
TEST(Formats, E4m3) { format<emu::E4m3>({4, 3, false, true}); }
TEST(Formats, E2m3) { format<emu::E2m3>({2, 3, false, false}); }
TEST(Formats, E3m2) { format<emu::E3m2>({3, 2, false, false}); }
TEST(Formats, E2m1) { format<emu::E2m1>({2, 1, false, false}); }

TEST(Formats, Tf32) {
  const Description f{8, 10, true, true};
  const auto all = magnitudes(f);
  std::mt19937 g(5);
  for (int i = 0; i < 200000; ++i) {
    const float v = std::bit_cast<float>(static_cast<uint32_t>(g()) & (i % 2 ? ~0u : 0xffffe000u | 1u << (i % 13)));
    const auto want = [&](Mode m, bool fix) {
      return std::isnan(v) ? 0x7fffffff : expected(f, all, v, m, fix, 0) << 13;
    };
    ASSERT_EQ(emu::encode_tf32(v), want(Mode::rn, false)) << v;
    ASSERT_EQ(emu::encode_tf32<emu::Round::rz>(v), want(Mode::rz, false)) << v;
    ASSERT_EQ((emu::encode_tf32<emu::Round::rna, true>(v)), want(Mode::rna, true)) << v;
  }
}

TEST(Formats, Ue8m0) {
  for (uint32_t v = 0; v < 255; ++v) {
    const double x = std::ldexp(1, static_cast<int>(v) - 127);
    ASSERT_EQ(static_cast<double>(emu::decode_ue8m0(v)), x);
    const float at = static_cast<float>(x), above = std::nextafter(at, HUGE_VALF);
    ASSERT_EQ(emu::encode_ue8m0<emu::Round::rz>(at), v);
    ASSERT_EQ(emu::encode_ue8m0<emu::Round::rp>(at), v);
    ASSERT_EQ(emu::encode_ue8m0<emu::Round::rz>(-above), v);
    ASSERT_EQ(emu::encode_ue8m0<emu::Round::rp>(above), v + 1);
    ASSERT_EQ((emu::encode_ue8m0<emu::Round::rp, true>(above)), v == 254 ? 254 : v + 1);
  }
  ASSERT_TRUE(std::isnan(emu::decode_ue8m0(255)));
  ASSERT_EQ(emu::encode_ue8m0<emu::Round::rz>(NAN), 255u);
}

TEST(Formats, Relu) {
  EXPECT_EQ(emu::relu(2.f), 2.f);
  EXPECT_EQ(std::bit_cast<uint32_t>(emu::relu(-0.f)), 0u);
  EXPECT_EQ(emu::relu(-INFINITY), 0.f);
  EXPECT_EQ(std::bit_cast<uint32_t>(emu::relu(-std::numeric_limits<float>::quiet_NaN())), 0x7fffffffu);
}

template <class V>
void sums(V far) {  // 1 + tie + far: what is far decides a tie of bf16's, though no V holds the sum
  for (const V sign : {V(1), V(-1)})
    for (const V tie : {V(0x1p-8), V(0x1.8p-7)}) {
      const V sum = emu::add_odd(sign * (1 + tie), sign * far),
              difference = emu::add_odd(sign * (1 + tie), -sign * far);
      EXPECT_GT(sign * sum, 1 + tie);
      EXPECT_LT(sign * difference, 1 + tie);
    }
  EXPECT_EQ(emu::add_odd(V(0.5), V(0.25)), V(0.75));
  EXPECT_EQ(emu::add_odd(V(INFINITY), V(1)), V(INFINITY));
  EXPECT_TRUE(std::isnan(emu::add_odd(V(INFINITY), V(-INFINITY))));
}
TEST(Formats, AddOdd) {
  sums<double>(0x1p-90);
  sums<float>(0x1p-60f);
}

}  // namespace
