#include <algorithm>
#include <bit>
#include <cstring>

#include "async.h"
#include "formats.h"

// The reductions of bulk copies and red.async: element by element, each a compare-and-swap, since other CTAs run in
// other threads of the host.
namespace emu {
namespace {

enum class Op { add, min, max, inc, dec, and_, or_, xor_ };

struct Half {
  using Word = uint16_t;
  static float get(Word v) { return decode<F16>(v); }
  static Word put(float v) { return static_cast<Word>(encode<F16>(v)); }
};
struct Brain {
  using Word = uint16_t;
  static float get(Word v) { return decode<Bf16>(v); }
  static Word put(float v) { return static_cast<Word>(encode<Bf16>(v)); }
};
template <class T, class W>
struct Plain {
  using Word = W;
  static T get(Word v) { return std::bit_cast<T>(v); }
  static Word put(T v) { return std::bit_cast<Word>(v); }
};

template <Op op, class T>
T combine(T a, T b) {
  if constexpr (op == Op::add) return static_cast<T>(a + b);
  if constexpr (op == Op::min) return b != b ? a : a != a || b < a ? b : a;
  if constexpr (op == Op::max) return b != b ? a : a != a || b > a ? b : a;
  if constexpr (op == Op::inc) return a >= b ? T{0} : static_cast<T>(a + 1);
  if constexpr (op == Op::dec) return a == T{0} || a > b ? b : static_cast<T>(a - 1);
  if constexpr (op == Op::and_ || op == Op::or_ || op == Op::xor_) {
    if constexpr (op == Op::and_) return a & b;
    if constexpr (op == Op::or_) return a | b;
    if constexpr (op == Op::xor_) return a ^ b;
  }
}

template <Op op, class Element>
void reduce(std::byte* to, const std::byte* from, int bytes) {
  using Word = typename Element::Word;
  for (int at = 0; at < bytes; at += sizeof(Word)) {
    Word b;
    std::memcpy(&b, from + at, sizeof b);
    Word* place = reinterpret_cast<Word*>(to + at);
    Word a = __atomic_load_n(place, __ATOMIC_RELAXED), sum;
    do sum = Element::put(combine<op>(Element::get(a), Element::get(b)));
    while (!__atomic_compare_exchange_n(place, &a, sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  }
}

using U32 = Plain<uint32_t, uint32_t>;
using S32 = Plain<int32_t, uint32_t>;
using U64 = Plain<uint64_t, uint64_t>;
using S64 = Plain<int64_t, uint64_t>;
using F32 = Plain<float, uint32_t>;
using F64 = Plain<double, uint64_t>;

struct Row {
  const char *op, *type;
  Reduce reduce;
};
// signed sums are those of the unsigned type
const Row kRows[] = {
    {"add", "u32", reduce<Op::add, U32>},  {"add", "s32", reduce<Op::add, U32>},
    {"add", "u64", reduce<Op::add, U64>},  {"add", "s64", reduce<Op::add, U64>},
    {"add", "f16", reduce<Op::add, Half>}, {"add", "bf16", reduce<Op::add, Brain>},
    {"add", "f32", reduce<Op::add, F32>},  {"add", "f64", reduce<Op::add, F64>},
    {"min", "u32", reduce<Op::min, U32>},  {"min", "s32", reduce<Op::min, S32>},
    {"min", "u64", reduce<Op::min, U64>},  {"min", "s64", reduce<Op::min, S64>},
    {"min", "f16", reduce<Op::min, Half>}, {"min", "bf16", reduce<Op::min, Brain>},
    {"max", "u32", reduce<Op::max, U32>},  {"max", "s32", reduce<Op::max, S32>},
    {"max", "u64", reduce<Op::max, U64>},  {"max", "s64", reduce<Op::max, S64>},
    {"max", "f16", reduce<Op::max, Half>}, {"max", "bf16", reduce<Op::max, Brain>},
    {"inc", "u32", reduce<Op::inc, U32>},  {"dec", "u32", reduce<Op::dec, U32>},
    {"and", "b32", reduce<Op::and_, U32>}, {"and", "b64", reduce<Op::and_, U64>},
    {"or", "b32", reduce<Op::or_, U32>},   {"or", "b64", reduce<Op::or_, U64>},
    {"xor", "b32", reduce<Op::xor_, U32>}, {"xor", "b64", reduce<Op::xor_, U64>},
};

}  // namespace

Reduce reduction(std::string_view op, std::string_view type) {
  for (const Row& r : kRows)
    if (op == r.op && type == r.type) return r.reduce;
  return nullptr;
}

}  // namespace emu
