#include "arithmetic.h"

namespace emu {
namespace {

template <class T>
constexpr int kBits = 8 * sizeof(T);

template <class T>
T ones(uint32_t count) {  // the lowest `count` bits
  using U = Word<T>;
  return static_cast<T>(count >= static_cast<uint32_t>(kBits<T>) ? ~U{0} : (U{1} << count) - 1);
}
template <class T>
T shift_left(T a, uint32_t n) {
  return static_cast<T>(n >= static_cast<uint32_t>(kBits<T>) ? 0 : Word<T>(a) << n);
}
template <class T>
T shift_right(T a, uint32_t n) {  // of a signed value: by its sign
  return static_cast<T>(a >> std::min<uint32_t>(n, kBits<T> - 1) >> (!std::is_signed_v<T> && n >= kBits<T> ? 1 : 0));
}
template <class T>
T extract(T value, uint32_t at, uint32_t length) {
  using U = std::make_unsigned_t<T>;
  const U a = static_cast<U>(value);
  at &= 255, length &= 255;
  const U kept = ones<U>(length) & shift_right<U>(~U{0}, at);
  const uint32_t top = std::min<uint32_t>(at + length - 1, kBits<T> - 1);
  const bool sign = std::is_signed_v<T> && length != 0 && (a >> top & 1) != 0;
  return static_cast<T>((shift_right<U>(a, at) & kept) | (sign ? ~kept : 0));
}
template <class T>
T insert(T a, T into, uint32_t at, uint32_t length) {
  const T mask = shift_left<T>(ones<T>(length & 255), at & 255);
  return (shift_left<T>(a, at & 255) & mask) | (into & ~mask);
}
template <class T>
int leading_zeros(T a) {
  return std::countl_zero(a);
}
template <class T, bool shift>
uint32_t find_leading(T value) {
  using U = std::make_unsigned_t<T>;
  const U a = static_cast<U>(std::is_signed_v<T> && value < 0 ? ~value : value);
  if (a == 0) return ~0u;
  return static_cast<uint32_t>(shift ? std::countl_zero(a) : kBits<T> - 1 - std::countl_zero(a));
}
uint32_t reversed(uint32_t a) {
  a = (a >> 1 & 0x55555555) | (a & 0x55555555) << 1;
  a = (a >> 2 & 0x33333333) | (a & 0x33333333) << 2;
  a = (a >> 4 & 0x0f0f0f0f) | (a & 0x0f0f0f0f) << 4;
  return __builtin_bswap32(a);
}
uint32_t population(uint32_t a) {
  a -= a >> 1 & 0x55555555;
  a = (a & 0x33333333) + (a >> 2 & 0x33333333);
  return ((a + (a >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

uint32_t lop3(uint64_t table, uint32_t a, uint32_t b, uint32_t c) {
  const auto entry = [table](int k) { return -static_cast<uint32_t>(table >> k & 1); };
  const auto choose = [](uint32_t by, uint32_t one, uint32_t zero) { return zero ^ (by & (one ^ zero)); };
  return choose(a, choose(b, choose(c, entry(7), entry(6)), choose(c, entry(5), entry(4))),
                choose(b, choose(c, entry(3), entry(2)), choose(c, entry(1), entry(0))));
}
template <bool both>
Flow lop3_predicate(Warp& w, const Inst& i, Mask lanes) {
  const uint32_t *a = w.at<uint32_t>(i.slot[2]), *b = w.at<uint32_t>(i.slot[3]), *c = w.at<uint32_t>(i.slot[4]);
  uint32_t out[kLanes];
  Mask set = 0;
  for (int l = 0; l < kLanes; ++l) out[l] = lop3(i.imm[0], a[l], b[l], c[l]);
  for (int l = 0; l < kLanes; ++l) set |= static_cast<Mask>(out[l] != 0) << l;
  const Mask q = w.predicate(i.slot[5]) ^ -static_cast<Mask>(i.imm[1]);
  if (i.slot[0] != kNoPlace) put(w.at<uint32_t>(i.slot[0]), out, lanes);
  if (i.slot[1] != kNoPlace) put(w.predicate(i.slot[1]), both ? set & q : set | q, lanes);
  return Flow::next;
}
void decode_lop3(Decoder& d, Inst& i, Mods& m) {
  const auto& args = d.s.args;
  const int op = m.pick({"or", "and"});
  if (!m.take("b32")) d.unknown("type");
  m.done();
  if (args.size() != (op < 0 ? 5 : 6) || args[4].kind != ptx::Operand::Kind::integer) d.unknown("operands");
  i.imm[0] = args[4].bits & 255;
  if (op < 0) {
    for (int k = 1; k < 4; ++k) i.slot[k] = source<uint32_t>(d, args[k]);
    i.slot[0] = destination<uint32_t>(d, args[0]);
    i.exec = each<[](const Inst& inst, uint32_t a, uint32_t b, uint32_t c) { return lop3(inst.imm[0], a, b, c); }>;
    return;
  }
  if (args[0].kind != ptx::Operand::Kind::pair) d.unknown("operands");
  i.slot[0] = d.dst(args[0].items[0], 4);
  i.slot[1] = d.dst(args[0].items[1], 0);
  for (int k = 1; k < 4; ++k) i.slot[k + 1] = source<uint32_t>(d, args[k]);
  i.slot[5] = source<Bit>(d, args[5]);
  i.imm[1] = args[5].negated;
  i.exec = op == 0 ? lop3_predicate<false> : lop3_predicate<true>;
}

/// Byte k of b:a by each nibble of c: its lower bits the byte, its top bit: replicate the byte's sign instead.
uint32_t permute(uint32_t a, uint32_t b, uint32_t c) {
  const uint64_t from = uint64_t{b} << 32 | a;
  uint32_t out = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t byte = static_cast<uint32_t>(from >> (8 * (c >> 4 * k & 7))) & 255;
    const uint32_t sign = byte >> 7 ? 255 : 0;
    out |= ((c >> 4 * k & 8) != 0 ? sign : byte) << 8 * k;
  }
  return out;
}
template <int mode>
uint32_t permute_mode(uint32_t a, uint32_t b, uint32_t c) {
  // f4e, b4e, rc8, ecl, ecr, rc16: the nibbles for c = 0 … 3
  constexpr uint32_t table[6][4] = {{0x3210, 0x4321, 0x5432, 0x6543}, {0x5670, 0x6701, 0x7012, 0x0123},
                                    {0x0000, 0x1111, 0x2222, 0x3333}, {0x3210, 0x3211, 0x3222, 0x3333},
                                    {0x0000, 0x1110, 0x2210, 0x3210}, {0x1010, 0x3232, 0x1010, 0x3232}};
  return permute(a, b, table[mode][c & 3]);
}
void decode_prmt(Decoder& d, Inst& i, Mods& m) {
  const int mode = m.pick({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  if (!m.take("b32")) d.unknown("type");
  m.done();
  switch (mode) {
    case -1:
      return lanes<[](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); }>(d, i);
    case 0:
      return lanes<[](uint32_t a, uint32_t b, uint32_t c) { return permute_mode<0>(a, b, c); }>(d, i);
    case 1:
      return lanes<[](uint32_t a, uint32_t b, uint32_t c) { return permute_mode<1>(a, b, c); }>(d, i);
    case 2:
      return lanes<[](uint32_t a, uint32_t b, uint32_t c) { return permute_mode<2>(a, b, c); }>(d, i);
    case 3:
      return lanes<[](uint32_t a, uint32_t b, uint32_t c) { return permute_mode<3>(a, b, c); }>(d, i);
    case 4:
      return lanes<[](uint32_t a, uint32_t b, uint32_t c) { return permute_mode<4>(a, b, c); }>(d, i);
    default:
      return lanes<[](uint32_t a, uint32_t b, uint32_t c) { return permute_mode<5>(a, b, c); }>(d, i);
  }
}

template <bool left, bool wrap>
uint32_t funnel(uint32_t a, uint32_t b, uint32_t c) {
  const uint64_t both = uint64_t{b} << 32 | a;
  const uint32_t n = wrap ? c & 31 : std::min(c, 32u);
  return static_cast<uint32_t>(left ? both << n >> 32 : both >> n);
}
void decode_shf(Decoder& d, Inst& i, Mods& m) {
  const int way = m.pick({"l", "r"}), mode = m.pick({"clamp", "wrap"});
  if (!m.take("b32")) d.unknown("type");
  m.done();
  if (way < 0 || mode < 0) d.unknown("mode");
  if (way == 0 && mode == 0)
    lanes<[](uint32_t a, uint32_t b, uint32_t c) { return funnel<true, false>(a, b, c); }>(d, i);
  else if (way == 0)
    lanes<[](uint32_t a, uint32_t b, uint32_t c) { return funnel<true, true>(a, b, c); }>(d, i);
  else if (mode == 0)
    lanes<[](uint32_t a, uint32_t b, uint32_t c) { return funnel<false, false>(a, b, c); }>(d, i);
  else
    lanes<[](uint32_t a, uint32_t b, uint32_t c) { return funnel<false, true>(a, b, c); }>(d, i);
}

uint32_t find_nth_set(uint32_t mask, uint32_t base, int32_t offset) {
  if (offset == 0) return base < 32 && mask >> base & 1 ? base : ~0u;
  const int step = offset > 0 ? 1 : -1;
  int64_t left = (offset > 0 ? int64_t{offset} : -int64_t{offset}) - 1;
  for (int64_t at = base; at >= 0 && at < 32; at += step)
    if (mask >> at & 1 && left-- == 0) return static_cast<uint32_t>(at);
  return ~0u;
}
template <bool is_signed>
uint32_t extend(uint32_t a, uint32_t n, bool clamp) {
  if (n >= 32 && clamp) return a;
  n &= 31;
  if (n == 0) return 0;
  return is_signed ? static_cast<uint32_t>(static_cast<int32_t>(a << (32 - n)) >> (32 - n)) : a & ((1u << n) - 1);
}
template <bool clamp>
uint32_t bit_mask(uint32_t at, uint32_t length) {
  if (clamp && at >= 32) return 0;
  at &= 31;
  const uint32_t from = ~0u << at;
  if (clamp && length >= 32) return from;
  length &= 31;
  return at + length >= 32 ? from : from & ~(~0u << (at + length));
}

void decode_predicate_logic(Decoder& d, Inst& i) {
  const std::string_view op = d.s.op;
  i.cls = Class::predicate;
  if (op == "and")
    lanes<[](Bit a, Bit b) { return Bit{a.set && b.set}; }>(d, i);
  else if (op == "or")
    lanes<[](Bit a, Bit b) { return Bit{a.set || b.set}; }>(d, i);
  else if (op == "xor")
    lanes<[](Bit a, Bit b) { return Bit{a.set != b.set}; }>(d, i);
  else if (op == "not")
    lanes<[](Bit a) { return Bit{!a.set}; }>(d, i);
  else
    d.unknown("type");
}

template <class T>
bool logic(Decoder& d, Inst& i, std::string_view op) {
  if (op == "and")
    lanes<[](T a, T b) -> T { return a & b; }>(d, i);
  else if (op == "or")
    lanes<[](T a, T b) -> T { return a | b; }>(d, i);
  else if (op == "xor")
    lanes<[](T a, T b) -> T { return a ^ b; }>(d, i);
  else if (op == "not")
    lanes<[](T a) -> T { return static_cast<T>(~a); }>(d, i);
  else if (op == "cnot")
    lanes<[](T a) -> T { return a == 0; }>(d, i);
  else if (op == "shl")
    lanes<[](T a, uint32_t n) -> T { return shift_left(a, n); }>(d, i);
  else if (op == "shr")
    lanes<[](T a, uint32_t n) -> T { return shift_right(a, n); }>(d, i);
  else
    return false;
  return true;
}

}  // namespace

void decode_bits(Decoder& d, Inst& i) {
  const std::string_view op = d.s.op;
  i.cls = Class::integer;
  Mods m(d);
  if (op == "lop3") return decode_lop3(d, i, m);
  if (op == "prmt") return decode_prmt(d, i, m);
  if (op == "shf") return decode_shf(d, i, m);
  const bool shiftamt = op == "bfind" && m.take("shiftamt");
  const int mode = op == "szext" || op == "bmsk" ? m.pick({"clamp", "wrap"}) : -1;
  const std::string_view type = m.type();
  m.done();
  bool known = true;
  if (type == "pred") return decode_predicate_logic(d, i);
  if (op == "shr" && type[0] != 'b') {
    known =
        with_integer(type, [&]<class T>(T) { lanes<[](T a, uint32_t n) -> T { return shift_right(a, n); }>(d, i); });
  } else if (op == "bfe") {
    known = type.substr(1) != "16" && with_integer(type, [&]<class T>(T) {
              lanes<[](T a, uint32_t at, uint32_t n) -> T { return extract(a, at, n); }>(d, i);
            });
  } else if (op == "bfi") {
    known = type != "b16" && with_bits(type, [&]<class T>(T) {
              lanes<[](T a, T b, uint32_t at, uint32_t n) -> T { return insert(a, b, at, n); }>(d, i);
            });
  } else if (op == "bfind") {
    known = type.substr(1) != "16" && with_integer(type, [&]<class T>(T) {
              if (shiftamt)
                lanes<[](T a) { return find_leading<T, true>(a); }>(d, i);
              else
                lanes<[](T a) { return find_leading<T, false>(a); }>(d, i);
            });
  } else if (op == "brev" && type == "b32") {
    lanes<[](uint32_t a) { return reversed(a); }>(d, i);
  } else if (op == "brev" && type == "b64") {
    lanes<[](uint64_t a) {
      return uint64_t{reversed(static_cast<uint32_t>(a))} << 32 | reversed(static_cast<uint32_t>(a >> 32));
    }>(d, i);
  } else if (op == "popc" && type == "b32") {
    lanes<[](uint32_t a) { return population(a); }>(d, i);
  } else if (op == "popc" && type == "b64") {
    lanes<[](uint64_t a) { return population(static_cast<uint32_t>(a)) + population(static_cast<uint32_t>(a >> 32)); }>(
        d, i);
  } else if (op == "clz" && type == "b32") {
    lanes<[](uint32_t a) { return static_cast<uint32_t>(std::countl_zero(a)); }>(d, i);
  } else if (op == "clz" && type == "b64") {
    lanes<[](uint64_t a) { return static_cast<uint32_t>(std::countl_zero(a)); }>(d, i);
  } else if (op == "fns" && type == "b32") {
    lanes<[](uint32_t a, uint32_t base, int32_t offset) { return find_nth_set(a, base, offset); }>(d, i);
  } else if (op == "szext" && mode == 0 && type == "u32") {
    lanes<[](uint32_t a, uint32_t n) { return extend<false>(a, n, true); }>(d, i);
  } else if (op == "szext" && mode == 0 && type == "s32") {
    lanes<[](uint32_t a, uint32_t n) { return extend<true>(a, n, true); }>(d, i);
  } else if (op == "szext" && mode == 1 && type == "u32") {
    lanes<[](uint32_t a, uint32_t n) { return extend<false>(a, n, false); }>(d, i);
  } else if (op == "szext" && mode == 1 && type == "s32") {
    lanes<[](uint32_t a, uint32_t n) { return extend<true>(a, n, false); }>(d, i);
  } else if (op == "bmsk" && mode == 0 && type == "b32") {
    lanes<[](uint32_t at, uint32_t n) { return bit_mask<true>(at, n); }>(d, i);
  } else if (op == "bmsk" && mode == 1 && type == "b32") {
    lanes<[](uint32_t at, uint32_t n) { return bit_mask<false>(at, n); }>(d, i);
  } else {
    known = with_bits(type, [&]<class T>(T) {
      if (!logic<T>(d, i, op)) d.unknown("type");
    });
  }
  if (!known) d.unknown("type");
}

}  // namespace emu
