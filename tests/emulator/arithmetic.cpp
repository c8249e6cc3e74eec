#include "arithmetic.h"

namespace emu {
namespace {

void decode_number(Decoder& d, Inst& i) {  // one name for several kinds of type
  Mods m(d);
  const std::string_view type = m.type();
  if (type.empty()) d.unknown("type");
  if (type == "f32" || type == "f64") return decode_floating(d, i);
  if (type.substr(0, 3) == "f16" || type.substr(0, 4) == "bf16") return decode_half(d, i);
  decode_integer(d, i);
}
void decode_approximation(Decoder& d, Inst& i) {
  Mods m(d);
  const std::string_view type = m.type();
  if (type.substr(0, 3) == "f16" || type.substr(0, 4) == "bf16") return decode_half(d, i);
  decode_special(d, i);
}

// Vectors: the first element is the lowest part. `list` has the parts' places.
template <class Whole, class Part>
Flow pack(Warp& w, const Inst& i, Mask lanes) {
  constexpr int n = sizeof(Whole) / sizeof(Part);
  Whole out[kLanes];
  Part* const to = reinterpret_cast<Part*>(out);
  for (int k = 0; k < n; ++k) {
    const Part* from = w.at<Part>(i.list[k]);
    for (int l = 0; l < kLanes; ++l) std::memcpy(to + l * n + k, from + l, sizeof(Part));
  }
  put(w.at<Whole>(i.slot[0]), out, lanes);
  return Flow::next;
}
template <class Whole, class Part>
Flow unpack(Warp& w, const Inst& i, Mask lanes) {
  constexpr int n = sizeof(Whole) / sizeof(Part);
  Whole in[kLanes];  // a part may be the source itself
  std::memcpy(in, w.at<Whole>(i.slot[1]), sizeof(in));
  for (int k = 0; k < n; ++k) {
    if (i.list[k] == kNoPlace) continue;
    Part out[kLanes];
    for (int l = 0; l < kLanes; ++l) std::memcpy(out + l, reinterpret_cast<Part*>(in) + l * n + k, sizeof(Part));
    put(w.at<Part>(i.list[k]), out, lanes);
  }
  return Flow::next;
}
template <class Whole>
Flow pack_bytes(Warp& w, const Inst& i, Mask lanes) {
  Whole out[kLanes] = {};
  for (int k = 0; k < static_cast<int>(sizeof(Whole)); ++k) {
    const uint16_t* from = w.at<uint16_t>(i.list[k]);
    for (int l = 0; l < kLanes; ++l) out[l] |= static_cast<Whole>(static_cast<Whole>(from[l] & 255) << 8 * k);
  }
  put(w.at<Whole>(i.slot[0]), out, lanes);
  return Flow::next;
}
template <class Whole>
Flow unpack_bytes(Warp& w, const Inst& i, Mask lanes) {
  Whole in[kLanes];
  std::memcpy(in, w.at<Whole>(i.slot[1]), sizeof(in));
  for (int k = 0; k < static_cast<int>(sizeof(Whole)); ++k) {
    if (i.list[k] == kNoPlace) continue;
    uint16_t out[kLanes];
    for (int l = 0; l < kLanes; ++l) out[l] = static_cast<uint16_t>(in[l] >> 8 * k & 255);
    put(w.at<uint16_t>(i.list[k]), out, lanes);
  }
  return Flow::next;
}

template <class Whole>
void decode_vector(Decoder& d, Inst& i) {
  const bool packs = d.s.args[1].kind == ptx::Operand::Kind::vector;
  const std::vector<ptx::Operand>& parts = d.s.args[packs ? 1 : 0].items;
  const size_t bytes = parts.empty() ? 0 : sizeof(Whole) / parts.size();
  if (bytes == 0 || bytes * parts.size() != sizeof(Whole)) d.unknown("number of elements");
  std::vector<Place> places;
  for (const ptx::Operand& o : parts)
    places.push_back(packs ? d.src(o, static_cast<int>(bytes)) : d.dst(o, static_cast<int>(bytes)));
  i.list = d.list(places);
  i.list_size = static_cast<uint16_t>(places.size());
  if (packs)
    i.slot[0] = destination<Whole>(d, d.s.args[0]);
  else
    i.slot[1] = source<Whole>(d, d.s.args[1]);
  if (bytes == 8 && sizeof(Whole) == 16) {
    i.exec = packs ? pack<Whole, uint64_t> : unpack<Whole, uint64_t>;
  } else if (bytes == 4 && sizeof(Whole) > 4) {
    i.exec = packs ? pack<Whole, uint32_t> : unpack<Whole, uint32_t>;
  } else if (bytes == 2 && sizeof(Whole) <= 8) {
    i.exec = packs ? pack<Whole, uint16_t> : unpack<Whole, uint16_t>;
  } else {
    if constexpr (sizeof(Whole) <= 4) {
      if (bytes == 1) {
        i.exec = packs ? pack_bytes<Whole> : unpack_bytes<Whole>;
        return;
      }
    }
    d.unknown("number of elements");
  }
}

void decode_mov(Decoder& d, Inst& i) {
  using Kind = ptx::Operand::Kind;
  Mods m(d);
  const std::string_view type = m.type();
  m.done();
  if (d.s.args.size() != 2) d.unknown("operands");
  i.cls = Class::move;
  const Kind to = d.s.args[0].kind, from = d.s.args[1].kind;
  if (to == Kind::vector || from == Kind::vector) {
    if (to == from || type[0] != 'b') d.unknown("operands");
    if (type == "b16") return decode_vector<uint16_t>(d, i);
    if (type == "b32") return decode_vector<uint32_t>(d, i);
    if (type == "b64") return decode_vector<uint64_t>(d, i);
    if (type == "b128") return decode_vector<Quad>(d, i);
  }
  if (type == "pred") return lanes<[](Bit a) { return a; }>(d, i);
  if (type == "f32") return lanes<[](float a) { return a; }>(d, i);  // as floats, so that constants are read as such
  if (type == "f64") return lanes<[](double a) { return a; }>(d, i);
  if (type == "b128") return lanes<[](Quad a) { return a; }>(d, i);
  const auto bind = [&]<class T>(T) { lanes<[](T a) { return a; }>(d, i); };
  if (!with_integer(type, bind) && !with_bits(type, bind)) d.unknown("type");
}

}  // namespace

const Family kArithmetic[] = {
    {"add", decode_number},  {"sub", decode_number},   {"mul", decode_number},        {"fma", decode_number},
    {"mad", decode_number},  {"div", decode_number},   {"rem", decode_integer},       {"abs", decode_number},
    {"neg", decode_number},  {"min", decode_number},   {"max", decode_number},        {"addc", decode_carry},
    {"subc", decode_carry},  {"madc", decode_carry},   {"mul24", decode_integer},     {"mad24", decode_integer},
    {"sad", decode_integer}, {"dp4a", decode_integer}, {"dp2a", decode_integer},      {"and", decode_bits},
    {"or", decode_bits},     {"xor", decode_bits},     {"not", decode_bits},          {"cnot", decode_bits},
    {"lop3", decode_bits},   {"shl", decode_bits},     {"shr", decode_bits},          {"shf", decode_bits},
    {"prmt", decode_bits},   {"bfe", decode_bits},     {"bfi", decode_bits},          {"bfind", decode_bits},
    {"brev", decode_bits},   {"clz", decode_bits},     {"popc", decode_bits},         {"fns", decode_bits},
    {"szext", decode_bits},  {"bmsk", decode_bits},    {"copysign", decode_floating}, {"testp", decode_floating},
    {"rcp", decode_special}, {"sqrt", decode_special}, {"rsqrt", decode_special},     {"sin", decode_special},
    {"cos", decode_special}, {"lg2", decode_special},  {"ex2", decode_approximation}, {"tanh", decode_approximation},
    {"set", decode_compare}, {"setp", decode_compare}, {"selp", decode_select},       {"slct", decode_select},
    {"mov", decode_mov},     {nullptr, nullptr},
};

}  // namespace emu
