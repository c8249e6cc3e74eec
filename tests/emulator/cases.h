#pragma once
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <tuple>

#include "test.h"

// One instruction a test: CASE2(name, "add.s32 %0, %1, %2;", S, S, S, want) makes a kernel of the text, runs it over
// edge values and random ones, and compares with the expression `want` of a, b (and c), plain C++. Types: H, SH 16
// bits; U, S 32; L, SL 64; F, D floating.
#define T_H uint16_t
#define T_SH int16_t
#define T_U uint32_t
#define T_S int32_t
#define T_L uint64_t
#define T_SL int64_t
#define T_F float
#define T_D double
#define C_H "h"
#define C_SH "h"
#define C_U "r"
#define C_S "r"
#define C_L "l"
#define C_SL "l"
#define C_F "f"
#define C_D "d"

#define CASE1(name, text, R, A, ...)                                                        \
  struct name {                                                                             \
    using Result = T_##R;                                                                   \
    using Values = std::tuple<T_##A>;                                                       \
    static __device__ T_##R run(T_##A a) {                                                  \
      T_##R r;                                                                              \
      asm volatile(text : "=" C_##R(r) : C_##A(a));                                         \
      return r;                                                                             \
    }                                                                                       \
    static T_##R want([[maybe_unused]] T_##A a) { return static_cast<T_##R>(__VA_ARGS__); } \
  };                                                                                        \
  TEST(SUITE, name) { test::check<name>(); }
#define CASE2(name, text, R, A, B, ...)                                                                               \
  struct name {                                                                                                       \
    using Result = T_##R;                                                                                             \
    using Values = std::tuple<T_##A, T_##B>;                                                                          \
    static __device__ T_##R run(T_##A a, T_##B b) {                                                                   \
      T_##R r;                                                                                                        \
      asm volatile(text : "=" C_##R(r) : C_##A(a), C_##B(b));                                                         \
      return r;                                                                                                       \
    }                                                                                                                 \
    static T_##R want([[maybe_unused]] T_##A a, [[maybe_unused]] T_##B b) { return static_cast<T_##R>(__VA_ARGS__); } \
  };                                                                                                                  \
  TEST(SUITE, name) { test::check<name>(); }
#define CASE3(name, text, R, A, B, C, ...)                                                            \
  struct name {                                                                                       \
    using Result = T_##R;                                                                             \
    using Values = std::tuple<T_##A, T_##B, T_##C>;                                                   \
    static __device__ T_##R run(T_##A a, T_##B b, T_##C c) {                                          \
      T_##R r;                                                                                        \
      asm volatile(text : "=" C_##R(r) : C_##A(a), C_##B(b), C_##C(c));                               \
      return r;                                                                                       \
    }                                                                                                 \
    static T_##R want([[maybe_unused]] T_##A a, [[maybe_unused]] T_##B b, [[maybe_unused]] T_##C c) { \
      return static_cast<T_##R>(__VA_ARGS__);                                                         \
    }                                                                                                 \
  };                                                                                                  \
  TEST(SUITE, name) { test::check<name>(); }
