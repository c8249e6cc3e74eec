#include <cfenv>
#include <cmath>

#include "approximations.h"
#include "arithmetic.h"

// f32 and f64. An f32 NaN is always kNan; f64 keeps payloads as the host does, which PTX leaves open.
namespace emu {
namespace {

template <bool ftz, class T>
T in(T v) {
  if constexpr (ftz) return flush(v);
  return v;
}
template <bool ftz, bool sat>
float out(float v) {
  if constexpr (ftz) v = flush(v);
  if constexpr (sat) return v > 0 ? (v < 1 ? v : 1) : 0;  // a NaN gives +0
  return canonical(v);
}
template <bool ftz, bool sat>
double out(double v) {
  if constexpr (sat) return v > 0 ? (v < 1 ? v : 1) : 0;
  return v;
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return a - b;
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    return a / b;
  }
};
struct Fma {
  float operator()(float a, float b, float c) const { return __builtin_fmaf(a, b, c); }
  double operator()(double a, double b, double c) const { return __builtin_fma(a, b, c); }
};
struct Rcp {
  template <class T>
  T operator()(T a) const {
    return 1 / a;
  }
};
struct Sqrt {
  float operator()(float a) const { return __builtin_sqrtf(a); }
  double operator()(double a) const { return __builtin_sqrt(a); }
};

template <class Op, class T>
constexpr int kArity = std::is_invocable_v<Op, T, T, T> ? 3
                       : std::is_invocable_v<Op, T, T>  ? 2
                                                        : 1;

template <class T>
T opaque(T v) {  // keeps an operation between two changes of the rounding mode
  asm volatile("" : "+m"(v));
  return v;
}
template <class Op, class T, bool ftz, bool sat>
Flow directed(Warp& w, const Inst& i, Mask lanes) {  // imm[0]: the rounding mode
  constexpr int n = kArity<Op, T>;
  const T* a = w.at<T>(i.slot[1]);
  const T* b = n > 1 ? w.at<T>(i.slot[2]) : a;
  const T* c = n > 2 ? w.at<T>(i.slot[3]) : a;
  T result[kLanes];
  const int before = std::fegetround();
  std::fesetround(static_cast<int>(i.imm[0]));
  for (int l = 0; l < kLanes; ++l) {
    const T x = opaque(in<ftz>(a[l])), y = opaque(in<ftz>(b[l])), z = opaque(in<ftz>(c[l]));
    T r;
    if constexpr (n == 1) r = Op{}(x);
    if constexpr (n == 2) r = Op{}(x, y);
    if constexpr (n == 3) r = Op{}(x, y, z);
    result[l] = out<ftz, sat>(opaque(r));
  }
  std::fesetround(before);
  put(w.at<T>(i.slot[0]), result, lanes);
  return Flow::next;
}

template <class Op, class T, bool ftz, bool sat>
void bind(Decoder& d, Inst& i, int round) {
  constexpr int n = kArity<Op, T>;
  if constexpr (n == 1)
    lanes<[](T a) { return out<ftz, sat>(Op{}(in<ftz>(a))); }>(d, i);
  else if constexpr (n == 2)
    lanes<[](T a, T b) { return out<ftz, sat>(Op{}(in<ftz>(a), in<ftz>(b))); }>(d, i);
  else
    lanes<[](T a, T b, T c) { return out<ftz, sat>(Op{}(in<ftz>(a), in<ftz>(b), in<ftz>(c))); }>(d, i);
  if (round > 0) {
    constexpr int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    i.imm[0] = static_cast<uint64_t>(modes[round]);
    i.exec = directed<Op, T, ftz, sat>;
  }
}
template <class Op>
void rounded(Decoder& d, Inst& i, Mods& m, int round, bool can_saturate) {
  const bool ftz = m.take("ftz"), sat = can_saturate && m.take("sat");
  const std::string_view type = m.type();
  m.done();
  if (type == "f32") {
    if (ftz)
      sat ? bind<Op, float, true, true>(d, i, round) : bind<Op, float, true, false>(d, i, round);
    else
      sat ? bind<Op, float, false, true>(d, i, round) : bind<Op, float, false, false>(d, i, round);
  } else if (type == "f64" && !ftz && !sat) {
    bind<Op, double, false, false>(d, i, round);
  } else {
    d.unknown("type");
  }
}

// Order of the numbers, −0 before +0.
int32_t key(float v) {
  const int32_t bits = std::bit_cast<int32_t>(v);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
int64_t key(double v) {
  const int64_t bits = std::bit_cast<int64_t>(v);
  return bits ^ (bits >> 63 & 0x7fffffffffffffff);
}
template <class T, bool max, bool nan, bool xorsign>
T extreme(T a, T b) {
  using I = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr I sign = I{1} << (8 * sizeof(T) - 1);
  const I flipped = (std::bit_cast<I>(a) ^ std::bit_cast<I>(b)) & sign;
  if constexpr (xorsign) {
    a = std::bit_cast<T>(std::bit_cast<I>(a) & ~sign);
    b = std::bit_cast<T>(std::bit_cast<I>(b) & ~sign);
  }
  const bool first = max ? key(a) > key(b) : key(a) < key(b);
  const bool a_nan = a != a, b_nan = b != b;
  I r = std::bit_cast<I>((first | b_nan) & !a_nan ? a : b);
  if constexpr (xorsign) r |= flipped;
  return std::bit_cast<T>((nan ? a_nan | b_nan : a_nan & b_nan) ? static_cast<I>(~sign) : r);
}
template <bool max>
void decode_extreme(Decoder& d, Inst& i, Mods& m) {
  const bool ftz = m.take("ftz"), nan = m.take("NaN"), xorsign = m.take("xorsign");
  if (xorsign != m.take("abs")) d.unknown("modifier");
  const std::string_view type = m.type();
  m.done();
  if (type == "f64" && !ftz && !nan && !xorsign)
    return lanes<[](double a, double b) { return extreme<double, max, false, false>(a, b); }>(d, i);
  if (type != "f32") d.unknown("type");
  // flushing NaNs and what needs none changes nothing, so that ftz alone doubles the variants
  const auto bind = [&]<bool z>(std::bool_constant<z>) {
    if (nan && xorsign)
      lanes<[](float a, float b) { return extreme<float, max, true, true>(in<z>(a), in<z>(b)); }>(d, i);
    else if (nan)
      lanes<[](float a, float b) { return extreme<float, max, true, false>(in<z>(a), in<z>(b)); }>(d, i);
    else if (xorsign)
      lanes<[](float a, float b) { return extreme<float, max, false, true>(in<z>(a), in<z>(b)); }>(d, i);
    else
      lanes<[](float a, float b) { return extreme<float, max, false, false>(in<z>(a), in<z>(b)); }>(d, i);
  };
  ftz ? bind(std::true_type{}) : bind(std::false_type{});
}

void decode_sign(Decoder& d, Inst& i, Mods& m) {  // abs, neg, copysign
  const std::string_view op = d.s.op;
  const bool ftz = op != "copysign" && m.take("ftz");
  const std::string_view type = m.type();
  m.done();
  if (type == "f64" && !ftz) {
    constexpr uint64_t sign = uint64_t{1} << 63;
    if (op == "abs") return lanes<[](uint64_t a) { return a & ~sign; }>(d, i);
    if (op == "neg") return lanes<[](uint64_t a) { return a ^ sign; }>(d, i);
    return lanes<[](uint64_t a, uint64_t b) { return (a & sign) | (b & ~sign); }>(d, i);
  }
  if (type != "f32") d.unknown("type");
  if (op == "copysign")
    lanes<[](uint32_t a, uint32_t b) { return (a & 0x80000000) | (b & 0x7fffffff); }>(d, i);
  else if (op == "abs" && ftz)
    lanes<[](float a) { return canonical(__builtin_fabsf(flush(a))); }>(d, i);
  else if (op == "abs")
    lanes<[](float a) { return canonical(__builtin_fabsf(a)); }>(d, i);
  else if (ftz)
    lanes<[](float a) { return canonical(-flush(a)); }>(d, i);
  else
    lanes<[](float a) { return canonical(-a); }>(d, i);
}

template <class T, int mantissa>
void test(Decoder& d, Inst& i, int property) {  // T: the type's bits
  constexpr T magnitude = static_cast<T>(~T{0}) >> 1, infinity = magnitude >> mantissa << mantissa;
  switch (property) {
    case 0:
      return lanes<[](T a) { return Bit{(a & magnitude) < infinity}; }>(d, i);
    case 1:
      return lanes<[](T a) { return Bit{(a & magnitude) == infinity}; }>(d, i);
    case 2:
      return lanes<[](T a) { return Bit{(a & magnitude) <= infinity}; }>(d, i);
    case 3:
      return lanes<[](T a) { return Bit{infinity < (a & magnitude)}; }>(d, i);
    case 4:  // zero counts as normal
      return lanes<[](T a) {
        const T x = a & magnitude;
        return Bit{x == 0 || (x >= T{1} << mantissa && x < infinity)};
      }>(d, i);
    default:
      return lanes<[](T a) {
        const T x = a & magnitude;
        return Bit{x != 0 && x < T{1} << mantissa};
      }>(d, i);
  }
}

float approximate_quotient(float a, float b) {
  // a · (1 / b), where the reciprocal of what exceeds 2^126 is 0
  const bool large = std::bit_cast<float>(std::bit_cast<uint32_t>(b) & 0x7fffffff) > 0x1p126f;
  const float near = static_cast<float>(static_cast<double>(a) / b);
  return large ? a * (1 / std::bit_cast<float>((std::bit_cast<uint32_t>(b) & 0x80000000) | 0x7f800000)) : near;
}

float exp2_approx(float a) {
  const float r = static_cast<float>(exp2_double(a));
  return a != a ? a : r;
}
float log2_approx(float a) {
  const float r = static_cast<float>(log2_double(a));
  const float edge = a == 0 ? -__builtin_inff() : a < 0 ? __builtin_nanf("") : a;  // +inf and NaN: a
  return a > 0 && a < __builtin_inff() ? r : edge;
}
float tanh_approx(float a) {  // hardware: a relative error of 2^-11
  const float r = static_cast<float>(tanh_double(a));
  const uint32_t bits = std::bit_cast<uint32_t>(r), rounded = (bits + 0x7ff + (bits >> 12 & 1)) & ~0xfffu;
  return a != a ? a : std::bit_cast<float>((bits & 0x7fffffff) < 0x800000 ? bits : rounded);
}
float rsqrt_approx(float a) {
  const float r = static_cast<float>(1 / __builtin_sqrt(a));
  return r;
}

template <auto f, bool saturating = false>
void special(Decoder& d, Inst& i, bool ftz) {
  i.cls = Class::special;
  if (ftz)
    lanes<[](float a) { return out<true, false>(f(flush(a))); }>(d, i);
  else
    lanes<[](float a) { return out<false, false>(f(a)); }>(d, i);
}

// rcp.approx.ftz.f64 and rsqrt's: of the upper 32 bits, giving upper 32 bits.
template <auto f>
uint64_t upper(uint64_t bits) {
  constexpr uint64_t exponent = 0x7ff0000000000000;
  bits &= 0xffffffff00000000;
  if ((bits & exponent) == 0) bits &= uint64_t{1} << 63;
  uint64_t r = std::bit_cast<uint64_t>(f(std::bit_cast<double>(bits)));
  if ((r & ~(uint64_t{1} << 63)) > exponent) return 0x7fffffff00000000;
  if ((r & exponent) == 0) return r & uint64_t{1} << 63;
  return (r + 0x7fffffff + (r >> 32 & 1)) & 0xffffffff00000000;
}

}  // namespace

void decode_special(Decoder& d, Inst& i) {
  const std::string_view op = d.s.op;
  Mods m(d);
  i.cls = Class::floating;
  if (op == "rcp" || op == "sqrt") {
    const int round = m.pick({"rn", "rz", "rm", "rp"});
    if (round >= 0) return op == "rcp" ? rounded<Rcp>(d, i, m, round, false) : rounded<Sqrt>(d, i, m, round, false);
  }
  if (!m.take("approx")) d.unknown("rounding");
  const bool ftz = m.take("ftz");
  const std::string_view type = m.type();
  m.done();
  if (type == "f64" && op == "rcp" && ftz) {
    i.cls = Class::special;
    return lanes<[](uint64_t a) { return upper<[](double v) { return 1 / v; }>(a); }>(d, i);
  }
  if (type == "f64" && op == "rsqrt") {
    i.cls = Class::special;
    if (ftz) return lanes<[](uint64_t a) { return upper<[](double v) { return 1 / __builtin_sqrt(v); }>(a); }>(d, i);
    return lanes<[](double a) { return 1 / __builtin_sqrt(a); }>(d, i);
  }
  if (type != "f32") d.unknown("type");
  if (op == "rcp") return special<[](float a) { return 1 / a; }>(d, i, ftz);
  if (op == "sqrt") return special<[](float a) { return __builtin_sqrtf(a); }>(d, i, ftz);
  if (op == "rsqrt") return special<rsqrt_approx>(d, i, ftz);
  if (op == "ex2") return special<exp2_approx>(d, i, ftz);
  if (op == "lg2") return special<log2_approx>(d, i, ftz);
  if (op == "sin") return special<[](float a) { return static_cast<float>(std::sin(double{a})); }>(d, i, ftz);
  if (op == "cos") return special<[](float a) { return static_cast<float>(std::cos(double{a})); }>(d, i, ftz);
  if (op == "tanh" && !ftz) return special<tanh_approx>(d, i, false);
  d.unknown("modifier");
}

void decode_floating(Decoder& d, Inst& i) {
  const std::string_view op = d.s.op;
  Mods m(d);
  i.cls = Class::floating;
  if (op == "min") return decode_extreme<false>(d, i, m);
  if (op == "max") return decode_extreme<true>(d, i, m);
  if (op == "abs" || op == "neg" || op == "copysign") return decode_sign(d, i, m);
  if (op == "testp") {
    const int property = m.pick({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
    const std::string_view type = m.type();
    m.done();
    if (property < 0 || (type != "f32" && type != "f64")) d.unknown("property or type");
    return type == "f32" ? test<uint32_t, 23>(d, i, property) : test<uint64_t, 52>(d, i, property);
  }
  const int round = m.pick({"rn", "rz", "rm", "rp"});
  if (op == "add") return rounded<Add>(d, i, m, round, true);
  if (op == "sub") return rounded<Sub>(d, i, m, round, true);
  if (op == "mul") return rounded<Mul>(d, i, m, round, true);
  if (op == "div" && round < 0) {
    const bool approx = m.take("approx");
    if (!approx && !m.take("full")) d.unknown("rounding");
    const bool ftz = m.take("ftz");
    if (m.type() != "f32") d.unknown("type");
    m.done();
    if (approx && ftz)
      return lanes<[](float a, float b) { return out<true, false>(approximate_quotient(flush(a), flush(b))); }>(d, i);
    if (approx) return lanes<[](float a, float b) { return canonical(approximate_quotient(a, b)); }>(d, i);
    return ftz ? bind<Div, float, true, false>(d, i, 0) : bind<Div, float, false, false>(d, i, 0);
  }
  if (round < 0) d.unknown("rounding");
  if (op == "div") return rounded<Div>(d, i, m, round, false);
  if (op == "fma" || op == "mad") return rounded<Fma>(d, i, m, round, true);
  d.unknown();
}

}  // namespace emu
