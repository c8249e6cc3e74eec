#include <cmath>
#include <cstring>

#include "formats.h"
#include "lanes.h"
#include "strict.h"

// atom and red: read, apply, compare and exchange, so that both worker threads see whole operations.
namespace emu {
namespace {

/// The value found; `done` says whether it was the one expected, and `desired` lies there now.
template <class T>
T swapped_if(std::byte* at, T expected, T desired, bool* done) {
  auto* p = reinterpret_cast<T*>(at);
  *done = __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}
template <class T>
T current(const std::byte* at) {
  return __atomic_load_n(reinterpret_cast<const T*>(at), __ATOMIC_RELAXED);
}
#if defined(__x86_64__)
inline Quad swapped_if(std::byte* at, Quad expected, Quad desired, bool* done) {
  asm volatile("lock cmpxchg16b %1"
               : "=@ccz"(*done), "+m"(*reinterpret_cast<unsigned __int128*>(at)), "+a"(expected.low),
                 "+d"(expected.high)
               : "b"(desired.low), "c"(desired.high)
               : "memory");
  return expected;
}
#endif
template <>
inline Quad current<Quad>(const std::byte* at) {
  Quad q;  // perhaps of two moments: the exchange behind it then fails
  std::memcpy(&q, at, sizeof q);
  return q;
}

// What new value an operation leaves: f(old, b, c).
struct Add {
  template <class T>
  static T f(T a, T b, T) {
    return static_cast<T>(a + b);
  }
};
struct And {
  template <class T>
  static T f(T a, T b, T) {
    return a & b;
  }
};
struct Or {
  template <class T>
  static T f(T a, T b, T) {
    return a | b;
  }
};
struct Xor {
  template <class T>
  static T f(T a, T b, T) {
    return a ^ b;
  }
};
struct Exch {
  template <class T>
  static T f(T, T b, T) {
    return b;
  }
};
struct Inc {
  template <class T>
  static T f(T a, T b, T) {
    return a >= b ? 0 : a + 1;
  }
};
struct Dec {
  template <class T>
  static T f(T a, T b, T) {
    return a == 0 || a > b ? b : a - 1;
  }
};
struct Cas {
  template <class T>
  static T f(T a, T b, T c) {
    return a == b ? c : a;
  }
  static Quad f(Quad a, Quad b, Quad c) { return a.low == b.low && a.high == b.high ? c : a; }
};
template <class S>
struct Min {
  template <class T>
  static T f(T a, T b, T) {
    return static_cast<T>(std::min(static_cast<S>(a), static_cast<S>(b)));
  }
};
template <class S>
struct Max {
  template <class T>
  static T f(T a, T b, T) {
    return static_cast<T>(std::max(static_cast<S>(a), static_cast<S>(b)));
  }
};

template <bool flush>
struct AddF32 {
  static float flushed(float v) { return flush && std::fabs(v) < 0x1p-126f ? std::copysign(0.f, v) : v; }
  static uint32_t f(uint32_t a, uint32_t b, uint32_t) {
    float x, y;
    std::memcpy(&x, &a, 4);
    std::memcpy(&y, &b, 4);
    const float z = flushed(flushed(x) + flushed(y));
    uint32_t out;
    std::memcpy(&out, &z, 4);
    return z != z ? 0x7FFFFFFFu : out;
  }
};
struct AddF64 {
  static uint64_t f(uint64_t a, uint64_t b, uint64_t) {
    double x, y;
    std::memcpy(&x, &a, 8);
    std::memcpy(&y, &b, 8);
    x += y;
    std::memcpy(&a, &x, 8);
    return a;
  }
};
// Half-words of a 16- or 32-bit word. An exact sum of two halves is an f32: one rounding.
template <class F, char op>
struct Halves {
  static uint32_t one(uint32_t a, uint32_t b) {
    const float x = decode<F>(a), y = decode<F>(b);
    if (op == '+') return encode<F>(x + y);
    if (x != x || y != y) return x == x ? a : y == y ? b : 0x7FFF;
    if (x == 0 && y == 0) return op == '<' ? a | b : a & b;  // −0 is less than +0
    return (op == '<' ? x < y : x > y) ? a : b;
  }
  template <class T>
  static T f(T a, T b, T) {
    T out = 0;
    for (size_t k = 0; k < sizeof(T); k += 2)
      out |= static_cast<T>(static_cast<T>(one(a >> 8 * k & 0xFFFF, b >> 8 * k & 0xFFFF)) << 8 * k);
    return out;
  }
};

// list: destinations (kNoPlace: none), then b's, then c's; imm[0]: atom, not red, which reads nothing that orders
template <class T, class Op, class OnShared = Op>
Flow apply(Warp& w, const Inst& i, Mask lanes) {
  const auto& op = *static_cast<const MemoryOperand*>(i.extra);
  uint64_t address[kLanes];
  std::byte* host[kLanes];
  op.addresses(w, address);
  access(w, i, lanes, op.space, Use::atomic, op.order, address, op.bytes, host);
  const int count = op.bytes / static_cast<int>(sizeof(T));
  T old[8][kLanes] = {};
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const bool shared = op.space == Space::shared || (address[l] >= kSharedWindow && address[l] < kLocalWindow);
    for (int k = 0; k < count; ++k) {
      std::byte* at = host[l] + k * sizeof(T);
      const T b = w.at<T>(i.list[count + k])[l], c = w.at<T>(i.list[2 * count + k])[l];
      T seen = current<T>(at);
      for (bool done = false; !done;) {
        old[k][l] = seen;
        seen = swapped_if(at, seen, shared ? OnShared::f(seen, b, c) : Op::f(seen, b, c), &done);
      }
    }
  }
  for (int k = 0; k < count; ++k)
    if (i.list[k] != kNoPlace) put(w.at<T>(i.list[k]), old[k], lanes);
  if (i.imm[0]) order_after(w, lanes, host, op.order);
  return Flow::next;
}

struct Form {
  const char *op, *types;  // types: space-separated
  int size;                // of an element
  Exec exec;
};
const Form kForms[] = {
    {"add", "u32 s32", 4, apply<uint32_t, Add>},
    {"add", "u64 s64", 8, apply<uint64_t, Add>},
    {"add", "f32", 4, apply<uint32_t, AddF32<true>, AddF32<false>>},
    {"add", "f64", 8, apply<uint64_t, AddF64>},
    {"add", "f16", 2, apply<uint16_t, Halves<F16, '+'>>},
    {"add", "bf16", 2, apply<uint16_t, Halves<Bf16, '+'>>},
    {"add", "f16x2", 4, apply<uint32_t, Halves<F16, '+'>>},
    {"add", "bf16x2", 4, apply<uint32_t, Halves<Bf16, '+'>>},
    {"min", "u32", 4, apply<uint32_t, Min<uint32_t>>},
    {"min", "s32", 4, apply<uint32_t, Min<int32_t>>},
    {"min", "u64", 8, apply<uint64_t, Min<uint64_t>>},
    {"min", "s64", 8, apply<uint64_t, Min<int64_t>>},
    {"min", "f16", 2, apply<uint16_t, Halves<F16, '<'>>},
    {"min", "bf16", 2, apply<uint16_t, Halves<Bf16, '<'>>},
    {"min", "f16x2", 4, apply<uint32_t, Halves<F16, '<'>>},
    {"min", "bf16x2", 4, apply<uint32_t, Halves<Bf16, '<'>>},
    {"max", "u32", 4, apply<uint32_t, Max<uint32_t>>},
    {"max", "s32", 4, apply<uint32_t, Max<int32_t>>},
    {"max", "u64", 8, apply<uint64_t, Max<uint64_t>>},
    {"max", "s64", 8, apply<uint64_t, Max<int64_t>>},
    {"max", "f16", 2, apply<uint16_t, Halves<F16, '>'>>},
    {"max", "bf16", 2, apply<uint16_t, Halves<Bf16, '>'>>},
    {"max", "f16x2", 4, apply<uint32_t, Halves<F16, '>'>>},
    {"max", "bf16x2", 4, apply<uint32_t, Halves<Bf16, '>'>>},
    {"and", "b32", 4, apply<uint32_t, And>},
    {"and", "b64", 8, apply<uint64_t, And>},
    {"or", "b32", 4, apply<uint32_t, Or>},
    {"or", "b64", 8, apply<uint64_t, Or>},
    {"xor", "b32", 4, apply<uint32_t, Xor>},
    {"xor", "b64", 8, apply<uint64_t, Xor>},
    {"exch", "b32", 4, apply<uint32_t, Exch>},
    {"exch", "b64", 8, apply<uint64_t, Exch>},
    {"cas", "b16", 2, apply<uint16_t, Cas>},
    {"cas", "b32", 4, apply<uint32_t, Cas>},
    {"cas", "b64", 8, apply<uint64_t, Cas>},
    {"inc", "u32", 4, apply<uint32_t, Inc>},
    {"dec", "u32", 4, apply<uint32_t, Dec>},
#if defined(__x86_64__)
    {"exch", "b128", 16, apply<Quad, Exch>},
    {"cas", "b128", 16, apply<Quad, Cas>},
#endif
};

bool among(std::string_view type, std::string_view types) {
  for (size_t at = 0; at <= types.size();) {
    const size_t end = std::min(types.find(' ', at), types.size());
    if (types.substr(at, end - at) == type) return true;
    at = end + 1;
  }
  return false;
}

void decode_atomic(Decoder& d, Inst& i, bool returns) {
  using Kind = ptx::Operand::Kind;
  Mods mods(d);
  const size_t at = returns ? 1 : 0;
  if (d.s.args.size() < at + 2) d.unknown("operands");
  MemoryOperand op = memory_operand(d, mods, d.s.args[at], Use::atomic);
  if (op.space == Space::param || op.space == Space::constant || op.space == Space::local) d.unknown("state space");
  const Form* form = nullptr;
  const int vector = mods.take("v2") ? 2 : mods.take("v4") ? 4 : mods.take("v8") ? 8 : 1;
  const bool noftz = mods.take("noftz"), hint = mods.take("L2::cache_hint");
  const std::string_view type = mods.type();
  for (const Form& f : kForms)
    if (among(type, f.types) && mods.take(f.op)) form = &f;
  if (!form) d.unknown("operation or type");
  mods.done();
  const bool cas = form->op == std::string_view("cas"), half = type.find("f16") != type.npos;
  if (noftz != half) d.unknown(".noftz goes with f16 and bf16");
  if (vector > 1 && (form->size * vector > 16 || !(half || type == "f32") || op.space == Space::shared))
    d.unknown("vector form");
  const size_t sources = cas ? 2 : 1;
  if (d.s.args.size() != at + 1 + sources + hint) d.unknown("operands");
  const auto item = [&](const ptx::Operand& o, int k) -> const ptx::Operand& {
    if (vector == 1) return o;
    if (o.kind != Kind::vector || o.items.size() != static_cast<size_t>(vector)) d.unknown("a vector is needed");
    return o.items[k];
  };
  std::vector<Place> places;
  for (int k = 0; k < vector; ++k) {
    const bool sink = !returns || d.s.args[0].kind == Kind::sink;
    places.push_back(sink ? kNoPlace : d.dst(item(d.s.args[0], k), form->size));
  }
  for (size_t s = 0; s < 2; ++s)
    for (int k = 0; k < vector; ++k)
      places.push_back(s < sources ? d.src(item(d.s.args[at + 1 + s], k), form->size) : places[vector + k]);
  op.bytes = form->size * vector;
  i.list = d.list(places);
  i.list_size = static_cast<uint16_t>(places.size());
  i.cls = Class::atomic;
  i.imm[0] = returns;
  i.exec = form->exec;
  i.extra = d.keep(op);
}

}  // namespace

void decode_atom(Decoder& d, Inst& i) { decode_atomic(d, i, true); }
void decode_red(Decoder& d, Inst& i) {
  if (!decode_store_async(d, i)) decode_atomic(d, i, false);
}

}  // namespace emu