/// Approximations: `want` is a double; |result − want| <= absolute or relative · |want|, and NaN and infinity as
/// wanted.
#define APPROX1(name, text, R, A, relative, absolute, ...)                                    \
  struct name {                                                                               \
    using Result = T_##R;                                                                     \
    using Values = std::tuple<T_##A>;                                                         \
    static __device__ T_##R run(T_##A a) {                                                    \
      T_##R r;                                                                                \
      asm volatile(text : "=" C_##R(r) : C_##A(a));                                           \
      return r;                                                                               \
    }                                                                                         \
    static double want([[maybe_unused]] T_##A a) { return static_cast<double>(__VA_ARGS__); } \
  };                                                                                          \
  TEST(SUITE, name) { test::check<name>(relative, absolute); }

namespace test {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

// Halves by their definition.
inline double f16(uint32_t h) {
  const int e = h >> 10 & 31, m = h & 1023;
  const double v = e == 31 ? (m ? NAN : INFINITY) : e == 0 ? std::ldexp(m, -24) : std::ldexp(m + 1024, e - 25);
  return h >> 15 & 1 ? -v : v;
}
inline float bf16(uint32_t h) { return std::bit_cast<float>(h << 16); }
enum class Mode { nearest, zero, down, up };
/// exact + rest, where the rest is too small to count unless `exact` is a tie, in a format with infinity.
inline uint32_t rounded(int exponent, int mantissa, long double exact, long double rest = 0,
                        Mode mode = Mode::nearest) {
  const int bias = (1 << (exponent - 1)) - 1;
  const uint32_t infinity = ((1u << exponent) - 1) << mantissa,
                 sign = std::signbit(exact) ? 1u << (exponent + mantissa) : 0;
  if (std::isnan(exact)) return (1u << (exponent + mantissa)) - 1;
  if (exact == 0) return sign;
  if (std::isinf(exact)) return sign | infinity;
  const int e = std::max(std::ilogb(exact), 1 - bias);
  const long double x = std::ldexp(exact, mantissa - e), low = std::floor(x);
  long double q = mode == Mode::zero   ? std::trunc(x)
                  : mode == Mode::down ? low
                  : mode == Mode::up   ? std::ceil(x)
                                       : std::nearbyint(x);
  if (mode == Mode::nearest && x - low == 0.5L && rest != 0) q = rest > 0 ? low + 1 : low;
  const long double r = std::abs(std::ldexp(q, e - mantissa)), max = std::ldexp((2 << mantissa) - 1, bias - mantissa);
  if (r > max)
    return sign | (mode == Mode::nearest || mode == (sign ? Mode::down : Mode::up) ? infinity : infinity - 1);
  if (r < std::ldexp(1.0L, 1 - bias)) return sign | static_cast<uint32_t>(std::ldexp(r, bias - 1 + mantissa));
  const int f = std::ilogb(r);
  return sign | static_cast<uint32_t>(f + bias) << mantissa |
         (static_cast<uint32_t>(std::ldexp(r, mantissa - f)) & ((1u << mantissa) - 1));
}
inline uint32_t to_f16(long double v, Mode m = Mode::nearest) { return rounded(5, 10, v, 0, m); }
inline uint32_t to_bf16(long double v, Mode m = Mode::nearest) { return rounded(8, 7, v, 0, m); }

template <class T>
std::vector<T> edges() {
  std::vector<T> out;
  if constexpr (std::is_floating_point_v<T>) {
    using L = std::numeric_limits<T>;
    for (const T v : {T(0), T(0.5), T(1), T(1.5), T(2.5), T(3), T(65519), T(16777217), T(2147483648.0), L::denorm_min(),
                      L::min() - L::denorm_min(), L::min(), L::max(), L::infinity(), T(127.5), T(1.1754943e-38 / 3)})
      out.push_back(v), out.push_back(-v);
    out.push_back(L::quiet_NaN());
    out.push_back(std::bit_cast<T>(static_cast<Bits<T>>(std::bit_cast<Bits<T>>(-L::infinity()) + 5)));
  } else if constexpr (sizeof(T) == 2) {  // also what is special to f16 and bf16
    for (const int v : {0x0000, 0x0001, 0x0002, 0x0010, 0x001f, 0x0020, 0x00ff, 0x03ff, 0x0400, 0x3555, 0x3800, 0x3c00,
                        0x3c01, 0x3f80, 0x3f81, 0x007f, 0x0080, 0x7bff, 0x7c00, 0x7c01, 0x7e00, 0x7f7f, 0x7f80, 0x7fff})
      out.push_back(static_cast<T>(v)), out.push_back(static_cast<T>(v | 0x8000));
  } else {
    using U = Bits<T>;
    for (const uint64_t v :
         {0ull, 1ull, 2ull, 3ull, 7ull, 24ull, 31ull, 32ull, 33ull, 0x7full, 0x80ull, 0xffull, 0x8000ull, 0xffffull,
          0x10000ull, 0x800000ull, 0x3c00bc01ull, 0x7fff8000ull, 0xaaaaaaaaull})
      out.push_back(static_cast<T>(static_cast<U>(v))), out.push_back(static_cast<T>(static_cast<U>(0 - v)));
    out.push_back(std::numeric_limits<T>::max());
    out.push_back(std::numeric_limits<T>::min());
    if constexpr (sizeof(T) == 8)
      for (const uint64_t v :
           {63ull, 64ull, 65ull, 1ull << 53, (1ull << 53) + 1, (1ull << 62) + 1, 0xffffffff80000000ull})
        out.push_back(static_cast<T>(v));
  }
  return out;
}

template <class T>
T random(std::mt19937_64& g) {
  const uint64_t r = g();
  if constexpr (std::is_floating_point_v<T>) {
    if (r % 3 != 0)
      return static_cast<T>(
          std::ldexp(static_cast<double>(static_cast<int64_t>(g())), static_cast<int>(r / 3 % 24) - 74));
  } else if (r % 4 == 0) {
    return static_cast<T>(g() >> (64 - 8 * sizeof(T)) >> (r / 4 % (8 * sizeof(T))));  // small ones
  }
  return std::bit_cast<T>(static_cast<Bits<T>>(g()));
}

template <class T>
bool is_nan(T v) {
  if constexpr (std::is_floating_point_v<T>) return v != v;
  return false;
}
template <class T>
Bits<T> bits(T v) {
  if constexpr (sizeof(T) == 4)
    if (is_nan(v)) return 0x7fffffff;  // what every f32 instruction makes of a NaN
  return std::bit_cast<Bits<T>>(v);
}

template <class Op, class R, class... A>
__global__ void apply(R* out, size_t n, const A*... in) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) out[i] = Op::run(in[i]...);
}

