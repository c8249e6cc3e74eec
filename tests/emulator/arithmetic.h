#pragma once
#include <algorithm>
#include <bit>

#include "lanes.h"

// The decoders behind arithmetic.cpp's table, by kind of type. Each takes an op from Decoder::s.
namespace emu {

void decode_integer(Decoder&, Inst&);   // integer.cpp
void decode_bits(Decoder&, Inst&);      // bits.cpp: logic, shifts, fields, bytes
void decode_carry(Decoder&, Inst&);     // integer.cpp: add.cc, addc, …
void decode_floating(Decoder&, Inst&);  // floating.cpp: f32, f64
void decode_special(Decoder&, Inst&);   // floating.cpp: rcp, ex2, sin, …
void decode_half(Decoder&, Inst&);      // half.cpp: f16, bf16 and pairs of them
void decode_compare(Decoder&, Inst&);   // compare.cpp: set, setp
void decode_select(Decoder&, Inst&);    // compare.cpp: selp, slct

/// Calls f with a value of the C++ type that `type` names, false if it is none of them.
template <class F>
bool with_integer(std::string_view type, F&& f) {
  if (type == "u32") return f(uint32_t{}), true;
  if (type == "s32") return f(int32_t{}), true;
  if (type == "u64") return f(uint64_t{}), true;
  if (type == "s64") return f(int64_t{}), true;
  if (type == "u16") return f(uint16_t{}), true;
  if (type == "s16") return f(int16_t{}), true;
  return false;
}
template <class F>
bool with_bits(std::string_view type, F&& f) {
  if (type == "b32") return f(uint32_t{}), true;
  if (type == "b64") return f(uint64_t{}), true;
  if (type == "b16") return f(uint16_t{}), true;
  return false;
}

/// Unsigned arithmetic that neither overflows nor is promoted to int.
template <class T>
using Word = std::conditional_t<sizeof(T) <= 4, uint32_t, uint64_t>;

constexpr uint32_t kNan = 0x7fffffff;  // every f32 instruction's NaN
inline float canonical(float v) { return v != v ? std::bit_cast<float>(kNan) : v; }
inline float flush(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  return std::bit_cast<float>((bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits);
}

}  // namespace emu
