#include <limits>

#include "arithmetic.h"

namespace emu {
namespace {

template <class T>
using Wide =
    std::conditional_t<sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                          std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>>;

template <class T>
T high(T a, T b) {
  return static_cast<T>((Wide<T>{a} * Wide<T>{b}) >> (8 * sizeof(T)));
}
template <class T>
T low(T a, T b) {
  return static_cast<T>(Word<T>(a) * Word<T>(b));
}
template <class T>
T sum(T a, T b) {
  return static_cast<T>(Word<T>(a) + Word<T>(b));
}
int32_t saturated(int64_t v) {
  return static_cast<int32_t>(
      std::clamp<int64_t>(v, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()));
}
/// f on each half of packed 16-bit values.
template <class T, class F>
uint32_t halves(uint32_t a, uint32_t b, F f) {
  const T high = static_cast<T>(f(static_cast<T>(a >> 16), static_cast<T>(b >> 16)));
  const T low = static_cast<T>(f(static_cast<T>(a), static_cast<T>(b)));
  return static_cast<uint32_t>(static_cast<uint16_t>(high)) << 16 | static_cast<uint16_t>(low);
}
template <class T>
T minimum(T a, T b) {
  return a < b ? a : b;
}
template <class T>
T maximum(T a, T b) {
  return a > b ? a : b;
}

// By zero: all ones, as the hardware's sequence leaves it. The least value by −1 wraps.
template <class T>
T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(~Word<T>{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(Word<T>{0} - Word<T>(a));
  return static_cast<T>(a / b);
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return static_cast<T>(~Word<T>{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <class T>
int32_t low24(T a) {
  return std::is_signed_v<T> ? static_cast<int32_t>(static_cast<uint32_t>(a) << 8) >> 8
                             : static_cast<int32_t>(static_cast<uint32_t>(a) & 0xffffff);
}
template <class T>
T product24(T a, T b, int shift) {
  return static_cast<T>(int64_t{low24(a)} * low24(b) >> shift);
}

template <class A, class B>
uint32_t dot4(uint32_t a, uint32_t b, uint32_t c) {
  for (int k = 0; k < 32; k += 8)
    c += static_cast<uint32_t>(int32_t{static_cast<A>(a >> k)} * int32_t{static_cast<B>(b >> k)});
  return c;
}
template <class A, class B, int first>
uint32_t dot2(uint32_t a, uint32_t b, uint32_t c) {
  using A16 = std::conditional_t<std::is_signed_v<A>, int16_t, uint16_t>;
  for (int k = 0; k < 2; ++k)
    c += static_cast<uint32_t>(int32_t{static_cast<A16>(a >> 16 * k)} * int32_t{static_cast<B>(b >> 8 * (first + k))});
  return c;
}

bool packed(Decoder& d, Inst& i, std::string_view op, std::string_view type, bool relu) {
  const bool is_signed = type == "s16x2";
  if (!is_signed && type != "u16x2") return false;
  if (op == "add")
    lanes<[](uint32_t a, uint32_t b) { return halves<uint16_t>(a, b, [](uint32_t x, uint32_t y) { return x + y; }); }>(
        d, i);
  else if (op == "min" && relu)
    lanes<[](uint32_t a, uint32_t b) {
      return halves<int16_t>(a, b, [](int16_t x, int16_t y) { return maximum<int16_t>(minimum(x, y), 0); });
    }>(d, i);
  else if (op == "max" && relu)
    lanes<[](uint32_t a, uint32_t b) {
      return halves<int16_t>(a, b, [](int16_t x, int16_t y) { return maximum<int16_t>(maximum(x, y), 0); });
    }>(d, i);
  else if (op == "min" && is_signed)
    lanes<[](uint32_t a, uint32_t b) { return halves<int16_t>(a, b, minimum<int16_t>); }>(d, i);
  else if (op == "max" && is_signed)
    lanes<[](uint32_t a, uint32_t b) { return halves<int16_t>(a, b, maximum<int16_t>); }>(d, i);
  else if (op == "min")
    lanes<[](uint32_t a, uint32_t b) { return halves<uint16_t>(a, b, minimum<uint16_t>); }>(d, i);
  else if (op == "max")
    lanes<[](uint32_t a, uint32_t b) { return halves<uint16_t>(a, b, maximum<uint16_t>); }>(d, i);
  else
    return false;
  return true;
}

template <class T>
void multiply(Decoder& d, Inst& i, bool add, int mode, bool sat) {  // mode: lo, hi, wide
  if (mode == 0) {
    if (add)
      lanes<[](T a, T b, T c) -> T { return sum(low(a, b), c); }>(d, i);
    else
      lanes<[](T a, T b) -> T { return low(a, b); }>(d, i);
  } else if (mode == 1) {
    if (sat)
      lanes<[](int32_t a, int32_t b, int32_t c) -> int32_t { return saturated(int64_t{high(a, b)} + c); }>(d, i);
    else if (add)
      lanes<[](T a, T b, T c) -> T { return sum(high(a, b), c); }>(d, i);
    else
      lanes<[](T a, T b) -> T { return high(a, b); }>(d, i);
  } else if constexpr (sizeof(T) < 8) {
    using W = Wide<T>;
    if (add)
      lanes<[](T a, T b, W c) -> W { return sum<W>(W{a} * W{b}, c); }>(d, i);
    else
      lanes<[](T a, T b) -> W { return W{a} * W{b}; }>(d, i);
  } else {
    d.unknown("type");
  }
}

template <class T>
void multiply24(Decoder& d, Inst& i, bool add, bool hi, bool sat) {
  if (sat)
    lanes<[](int32_t a, int32_t b, int32_t c) -> int32_t { return saturated(int64_t{product24(a, b, 16)} + c); }>(d, i);
  else if (add && hi)
    lanes<[](T a, T b, T c) -> T { return sum(product24(a, b, 16), c); }>(d, i);
  else if (add)
    lanes<[](T a, T b, T c) -> T { return sum(product24(a, b, 0), c); }>(d, i);
  else if (hi)
    lanes<[](T a, T b) -> T { return product24(a, b, 16); }>(d, i);
  else
    lanes<[](T a, T b) -> T { return product24(a, b, 0); }>(d, i);
}

template <class A, class B>
void dot(Decoder& d, Inst& i, int mode) {  // −1: dp4a
  if (mode < 0)
    lanes<[](uint32_t a, uint32_t b, uint32_t c) { return dot4<A, B>(a, b, c); }>(d, i);
  else if (mode == 0)
    lanes<[](uint32_t a, uint32_t b, uint32_t c) { return dot2<A, B, 0>(a, b, c); }>(d, i);
  else
    lanes<[](uint32_t a, uint32_t b, uint32_t c) { return dot2<A, B, 2>(a, b, c); }>(d, i);
}

template <class T>
bool plain(Decoder& d, Inst& i, std::string_view op) {
  if (op == "add")
    lanes<[](T a, T b) -> T { return sum(a, b); }>(d, i);
  else if (op == "sub")
    lanes<[](T a, T b) -> T { return static_cast<T>(Word<T>(a) - Word<T>(b)); }>(d, i);
  else if (op == "div")
    lanes<[](T a, T b) -> T { return quotient(a, b); }>(d, i);
  else if (op == "rem")
    lanes<[](T a, T b) -> T { return remainder(a, b); }>(d, i);
  else if (op == "min")
    lanes<[](T a, T b) -> T { return minimum(a, b); }>(d, i);
  else if (op == "max")
    lanes<[](T a, T b) -> T { return maximum(a, b); }>(d, i);
  else if (op == "sad")
    lanes<[](T a, T b, T c) -> T {
      return static_cast<T>(Word<T>(c) + (a < b ? Word<T>(b) - Word<T>(a) : Word<T>(a) - Word<T>(b)));
    }>(d, i);
  else if (op == "abs" && std::is_signed_v<T>)
    lanes<[](T a) -> T { return static_cast<T>(a < 0 ? Word<T>{0} - Word<T>(a) : Word<T>(a)); }>(d, i);
  else if (op == "neg" && std::is_signed_v<T>)
    lanes<[](T a) -> T { return static_cast<T>(Word<T>{0} - Word<T>(a)); }>(d, i);
  else
    return false;
  return true;
}

/// Extended precision: `in` reads CC.CF (slot[4]), `out` writes it. kind: 0 a + b, 1 a − b, 2 low(a·b) + c, 3 high(a·b)
/// + c.
template <class T, int kind, bool in, bool out>
Flow extended(Warp& w, const Inst& i, Mask lanes) {
  const T *a = w.at<T>(i.slot[1]), *b = w.at<T>(i.slot[2]);
  const T* c = kind >= 2 ? w.at<T>(i.slot[3]) : nullptr;
  using U = std::make_unsigned_t<T>;
  T result[kLanes];
  Mask carry = 0;
  for (int l = 0; l < kLanes; ++l) {
    const U cf = in ? w.predicate(i.slot[4]) >> l & 1 : 0;
    const U x = kind < 2 ? static_cast<U>(a[l]) : static_cast<U>(kind == 2 ? low(a[l], b[l]) : high(a[l], b[l]));
    const U y = static_cast<U>(kind < 2 ? b[l] : c[l]);
    if constexpr (kind == 1) {
      const U r = x - y;
      result[l] = static_cast<T>(r - cf);
      carry |= static_cast<Mask>((x < y) | (r < cf)) << l;
    } else {
      const U r = x + y, s = r + cf;
      result[l] = static_cast<T>(s);
      carry |= static_cast<Mask>((r < x) | (s < r)) << l;
    }
  }
  put(w.at<T>(i.slot[0]), result, lanes);
  if (out) put(w.predicate(i.slot[4]), carry, lanes);
  return Flow::next;
}
template <class T, int kind>
Exec extended(bool in, bool out) {
  if (in) return out ? extended<T, kind, true, true> : extended<T, kind, true, false>;
  return extended<T, kind, false, true>;
}

}  // namespace

void decode_carry(Decoder& d, Inst& i) {
  Mods m(d);
  const std::string_view op = d.s.op;
  const bool in = op == "addc" || op == "subc" || op == "madc", out = m.take("cc"), product = op.substr(0, 3) == "mad";
  const int half = product ? m.pick({"lo", "hi"}) : -1;
  const std::string_view type = m.type();
  if (product && half < 0) d.unknown("mode");
  m.done();
  i.cls = Class::integer;
  const bool known = type.substr(1) != "16" && with_integer(type, [&]<class T>(T) {
                       if (d.s.args.size() != (product ? 4 : 3)) d.unknown("operands");
                       i.exec = product ? (half == 0 ? extended<T, 2>(in, out) : extended<T, 3>(in, out))
                                : op.substr(0, 3) == "add" ? extended<T, 0>(in, out)
                                                           : extended<T, 1>(in, out);
                       i.slot[0] = destination<T>(d, d.s.args[0]);
                       i.slot[4] = d.carry();
                       for (size_t k = 1; k < d.s.args.size(); ++k) i.slot[k] = source<T>(d, d.s.args[k]);
                     });
  if (!known) d.unknown("type");
}

void decode_integer(Decoder& d, Inst& i) {
  const std::string_view op = d.s.op;
  if (d.has("cc") || op == "addc" || op == "subc" || op == "madc") return decode_carry(d, i);
  i.cls = Class::integer;
  Mods m(d);
  bool known = true;
  if (op == "dp4a" || op == "dp2a") {
    const int mode = op == "dp2a" ? m.pick({"lo", "hi"}) : -1;
    if (op == "dp2a" && mode < 0) d.unknown("mode");
    const std::string_view a = m.type(), b = m.type();
    m.done();
    if ((a != "s32" && a != "u32") || (b != "s32" && b != "u32")) d.unknown("type");
    if (a == "s32")
      b == "s32" ? dot<int8_t, int8_t>(d, i, mode) : dot<int8_t, uint8_t>(d, i, mode);
    else
      b == "s32" ? dot<uint8_t, int8_t>(d, i, mode) : dot<uint8_t, uint8_t>(d, i, mode);
  } else if (op == "mul" || op == "mad" || op == "mul24" || op == "mad24") {
    const bool add = op[1] == 'a', only24 = op.size() == 5;
    const int mode = m.pick({"lo", "hi", "wide"});
    const bool sat = add && mode == 1 && m.take("sat");
    const std::string_view type = m.type();
    m.done();
    if (mode < 0 || (sat && type != "s32") || (only24 && (mode == 2 || (type != "s32" && type != "u32"))))
      d.unknown("mode or type");
    known = with_integer(type, [&]<class T>(T) {
      if constexpr (sizeof(T) == 4) {
        if (only24) return multiply24<T>(d, i, add, mode == 1, sat);
      }
      multiply<T>(d, i, add, mode, sat);
    });
  } else {
    const bool sat = (op == "add" || op == "sub") && m.take("sat"),
               relu = (op == "min" || op == "max") && m.take("relu");
    const std::string_view type = m.type();
    m.done();
    if ((sat && type != "s32") || (relu && type != "s32" && type != "s16x2")) d.unknown("type");
    if (packed(d, i, op, type, relu)) return;
    if (sat && op == "add")
      lanes<[](int32_t a, int32_t b) -> int32_t { return saturated(int64_t{a} + b); }>(d, i);
    else if (sat)
      lanes<[](int32_t a, int32_t b) -> int32_t { return saturated(int64_t{a} - b); }>(d, i);
    else if (relu && op == "min")
      lanes<[](int32_t a, int32_t b) -> int32_t { return maximum(minimum(a, b), 0); }>(d, i);
    else if (relu)
      lanes<[](int32_t a, int32_t b) -> int32_t { return maximum(maximum(a, b), 0); }>(d, i);
    else
      known = with_integer(type, [&]<class T>(T) {
        if (!plain<T>(d, i, op)) d.unknown("type");
      });
  }
  if (!known) d.unknown("type");
}

}  // namespace emu