/// relative < 0: exact, bit for bit; an f64 NaN equals every other.
template <class Op>
void check(double relative = -1, double absolute = 0) {
  using R = typename Op::Result;
  [&]<class... A, size_t... k>(std::tuple<A...>*, std::index_sequence<k...>) {
    std::tuple<std::vector<A>...> in;
    const std::tuple<std::vector<A>...> edge{edges<A>()...};
    size_t product = 1;
    ((product *= std::get<k>(edge).size()), ...);
    const size_t step = product / 40000 + 1;  // three operands: a part of the combinations
    for (size_t i = 0; i < product; i += step) {
      size_t rest = i;
      ((std::get<k>(in).push_back(std::get<k>(edge)[rest % std::get<k>(edge).size()]),
        rest /= std::get<k>(edge).size()),
       ...);
    }
    std::mt19937_64 g(7);
    for (int i = 0; i < 4096; ++i) (std::get<k>(in).push_back(random<A>(g)), ...);
    const size_t n = std::get<0>(in).size();
    Buffer<R> out(n);
    const std::tuple<Buffer<A>...> device(std::get<k>(in)...);
    apply<Op, R, A...><<<static_cast<unsigned>((n + 127) / 128), 128>>>(out.data(), n, std::get<k>(device).data()...);
    ASSERT_TRUE(ok());
    const std::vector<R> got = out.read();
    int wrong = 0;
    for (size_t i = 0; i < n; ++i) {
      const auto want = Op::want(std::get<k>(in)[i]...);
      bool right;
      if (relative < 0) {
        right = std::is_same_v<R, double> && is_nan(want)
                    ? is_nan(got[i])
                    : std::bit_cast<Bits<R>>(got[i]) == static_cast<Bits<R>>(bits(static_cast<R>(want)));
      } else {
        const double w = static_cast<double>(want), v = static_cast<double>(got[i]);
        right = std::isnan(w) ? std::isnan(v)
                              : v == w || std::abs(v - w) <= std::max(absolute, relative * std::abs(w)) ||
                                    (std::isinf(v) && std::abs(w) > 3.402823e38 && (v > 0) == (w > 0));
      }
      if (right || ++wrong > 3) continue;
      std::string operands;
      ((operands += " " + std::to_string(std::get<k>(in)[i]) + " (0x" +
                    [](uint64_t b) {
                      char text[20];
                      std::snprintf(text, sizeof(text), "%llx", static_cast<unsigned long long>(b));
                      return std::string(text);
                    }(std::bit_cast<Bits<A>>(std::get<k>(in)[i])) +
                    ")"),
       ...);
      ADD_FAILURE() << "of" << operands << ": got " << got[i] << " (0x" << std::hex << std::bit_cast<Bits<R>>(got[i])
                    << "), want " << want;
    }
    EXPECT_EQ(wrong, 0) << "of " << n;
  }(static_cast<typename Op::Values*>(nullptr), std::make_index_sequence<std::tuple_size_v<typename Op::Values>>{});
}

}  // namespace test
