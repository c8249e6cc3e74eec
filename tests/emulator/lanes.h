#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "machine.h"

// An instruction as a function of one lane's values: `lanes<[](float a, float b) { return a * b; }>(decoder, inst)`
// decodes destination and sources by the function's signature and makes the handler the loop over 32 lanes.
namespace emu {

/// A predicate's value in one lane.
struct Bit {
  bool set;
};
/// A .b128 register's.
struct Quad {
  uint64_t low, high;
};

template <class T>
inline void put(T* to, const T* from, Mask lanes) {
  if (lanes == kAllLanes) {
    std::memcpy(to, from, kLanes * sizeof(T));
  } else if constexpr (sizeof(T) <= 8) {  // blended by bits: a choice of values would not vectorise for every size
    using U = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
    for (int l = 0; l < kLanes; ++l) {
      const U mask = static_cast<U>(U{0} - static_cast<U>(lanes >> l & 1));
      to[l] = std::bit_cast<T>(static_cast<U>((std::bit_cast<U>(from[l]) & mask) | (std::bit_cast<U>(to[l]) & ~mask)));
    }
  } else {
    for (int l = 0; l < kLanes; ++l) to[l] = lanes >> l & 1 ? from[l] : to[l];
  }
}
inline void put(Mask& to, Mask from, Mask lanes) { to = (to & ~lanes) | (from & lanes); }

namespace detail {
template <class F>
struct Signature : Signature<decltype(&F::operator())> {};
template <class F, class R, class... A>
struct Signature<R (F::*)(A...) const> {
  using Result = R;
  using Values = std::tuple<A...>;
  static constexpr bool with_inst = false;
};
template <class F, class R, class... A>
struct Signature<R (F::*)(const Inst&, A...) const> {
  using Result = R;
  using Values = std::tuple<A...>;
  static constexpr bool with_inst = true;
};

template <class T>
struct Source {
  const T* value;
  Source(Warp& w, const Inst& i, int k) : value(w.at<T>(i.slot[k])) {}
  T operator[](int l) const { return value[l]; }
};
template <>
struct Source<Bit> {  // imm[1], bit k: source k is negated
  Mask value;
  Source(Warp& w, const Inst& i, int k) : value(w.predicate(i.slot[k]) ^ -static_cast<Mask>(i.imm[1] >> k & 1)) {}
  Bit operator[](int l) const { return {(value >> l & 1) != 0}; }
};

template <auto f, class R, class... A, size_t... k>
[[gnu::always_inline]] inline Flow each(Warp& w, const Inst& i, Mask lanes, std::tuple<A...>*,
                                        std::index_sequence<k...>) {
  const std::tuple<Source<A>...> source{Source<A>(w, i, k + 1)...};
  const auto value = [&](int l) [[gnu::always_inline]] {
    if constexpr (Signature<decltype(f)>::with_inst)
      return f(i, std::get<k>(source)[l]...);
    else
      return f(std::get<k>(source)[l]...);
  };
  if constexpr (std::is_same_v<R, Bit>) {
    Mask out = 0;
    for (int l = 0; l < kLanes; ++l) out |= static_cast<Mask>(value(l).set) << l;
    put(w.predicate(i.slot[0]), out, lanes);
  } else {
    alignas(64) R out[kLanes];  // the destination may be a source too: a temporary lets the loop vectorise
    for (int l = 0; l < kLanes; ++l) out[l] = value(l);
    put(w.at<R>(i.slot[0]), out, lanes);
  }
  return Flow::next;
}
}  // namespace detail

/// slot[0] = f(slot[1], slot[2], …) in every lane of the mask. f may take the Inst first, for its immediates.
template <auto f>
Flow each(Warp& w, const Inst& i, Mask lanes) {
  using S = detail::Signature<decltype(f)>;
  using Values = typename S::Values;
  return detail::each<f, typename S::Result>(w, i, lanes, static_cast<Values*>(nullptr),
                                             std::make_index_sequence<std::tuple_size_v<Values>>{});
}

/// Places of operands of type T, whose registers must have T's size; 8-bit values live in 16 bits.
template <class T>
Place source(Decoder& d, const ptx::Operand& o) {
  return d.src(o, std::is_same_v<T, Bit> ? 0 : sizeof(T));
}
template <class T>
Place destination(Decoder& d, const ptx::Operand& o) {
  const Place p = d.dst(o, std::is_same_v<T, Bit> ? 0 : sizeof(T));
  if (p == kNoPlace) d.unknown("no destination");
  return p;
}

/// Decodes the statement's operands by f's signature.
template <auto f>
void lanes(Decoder& d, Inst& i) {
  using S = detail::Signature<decltype(f)>;
  [&]<class... A>(std::tuple<A...>*) {
    if (d.s.args.size() != 1 + sizeof...(A)) d.unknown(std::to_string(1 + sizeof...(A)) + " operands expected");
    i.exec = each<f>;
    i.slot[0] = destination<typename S::Result>(d, d.s.args[0]);
    size_t k = 0;
    ((++k, i.slot[k] = source<A>(d, d.s.args[k]), i.imm[1] |= uint64_t{d.s.args[k].negated} << k), ...);
  }(static_cast<typename S::Values*>(nullptr));
}

/// A statement's modifiers, taken one by one; what nobody took is an error.
class Mods {
 public:
  explicit Mods(Decoder& d) : d(d) {}

  bool take(std::string_view mod) {
    for (size_t k = 0; k < d.s.mods.size(); ++k)
      if (!(used >> k & 1) && d.s.mods[k] == mod) return used |= uint64_t{1} << k, true;
    return false;
  }
  /// Index of the one of `choices` that is present, else `otherwise`.
  int pick(std::initializer_list<std::string_view> choices, int otherwise = -1) {
    int k = 0;
    for (std::string_view c : choices) {
      if (take(c)) return k;
      ++k;
    }
    return otherwise;
  }
  /// The next type, "" if none is left.
  std::string_view type() {
    for (size_t k = 0; k < d.s.mods.size(); ++k)
      if (!(used >> k & 1) && is_type(d.s.mods[k])) return used |= uint64_t{1} << k, std::string_view(d.s.mods[k]);
    return "";
  }
  void done() const {
    for (size_t k = 0; k < d.s.mods.size(); ++k)
      if (!(used >> k & 1)) d.unknown("modifier ." + d.s.mods[k]);
  }

 private:
  static bool is_type(std::string_view m) {
    if (m == "pred" || m == "tf32" || m.substr(0, 4) == "bf16" || m.substr(0, 5) == "ue8m0") return true;
    if (m.size() < 2 || m[1] < '0' || m[1] > '9') return false;
    if (m[0] == 'e') return m.size() > 3 && m[2] == 'm';  // e4m3x2
    return m[0] == 'f' || m[0] == 's' || m[0] == 'u' || m[0] == 'b';
  }
  Decoder& d;
  uint64_t used = 0;
};

}  // namespace emu
