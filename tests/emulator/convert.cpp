#include <cfenv>
#include <cmath>
#include <limits>

#include "arithmetic.h"
#include "formats.h"

// cvt. The packed forms and f32 to halves are functions of a lane; the scalar ones go through an array of double, or of
// int64_t between integers: a loader by source, a rounding to integers, a storer by destination. That keeps 12 × 12
// pairs of types, whose integer registers may be wider than the type, at 60 loops.
namespace emu {
namespace {

template <class V>
struct Plan {
  void (*load)(const std::byte* from, V* to);
  void (*round)(V*);
  void (*store)(const V*, std::byte* to, Mask, uint64_t nan);
  uint64_t nan;  // what an integer destination gets
};
template <class V>
Flow convert(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan<V>*>(i.extra);
  alignas(64) V values[kLanes];
  plan.load(w.at<std::byte>(i.slot[1]), values);
  if (plan.round) plan.round(values);
  plan.store(values, w.at<std::byte>(i.slot[0]), lanes, plan.nan);
  return Flow::next;
}

template <class Register, class F>
void load_each(const std::byte* from, auto* to, F f) {
  const auto* r = reinterpret_cast<const Register*>(from);
  for (int l = 0; l < kLanes; ++l) to[l] = f(r[l]);
}
template <class T, class Register, class V>
void load_integer(const std::byte* from, V* to) {
  load_each<Register>(from, to, [](Register r) { return static_cast<V>(static_cast<T>(r)); });
}
void load_clamped(const std::byte* from, int64_t* to) {  // u64 whose destination is smaller
  load_each<uint64_t>(from, to, [](uint64_t r) { return static_cast<int64_t>(std::min(r, ~uint64_t{0} >> 1)); });
}
template <class T>
void load_odd(const std::byte* from, double* to) {  // 64-bit integers, rounded to odd
  load_each<T>(from, to, [](T v) {
    const bool negative = v < 0;
    uint64_t u = negative ? 0 - static_cast<uint64_t>(v) : static_cast<uint64_t>(v);
    if (u >> 53) u = (u & ~uint64_t{0x7ff}) | ((u & 0x7ff) != 0 ? 0x800 : 0);  // 53 bits, the last one sticky
    return negative ? -static_cast<double>(u) : static_cast<double>(u);
  });
}
template <class F>
void load_half(const std::byte* from, double* to) {
  load_each<uint16_t>(from, to, [](uint16_t r) { return static_cast<double>(decode<F>(r)); });
}
template <bool ftz>
void load_f32(const std::byte* from, double* to) {
  load_each<float>(from, to, [](float r) { return static_cast<double>(ftz ? flush(r) : r); });
}
void load_f64(const std::byte* from, double* to) { std::memcpy(to, from, kLanes * sizeof(double)); }

template <double (*f)(double)>
void round_each(double* v) {
  for (int l = 0; l < kLanes; ++l) v[l] = f(v[l]);
}
double nearest_even(double v) { return std::nearbyint(v); }
double toward_zero(double v) { return std::trunc(v); }
double downward(double v) { return std::floor(v); }
double upward(double v) { return std::ceil(v); }

template <class Register, class V, class F>
void store_each(const V* from, std::byte* to, Mask lanes, F f) {
  alignas(64) Register out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = f(from[l]);
  put(reinterpret_cast<Register*>(to), out, lanes);
}
template <class T, class Register>
void store_rounded(const double* from, std::byte* to, Mask lanes, uint64_t nan) {
  constexpr double low = static_cast<double>(std::numeric_limits<T>::min());
  constexpr double beyond = static_cast<double>(std::numeric_limits<T>::max() / 2 + 1) * 2;
  store_each<Register>(from, to, lanes, [nan](double v) {
    T t = std::numeric_limits<T>::min();
    if (v >= beyond)
      t = std::numeric_limits<T>::max();
    else if (v > low)
      t = static_cast<T>(v);
    return static_cast<Register>(v != v ? static_cast<T>(nan) : t);
  });
}
template <class T, class Register, bool sat>
void store_integer(const int64_t* from, std::byte* to, Mask lanes, uint64_t) {
  store_each<Register>(from, to, lanes, [](int64_t v) {
    if constexpr (sat) {
      constexpr int64_t high =
          sizeof(T) == 8 ? std::numeric_limits<int64_t>::max() : static_cast<int64_t>(std::numeric_limits<T>::max());
      v = std::clamp(v, static_cast<int64_t>(std::numeric_limits<T>::min()), high);
    }
    return static_cast<Register>(static_cast<T>(v));
  });
}
using Single = Format<8, 23, true, 0x7f7fffff, kNan>;
template <bool sat>
double saturated(double v) {
  return !sat ? v : v > 0 ? (v < 1 ? v : 1) : 0;
}
template <Round R, bool ftz, bool sat>
void store_f32(const double* from, std::byte* to, Mask lanes, uint64_t) {
  store_each<float>(from, to, lanes, [](double v) {
    v = saturated<sat>(v);
    const float r = R == Round::rn ? canonical(static_cast<float>(v)) : std::bit_cast<float>(encode<Single, R>(v));
    return ftz ? flush(r) : r;
  });
}
template <class F, Round R, bool sat>
void store_half(const double* from, std::byte* to, Mask lanes, uint64_t) {
  store_each<uint16_t>(from, to, lanes,
                       [](double v) { return static_cast<uint16_t>(encode<F, R>(saturated<sat>(v))); });
}
template <bool sat>
void store_f64(const double* from, std::byte* to, Mask lanes, uint64_t) {
  store_each<double>(from, to, lanes, [](double v) { return saturated<sat>(v); });
}

/// 64-bit integers to f64 under imm[0], the host's rounding mode.
template <class T>
Flow widen(Warp& w, const Inst& i, Mask lanes) {
  double out[kLanes];
  const int before = std::fegetround();
  std::fesetround(static_cast<int>(i.imm[0]));
  for (int l = 0; l < kLanes; ++l) {
    T v = w.at<T>(i.slot[1])[l];
    asm volatile("" : "+m"(v));  // keeps the conversion between the changes of mode
    out[l] = static_cast<double>(v);
    asm volatile("" : "+m"(out[l]));
  }
  std::fesetround(before);
  put(w.at<double>(i.slot[0]), out, lanes);
  return Flow::next;
}

template <class F>
bool with_small_integer(std::string_view type, F&& f) {
  if (type == "u8") return f(uint8_t{}), true;
  if (type == "s8") return f(int8_t{}), true;
  return with_integer(type, std::forward<F>(f));
}
/// Calls f with the register's unsigned type, which may be wider than T.
template <class T, class F>
void with_register(Decoder& d, int bytes, F&& f) {
  if constexpr (sizeof(T) <= 2)
    if (bytes == 2) return f(uint16_t{});
  if constexpr (sizeof(T) <= 4)
    if (bytes == 4) return f(uint32_t{});
  if (bytes == 8) return f(uint64_t{});
  d.unknown("a register of " + std::to_string(bytes) + " bytes");
}
template <class F>
void with_round(int round, F&& f) {
  if (round == 1) return f(std::integral_constant<Round, Round::rz>{});
  if (round == 2) return f(std::integral_constant<Round, Round::rm>{});
  if (round == 3) return f(std::integral_constant<Round, Round::rp>{});
  f(std::integral_constant<Round, Round::rn>{});
}
template <class F>
void with_flag(bool flag, F&& f) {
  flag ? f(std::true_type{}) : f(std::false_type{});
}

bool is_integer(std::string_view type) { return type[0] == 'u' || type[0] == 's'; }
int type_bytes(std::string_view type) {
  const std::string_view digits = type.substr(type[0] == 'b' ? 2 : 1);
  return digits == "8" ? 1 : digits == "16" ? 2 : digits == "32" ? 4 : 8;
}
int exactness(std::string_view type) {  // a conversion to a type of a higher or equal rank keeps every value
  return type == "f64" ? 3 : type == "f32" ? 2 : 1;
}

struct Scalar {
  std::string_view to, from;
  int integral = -1;  // rni, rzi, rmi, rpi
  int round = -1;     // rn, rz, rm, rp
  bool ftz = false, sat = false;
};

void integer_to_integer(Decoder& d, Inst& i, const Scalar& c) {
  Plan<int64_t> plan{};
  if (c.integral >= 0 || c.round >= 0) d.unknown("rounding");
  int from_bytes = type_bytes(c.from);
  i.slot[1] = d.any_src(d.s.args[1], &from_bytes);
  with_small_integer(c.from, [&]<class T>(T) {
    with_register<T>(d, std::max(from_bytes, 2), [&]<class R>(R) { plan.load = load_integer<T, R, int64_t>; });
  });
  if (c.sat && c.from == "u64" && c.to != "u64") plan.load = load_clamped;
  const bool clamps = c.sat && !(c.from == "u64" && c.to == "u64");
  with_small_integer(c.to, [&]<class T>(T) {
    with_register<T>(d, d.reg_bytes(d.s.args[0]),
                     [&]<class R>(R) { plan.store = clamps ? store_integer<T, R, true> : store_integer<T, R, false>; });
  });
  i.extra = d.keep(plan);
  i.exec = convert<int64_t>;
}

void through_double(Decoder& d, Inst& i, const Scalar& c) {
  Plan<double> plan{};
  const bool from_integer = is_integer(c.from), to_integer = is_integer(c.to);
  const bool wide = c.from == "s64" || c.from == "u64";
  if (from_integer) {
    if (c.integral >= 0 || c.round < 0) d.unknown("rounding");
    if (wide && c.to == "f64") {
      if (c.sat || c.ftz) d.unknown("modifier");
      constexpr int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
      i.imm[0] = static_cast<uint64_t>(modes[c.round]);
      i.slot[1] = d.src(d.s.args[1], 8);
      i.exec = c.from == "s64" ? widen<int64_t> : widen<uint64_t>;
      return;
    }
    int bytes = type_bytes(c.from);
    i.slot[1] = d.any_src(d.s.args[1], &bytes);
    with_small_integer(c.from, [&]<class T>(T) {
      with_register<T>(d, std::max(bytes, 2), [&]<class R>(R) {
        if constexpr (sizeof(T) == 8)
          plan.load = load_odd<T>;
        else
          plan.load = load_integer<T, R, double>;
      });
    });
  } else {
    i.slot[1] = d.src(d.s.args[1], type_bytes(c.from));
    plan.load = c.from == "f16"    ? load_half<F16>
                : c.from == "bf16" ? load_half<Bf16>
                : c.from == "f64"  ? load_f64
                : c.ftz            ? load_f32<true>
                                   : load_f32<false>;
  }
  if (c.integral >= 0) {
    constexpr void (*rounds[])(double*) = {round_each<nearest_even>, round_each<toward_zero>, round_each<downward>,
                                           round_each<upward>};
    plan.round = rounds[c.integral];
  }
  if (to_integer) {
    if (c.integral < 0) d.unknown("rounding");
    const int bits = 8 * type_bytes(c.to);
    plan.nan = c.from == "f64" || bits == 64 ? uint64_t{1} << (bits - 1) : 0;
    with_small_integer(c.to, [&]<class T>(T) {
      with_register<T>(d, d.reg_bytes(d.s.args[0]), [&]<class R>(R) { plan.store = store_rounded<T, R>; });
    });
  } else {
    const bool halves = (c.to == "f16") != (c.from == "f16") && exactness(c.to) == exactness(c.from);
    if (!from_integer && c.round < 0 && c.integral < 0 && (exactness(c.to) < exactness(c.from) || halves))
      d.unknown("rounding");
    with_round(c.round, [&]<Round r>(std::integral_constant<Round, r>) {
      with_flag(c.sat, [&]<bool sat>(std::bool_constant<sat>) {
        if (c.to == "f32")
          plan.store = c.ftz ? store_f32<r, true, sat> : store_f32<r, false, sat>;
        else if (c.to == "f16")
          plan.store = store_half<F16, r, sat>;
        else if (c.to == "bf16")
          plan.store = store_half<Bf16, r, sat>;
        else
          plan.store = store_f64<sat>;
      });
    });
  }
  i.extra = d.keep(plan);
  i.exec = convert<double>;
}

template <class F, Round R, bool fix, bool positive>
uint32_t narrow(float v) {
  return encode<F, R, fix>(positive ? relu(v) : v);
}
/// f32 to a format, by rounding and saturation; f takes them as constants.
template <class F>
void with_narrowing(Decoder& d, int round, bool satfinite, bool positive, F&& f) {
  if (round != 0 && round != 1) d.unknown("rounding");
  with_round(round, [&]<Round r>(std::integral_constant<Round, r> rounding) {
    if constexpr (r == Round::rn || r == Round::rz)
      with_flag(satfinite, [&](auto fix) { with_flag(positive, [&](auto p) { f(rounding, fix, p); }); });
  });
}
template <class F>
void narrow_one(Decoder& d, Inst& i, int round, bool satfinite, bool positive) {
  with_narrowing(
      d, round, satfinite, positive,
      [&]<Round r, bool fix, bool p>(std::integral_constant<Round, r>, std::bool_constant<fix>, std::bool_constant<p>) {
        lanes<[](float a) { return static_cast<uint16_t>(narrow<F, r, fix, p>(a)); }>(d, i);
      });
}
template <class F>
void narrow_pair(Decoder& d, Inst& i, int round, bool satfinite, bool positive) {
  with_narrowing(
      d, round, satfinite, positive,
      [&]<Round r, bool fix, bool p>(std::integral_constant<Round, r>, std::bool_constant<fix>, std::bool_constant<p>) {
        lanes<[](float a, float b) { return narrow<F, r, fix, p>(a) << 16 | narrow<F, r, fix, p>(b); }>(d, i);
      });
}
template <class F>
void to_f8(Decoder& d, Inst& i, bool from_f32, bool positive) {
  with_flag(positive, [&]<bool p>(std::bool_constant<p>) {
    if (from_f32)
      lanes<[](float a, float b) {
        return static_cast<uint16_t>(narrow<F, Round::rn, true, p>(a) << 8 | narrow<F, Round::rn, true, p>(b));
      }>(d, i);
    else
      lanes<[](uint32_t a) {
        const float high = decode<F16>(a >> 16), low = decode<F16>(a & 0xffff);
        return static_cast<uint16_t>(narrow<F, Round::rn, true, p>(high) << 8 | narrow<F, Round::rn, true, p>(low));
      }>(d, i);
  });
}
template <class F>
void from_f8(Decoder& d, Inst& i, bool positive) {
  with_flag(positive, [&]<bool p>(std::bool_constant<p>) {
    lanes<[](uint16_t a) {
      return narrow<F16, Round::rn, false, p>(decode<F>(a >> 8)) << 16 |
             narrow<F16, Round::rn, false, p>(decode<F>(a & 255));
    }>(d, i);
  });
}
void to_tf32(Decoder& d, Inst& i, int round, bool satfinite, bool positive) {
  if (round == 4 && positive) d.unknown("modifier .relu");
  if (round == 4)
    return satfinite ? lanes<[](float a) { return encode_tf32<Round::rna, true>(a); }>(d, i)
                     : lanes<[](float a) { return encode_tf32<Round::rna>(a); }>(d, i);
  with_narrowing(
      d, round, satfinite, positive,
      [&]<Round r, bool fix, bool p>(std::integral_constant<Round, r>, std::bool_constant<fix>, std::bool_constant<p>) {
        lanes<[](float a) { return encode_tf32<r, fix>(p ? relu(a) : a); }>(d, i);
      });
}

// cvt.pack.sat: a and b clamped to `bits` each, b lowest; above them the lower bits of c.
template <int bits, bool is_signed>
uint32_t clamped(int32_t v) {
  constexpr int32_t low = is_signed ? -(1 << (bits - 1)) : 0, high = (1 << (bits - is_signed)) - 1;
  return static_cast<uint32_t>(std::clamp(v, low, high)) & ((1u << bits) - 1);
}
template <int bits, bool is_signed>
void pack(Decoder& d, Inst& i, bool more) {
  if constexpr (bits == 16) {
    if (more) d.unknown("operands");
    lanes<[](int32_t a, int32_t b) { return clamped<16, is_signed>(a) << 16 | clamped<16, is_signed>(b); }>(d, i);
  } else {
    if (!more) d.unknown("operands");
    lanes<[](int32_t a, int32_t b, uint32_t c) {
      return c << 2 * bits | clamped<bits, is_signed>(a) << bits | clamped<bits, is_signed>(b);
    }>(d, i);
  }
}
void decode_pack(Decoder& d, Inst& i, Mods& m) {
  if (!m.take("sat")) d.unknown("modifier");
  const std::string_view to = m.type(), from = m.type(), rest = m.type();
  m.done();
  if (from != "s32" || (!rest.empty() && rest != "b32")) d.unknown("type");
  const bool more = !rest.empty();
  if (to == "u16") return pack<16, false>(d, i, more);
  if (to == "s16") return pack<16, true>(d, i, more);
  if (to == "u8") return pack<8, false>(d, i, more);
  if (to == "s8") return pack<8, true>(d, i, more);
  if (to == "u4") return pack<4, false>(d, i, more);
  if (to == "s4") return pack<4, true>(d, i, more);
  if (to == "u2") return pack<2, false>(d, i, more);
  if (to == "s2") return pack<2, true>(d, i, more);
  d.unknown("type");
}

void decode_cvt(Decoder& d, Inst& i) {
  i.cls = Class::convert;
  Mods m(d);
  if (m.take("pack")) return decode_pack(d, i, m);
  Scalar c;
  c.integral = m.pick({"rni", "rzi", "rmi", "rpi"});
  c.round = m.pick({"rn", "rz", "rm", "rp", "rna"});
  c.ftz = m.take("ftz"), c.sat = m.take("sat");
  const bool satfinite = m.take("satfinite"), positive = m.take("relu");
  c.to = m.type(), c.from = m.type();
  m.done();
  const std::string_view to = c.to, from = c.from;
  const auto plain = [](std::string_view t) {
    return (is_integer(t) && t.size() <= 3) || t == "f16" || t == "bf16" || t == "f32" || t == "f64";
  };
  if (to.empty() || from.empty()) d.unknown("type");
  const bool packed = !c.ftz && !c.sat && c.integral < 0;
  if (packed && from == "f32" && to == "f16x2") return narrow_pair<F16>(d, i, c.round, satfinite, positive);
  if (packed && from == "f32" && to == "bf16x2") return narrow_pair<Bf16>(d, i, c.round, satfinite, positive);
  if (packed && from == "f32" && to == "tf32") return to_tf32(d, i, c.round, satfinite, positive);
  if (packed && c.round == 0 && satfinite && (from == "f32" || from == "f16x2")) {
    if (to == "e4m3x2") return to_f8<E4m3>(d, i, from == "f32", positive);
    if (to == "e5m2x2") return to_f8<E5m2>(d, i, from == "f32", positive);
  }
  if (packed && c.round == 0 && !satfinite && to == "f16x2") {
    if (from == "e4m3x2") return from_f8<E4m3>(d, i, positive);
    if (from == "e5m2x2") return from_f8<E5m2>(d, i, positive);
  }
  if (packed && from == "f32" && (c.round == 0 || c.round == 1)) {
    if (to == "f16") return narrow_one<F16>(d, i, c.round, satfinite, positive);
    if (to == "bf16") return narrow_one<Bf16>(d, i, c.round, satfinite, positive);
  }
  if (satfinite || positive || c.round == 4 || !plain(to) || !plain(from)) d.unknown("modifier or type");
  if (c.ftz && to != "f32" && from != "f32") d.unknown("modifier .ftz");
  if (d.s.args.size() != 2) d.unknown("operands");
  if (is_integer(to) && is_integer(from)) {
    integer_to_integer(d, i, c);
  } else {
    through_double(d, i, c);
  }
  i.slot[0] = d.dst(d.s.args[0], is_integer(to) ? -1 : type_bytes(to));
  if (i.slot[0] == kNoPlace) d.unknown("no destination");
}

}  // namespace

const Family kConvert[] = {{"cvt", decode_cvt}, {nullptr, nullptr}};

}  // namespace emu
