#include "approximations.h"
#include "arithmetic.h"
#include "formats.h"

// f16 and bf16, alone and in pairs: computed in f32 or double such that rounding to the format is the only rounding.
namespace emu {
namespace {

enum class After : uint8_t { nothing, sat, relu };

template <class F, bool ftz>
float in(uint32_t v) {
  v &= 0xffff;
  const uint32_t exponent = 0x7fffu >> F::mantissa << F::mantissa;
  return decode<F>(ftz && (v & exponent) == 0 ? v & 0x8000 : v);
}
template <class F, bool ftz, After after, class V>
uint32_t out(V v) {
  if constexpr (after == After::sat) v = v > 0 ? (v < 1 ? v : 1) : 0;
  if constexpr (after == After::relu) v = relu(v);
  const uint32_t r = encode<F>(v);
  const uint32_t exponent = 0x7fffu >> F::mantissa << F::mantissa;
  return ftz && (r & exponent) == 0 ? r & 0x8000 : r;
}

// An f32 sum of two halves may be rounded again: 24 bits >= 2 · 11 + 2. A product is exact, but for what bf16's loses
// below half of its least value.
struct Add {
  template <class F>
  static float of(float a, float b) {
    return a + b;
  }
};
struct Sub {
  template <class F>
  static float of(float a, float b) {
    return a - b;
  }
};
struct Mul {
  template <class F>
  static float of(float a, float b) {
    return a * b;
  }
};
struct Fma {
  template <class F>
  static auto of(float a, float b, float c) {
    if constexpr (F::exponent == 5)
      return add_odd(a * b, c);
    else
      return add_odd(static_cast<double>(a) * b, static_cast<double>(c));
  }
};
struct Neg {
  template <class F>
  static float of(float a) {
    return -a;
  }
};
struct Abs {
  template <class F>
  static float of(float a) {
    return __builtin_fabsf(a);
  }
};
struct Exp2 {
  template <class F>
  static double of(float a) {
    return a != a ? static_cast<double>(a) : exp2_double(a);
  }
};
struct Tanh {
  template <class F>
  static double of(float a) {
    return a != a ? static_cast<double>(a) : tanh_double(a);
  }
};
template <bool max, bool nan, bool xorsign>
struct Extreme {
  template <class F>
  static float of(float a, float b) {
    const uint32_t flipped = (std::bit_cast<uint32_t>(a) ^ std::bit_cast<uint32_t>(b)) & 0x80000000;
    if constexpr (xorsign) a = __builtin_fabsf(a), b = __builtin_fabsf(b);
    const auto key = [](float v) {
      const int32_t bits = std::bit_cast<int32_t>(v);
      return bits ^ (bits >> 31 & 0x7fffffff);  // −0 before +0
    };
    const bool first = max ? key(a) > key(b) : key(a) < key(b), a_nan = a != a, b_nan = b != b;
    const uint32_t r = std::bit_cast<uint32_t>((first | b_nan) & !a_nan ? a : b) | (xorsign ? flipped : 0);
    return std::bit_cast<float>((nan ? a_nan | b_nan : a_nan & b_nan) ? kNan : r);
  }
};

template <class Op, class F>
constexpr int kArity = requires { Op::template of<F>(0.f, 0.f, 0.f); } ? 3
                       : requires { Op::template of<F>(0.f, 0.f); }    ? 2
                                                                       : 1;

template <class Op, class F, bool ftz, After after>
uint32_t one(uint32_t a, uint32_t b = 0, uint32_t c = 0) {
  if constexpr (kArity<Op, F> == 1) return out<F, ftz, after>(Op::template of<F>(in<F, ftz>(a)));
  if constexpr (kArity<Op, F> == 2) return out<F, ftz, after>(Op::template of<F>(in<F, ftz>(a), in<F, ftz>(b)));
  if constexpr (kArity<Op, F> == 3)
    return out<F, ftz, after>(Op::template of<F>(in<F, ftz>(a), in<F, ftz>(b), in<F, ftz>(c)));
}
template <class R, class Op, class F, bool ftz, After after>
R all(uint32_t a, uint32_t b = 0, uint32_t c = 0) {  // R: one register of them
  const uint32_t low = one<Op, F, ftz, after>(a, b, c);
  if constexpr (sizeof(R) == 2) return static_cast<R>(low);
  return one<Op, F, ftz, after>(a >> 16, b >> 16, c >> 16) << 16 | low;
}

struct Options {
  bool ftz = false, packed = false;
  After after = After::nothing;
};

template <class R, class Op, class F, bool ftz, After after>
void bind(Decoder& d, Inst& i) {
  if constexpr (kArity<Op, F> == 1)
    lanes<[](R a) { return all<R, Op, F, ftz, after>(a); }>(d, i);
  else if constexpr (kArity<Op, F> == 2)
    lanes<[](R a, R b) { return all<R, Op, F, ftz, after>(a, b); }>(d, i);
  else
    lanes<[](R a, R b, R c) { return all<R, Op, F, ftz, after>(a, b, c); }>(d, i);
}
template <class Op, class F, bool ftz, After after = After::nothing>
void bind(Decoder& d, Inst& i, bool packed) {
  packed ? bind<uint32_t, Op, F, ftz, after>(d, i) : bind<uint16_t, Op, F, ftz, after>(d, i);
}
/// f16: ftz, sat and (fma alone) relu; bf16: relu of fma.
template <class Op>
void arithmetic(Decoder& d, Inst& i, bool bf16, Options o) {
  constexpr bool fma = std::is_same_v<Op, Fma>;
  if (bf16) {
    if (o.ftz || o.after == After::sat) d.unknown("modifier");
    if constexpr (fma)
      if (o.after == After::relu) return bind<Op, Bf16, false, After::relu>(d, i, o.packed);
    return bind<Op, Bf16, false>(d, i, o.packed);
  }
  if constexpr (fma)
    if (o.after == After::relu)
      return o.ftz ? bind<Op, F16, true, After::relu>(d, i, o.packed)
                   : bind<Op, F16, false, After::relu>(d, i, o.packed);
  if (o.after == After::sat)
    return o.ftz ? bind<Op, F16, true, After::sat>(d, i, o.packed) : bind<Op, F16, false, After::sat>(d, i, o.packed);
  o.ftz ? bind<Op, F16, true>(d, i, o.packed) : bind<Op, F16, false>(d, i, o.packed);
}
/// No sat, no relu; ftz of bf16 only for ex2, which demands it.
template <class Op, bool bf16_ftz = false>
void unary_like(Decoder& d, Inst& i, bool bf16, Options o) {
  if (bf16) {
    if (o.ftz != bf16_ftz) d.unknown("modifier .ftz");
    return bind<Op, Bf16, bf16_ftz>(d, i, o.packed);
  }
  o.ftz ? bind<Op, F16, true>(d, i, o.packed) : bind<Op, F16, false>(d, i, o.packed);
}
template <bool max>
void extreme(Decoder& d, Inst& i, bool bf16, Options o, bool nan, bool xorsign) {
  if (nan && xorsign) return unary_like<Extreme<max, true, true>>(d, i, bf16, o);
  if (nan) return unary_like<Extreme<max, true, false>>(d, i, bf16, o);
  if (xorsign) return unary_like<Extreme<max, false, true>>(d, i, bf16, o);
  unary_like<Extreme<max, false, false>>(d, i, bf16, o);
}

}  // namespace

void decode_half(Decoder& d, Inst& i) {
  const std::string_view op = d.s.op;
  i.cls = Class::half;
  Mods m(d);
  const bool sums = op == "add" || op == "sub" || op == "mul", extremes = op == "min" || op == "max";
  const bool approx = op == "ex2" || op == "tanh";
  Options o;
  if (sums || op == "fma") {
    const bool rn = m.take("rn");
    if (!rn && op == "fma") d.unknown("rounding");
    if (m.take("sat")) o.after = After::sat;
    if (op == "fma" && m.take("relu")) {
      if (o.after == After::sat) d.unknown("modifier");
      o.after = After::relu;
    }
  }
  if (approx && !m.take("approx")) d.unknown("rounding");
  o.ftz = op != "tanh" && m.take("ftz");
  const bool nan = extremes && m.take("NaN"), xorsign = extremes && m.take("xorsign");
  if (xorsign && !m.take("abs")) d.unknown("modifier");
  const std::string_view type = m.type();
  m.done();
  const bool bf16 = type.substr(0, 4) == "bf16";
  o.packed = type.substr(type.size() - 2) == "x2";
  if (op == "add") return arithmetic<Add>(d, i, bf16, o);
  if (op == "sub") return arithmetic<Sub>(d, i, bf16, o);
  if (op == "mul") return arithmetic<Mul>(d, i, bf16, o);
  if (op == "fma") return arithmetic<Fma>(d, i, bf16, o);
  if (op == "neg") return unary_like<Neg>(d, i, bf16, o);
  if (op == "abs") return unary_like<Abs>(d, i, bf16, o);
  if (op == "min") return extreme<false>(d, i, bf16, o, nan, xorsign);
  if (op == "max") return extreme<true>(d, i, bf16, o, nan, xorsign);
  i.cls = Class::special;
  if (op == "ex2") return unary_like<Exp2, true>(d, i, bf16, o);
  if (op == "tanh") return unary_like<Tanh>(d, i, bf16, o);
  d.unknown();
}

}  // namespace emu
