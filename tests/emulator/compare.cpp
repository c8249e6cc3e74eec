#include "arithmetic.h"
#include "formats.h"

namespace emu {
namespace {

enum Comparison : int { eq, ne, lt, le, gt, ge, lo, ls, hi, hs, equ, neu, ltu, leu, gtu, geu, num, nan_ };

template <int c, class T>
bool compare(T a, T b) {
  if constexpr (c == eq) return a == b;
  if constexpr (c == lt || c == lo) return a < b;
  if constexpr (c == le || c == ls) return a <= b;
  if constexpr (c == gt || c == hi) return a > b;
  if constexpr (c == ge || c == hs) return a >= b;
  if constexpr (std::is_floating_point_v<T>) {
    const bool unordered = (a != a) | (b != b);
    if constexpr (c == ne) return (a != b) & !unordered;
    if constexpr (c == equ) return (a == b) | unordered;
    if constexpr (c == neu) return a != b;
    if constexpr (c == ltu) return (a < b) | unordered;
    if constexpr (c == leu) return (a <= b) | unordered;
    if constexpr (c == gtu) return (a > b) | unordered;
    if constexpr (c == geu) return (a >= b) | unordered;
    if constexpr (c == num) return !unordered;
    if constexpr (c == nan_) return unordered;
  } else {
    if constexpr (c == ne) return a != b;
  }
  return false;
}

// How a register's value becomes what is compared.
template <class R, class V>
struct Plain {
  using Register = R;
  using Value = V;
  static V value(R r) { return r; }
};
struct Flushed : Plain<float, float> {
  static float value(float r) { return flush(r); }
};
template <class F, bool ftz>
struct Half : Plain<uint16_t, float> {
  static float value(uint16_t r) { return decode<F>(ftz && (r & 0x7c00) == 0 ? r & 0x8000 : r); }
};

template <class V, int c>
Mask compared(Warp& w, const Inst& i) {
  const auto *a = w.at<typename V::Register>(i.slot[2]), *b = w.at<typename V::Register>(i.slot[3]);
  Mask m = 0;
  for (int l = 0; l < kLanes; ++l) m |= static_cast<Mask>(compare<c>(V::value(a[l]), V::value(b[l]))) << l;
  return m;
}
Mask combined(Warp& w, const Inst& i, Mask t) {  // imm[0]: and, or, xor, none; imm[1]: the operand is negated
  if (i.imm[0] == 3) return t;
  const Mask c = w.predicate(i.slot[4]) ^ -static_cast<Mask>(i.imm[1]);
  return i.imm[0] == 0 ? t & c : i.imm[0] == 1 ? t | c : t ^ c;
}
template <class V, int c>
Flow setp(Warp& w, const Inst& i, Mask lanes) {
  const Mask t = compared<V, c>(w, i);
  const Mask p = combined(w, i, t);
  if (i.slot[1] != kNoPlace) {
    const Mask q = combined(w, i, ~t);
    put(w.predicate(i.slot[1]), q, lanes);
  }
  if (i.slot[0] != kNoPlace) put(w.predicate(i.slot[0]), p, lanes);
  return Flow::next;
}
template <class V, int c>
Flow set(Warp& w, const Inst& i, Mask lanes) {  // extra: what true is, uint32_t
  const Mask t = combined(w, i, compared<V, c>(w, i));
  const uint32_t yes = *static_cast<const uint32_t*>(i.extra);
  uint32_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = t >> l & 1 ? yes : 0;
  put(w.at<uint32_t>(i.slot[0]), out, lanes);
  return Flow::next;
}
template <class V, int c>
Flow set_half(Warp& w, const Inst& i, Mask lanes) {
  const Mask t = combined(w, i, compared<V, c>(w, i));
  const uint16_t yes = static_cast<uint16_t>(*static_cast<const uint32_t*>(i.extra));
  uint16_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = t >> l & 1 ? yes : 0;
  put(w.at<uint16_t>(i.slot[0]), out, lanes);
  return Flow::next;
}
/// Packed halves: the lower one's result to p (or the lower half of d), the upper one's to q.
template <class F, bool ftz, int c>
Flow setp_pair(Warp& w, const Inst& i, Mask lanes) {
  const uint32_t *a = w.at<uint32_t>(i.slot[2]), *b = w.at<uint32_t>(i.slot[3]);
  using V = Half<F, ftz>;
  Mask low = 0, high = 0;
  for (int l = 0; l < kLanes; ++l) {
    low |= static_cast<Mask>(compare<c>(V::value(a[l] & 0xffff), V::value(b[l] & 0xffff))) << l;
    high |= static_cast<Mask>(compare<c>(V::value(a[l] >> 16), V::value(b[l] >> 16))) << l;
  }
  low = combined(w, i, low), high = combined(w, i, high);
  if (i.extra) {
    const uint32_t yes = *static_cast<const uint32_t*>(i.extra);
    uint32_t out[kLanes];
    for (int l = 0; l < kLanes; ++l)
      out[l] = (low >> l & 1 ? yes & 0xffff : 0) | (high >> l & 1 ? yes & 0xffff0000 : 0);
    put(w.at<uint32_t>(i.slot[0]), out, lanes);
    return Flow::next;
  }
  if (i.slot[0] != kNoPlace) put(w.predicate(i.slot[0]), low, lanes);
  if (i.slot[1] != kNoPlace) put(w.predicate(i.slot[1]), high, lanes);
  return Flow::next;
}

struct Handlers {
  Exec setp, set, set_half;
};
template <class V, int c>
constexpr Handlers kHandlers = {setp<V, c>, set<V, c>, set_half<V, c>};
template <class F, bool ftz, int c>
constexpr Handlers kPair = {setp_pair<F, ftz, c>, setp_pair<F, ftz, c>, nullptr};

template <class V>
Handlers handlers(Decoder& d, int c) {
  using T = typename V::Value;
  if constexpr (std::is_floating_point_v<T>) {
    static constexpr Handlers table[] = {kHandlers<V, eq>,
                                         kHandlers<V, ne>,
                                         kHandlers<V, lt>,
                                         kHandlers<V, le>,
                                         kHandlers<V, gt>,
                                         kHandlers<V, ge>,
                                         {},
                                         {},
                                         {},
                                         {},
                                         kHandlers<V, equ>,
                                         kHandlers<V, neu>,
                                         kHandlers<V, ltu>,
                                         kHandlers<V, leu>,
                                         kHandlers<V, gtu>,
                                         kHandlers<V, geu>,
                                         kHandlers<V, num>,
                                         kHandlers<V, nan_>};
    if (!table[c].setp) d.unknown("comparison of unsigned integers");
    return table[c];
  } else {
    static constexpr Handlers table[] = {kHandlers<V, eq>, kHandlers<V, ne>, kHandlers<V, lt>, kHandlers<V, le>,
                                         kHandlers<V, gt>, kHandlers<V, ge>, kHandlers<V, lo>, kHandlers<V, ls>,
                                         kHandlers<V, hi>, kHandlers<V, hs>};
    if (c > hs || (std::is_signed_v<T> && c >= lo)) d.unknown("comparison");
    return table[c];
  }
}
template <class F, bool ftz>
Handlers pair_handlers(Decoder& d, int c) {
  static constexpr Handlers table[] = {kPair<F, ftz, eq>,
                                       kPair<F, ftz, ne>,
                                       kPair<F, ftz, lt>,
                                       kPair<F, ftz, le>,
                                       kPair<F, ftz, gt>,
                                       kPair<F, ftz, ge>,
                                       {},
                                       {},
                                       {},
                                       {},
                                       kPair<F, ftz, equ>,
                                       kPair<F, ftz, neu>,
                                       kPair<F, ftz, ltu>,
                                       kPair<F, ftz, leu>,
                                       kPair<F, ftz, gtu>,
                                       kPair<F, ftz, geu>,
                                       kPair<F, ftz, num>,
                                       kPair<F, ftz, nan_>};
  if (!table[c].setp) d.unknown("comparison of unsigned integers");
  return table[c];
}

struct Chosen {
  Handlers handlers;
  int bytes;
};
Chosen choose(Decoder& d, std::string_view type, int c, bool ftz) {
  Chosen out{};
  if (type == "f32") return {ftz ? handlers<Flushed>(d, c) : handlers<Plain<float, float>>(d, c), 4};
  if (type == "f16") return {ftz ? handlers<Half<F16, true>>(d, c) : handlers<Half<F16, false>>(d, c), 2};
  if (type == "f16x2") return {ftz ? pair_handlers<F16, true>(d, c) : pair_handlers<F16, false>(d, c), 4};
  if (ftz) d.unknown("modifier .ftz");
  if (type == "f64") return {handlers<Plain<double, double>>(d, c), 8};
  if (type == "bf16") return {handlers<Half<Bf16, false>>(d, c), 2};
  if (type == "bf16x2") return {pair_handlers<Bf16, false>(d, c), 4};
  if (type[0] == 'b' && c > ne) d.unknown("comparison of bits");
  const auto integers = [&]<class T>(T) { out = {handlers<Plain<T, T>>(d, c), sizeof(T)}; };
  if (!with_integer(type, integers) && !with_bits(type, integers)) d.unknown("type");
  return out;
}

}  // namespace

void decode_compare(Decoder& d, Inst& i) {
  const auto& args = d.s.args;
  const bool predicate = d.s.op == "setp";
  Mods m(d);
  const int c = m.pick({"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
                        "geu", "num", "nan"});
  const int combine = m.pick({"and", "or", "xor"}, 3);
  const bool ftz = m.take("ftz");
  const std::string_view to = predicate ? "pred" : m.type(), type = m.type();
  m.done();
  if (c < 0 || to.empty() || type.empty()) d.unknown("comparison or type");
  if (args.size() != (combine == 3 ? 3 : 4)) d.unknown("operands");
  const Chosen chosen = choose(d, type, c, ftz);
  i.cls = predicate ? Class::predicate : Class::integer;
  i.imm[0] = static_cast<uint64_t>(combine);
  i.slot[2] = d.src(args[1], chosen.bytes);
  i.slot[3] = d.src(args[2], chosen.bytes);
  if (combine != 3) {
    i.slot[4] = source<Bit>(d, args[3]);
    i.imm[1] = args[3].negated;
  }
  const bool packed = type == "f16x2" || type == "bf16x2";
  if (predicate) {
    i.exec = chosen.handlers.setp;
    const bool two = args[0].kind == ptx::Operand::Kind::pair;
    if (packed && !two) d.unknown("p|q expected");
    i.slot[0] = d.dst(two ? args[0].items[0] : args[0], 0);
    if (two) i.slot[1] = d.dst(args[0].items[1], 0);
    return;
  }
  const bool integer = to == "u32" || to == "s32" || to == "u16" || to == "s16";
  const bool half = to == "u16" || to == "s16" || to == "f16" || to == "bf16";
  if (packed ? to != type && to != "u32" && to != "s32" : to == "f16x2" || to == "bf16x2") d.unknown("type");
  if (!integer && !half && !packed && to != "f32") d.unknown("type");
  if (half && type != "f16" && type != "bf16") d.unknown("type");
  const uint32_t yes = integer ? ~0u : to == "f32" ? 0x3f800000 : to.substr(0, 2) == "bf" ? 0x3f803f80 : 0x3c003c00;
  i.extra = d.keep(yes);
  i.exec = half ? chosen.handlers.set_half : chosen.handlers.set;
  i.slot[0] = half ? destination<uint16_t>(d, args[0]) : destination<uint32_t>(d, args[0]);
}

void decode_select(Decoder& d, Inst& i) {
  const bool by_predicate = d.s.op == "selp";
  Mods m(d);
  i.cls = Class::move;
  const bool ftz = !by_predicate && m.take("ftz");
  const std::string_view type = m.type(), by = by_predicate ? "pred" : m.type();
  m.done();
  if (ftz && by != "f32") d.unknown("modifier .ftz");
  const auto bind = [&]<class T>(T) {
    if (by_predicate)
      lanes<[](T a, T b, Bit c) { return c.set ? a : b; }>(d, i);
    else if (by == "s32")
      lanes<[](T a, T b, int32_t c) { return c >= 0 ? a : b; }>(d, i);
    else if (by == "f32")  // a NaN gives b; −0 and, with .ftz, negative subnormals a
      ftz ? lanes<[](T a, T b, float c) { return flush(c) >= 0 ? a : b; }>(d, i)
          : lanes<[](T a, T b, float c) { return c >= 0 ? a : b; }>(d, i);
    else
      d.unknown("type");
  };
  if (type == "f32" || type == "f64") {  // as floats, so that constants are read as such
    type == "f32" ? bind(float{}) : bind(double{});
  } else if (!with_integer(type, bind) && !with_bits(type, bind)) {
    d.unknown("type");
  }
}

}  // namespace emu
