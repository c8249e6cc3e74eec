#include <bit>
#include <cstdio>
#include <cstring>

#include "memory.h"
#include "state.h"

// The functions that a device brings: assert() is a finding, printf() prints.
namespace emu {
namespace {

struct Arguments {
  int64_t at[3] = {};  // in local memory
};

template <class T>
T argument(Warp& w, int lane, int64_t at) {
  T value;
  std::memcpy(&value, local(w, lane) + at, sizeof value);
  return value;
}
const char* text(Warp& w, int lane, int64_t at) {
  return reinterpret_cast<const char*>(argument<uint64_t>(w, lane, at));
}

// message, file, line, function, size of a character
Flow assertion(Warp& w, const Inst& in, Mask lanes) {
  const auto& a = *static_cast<const Arguments*>(in.extra);
  const int lane = std::countr_zero(lanes);
  throw Fault(std::string("assertion failed: ") + text(w, lane, a.at[0]) + " (" + text(w, lane, a.at[1]) + ":" +
              std::to_string(argument<uint32_t>(w, lane, a.at[2])) + "): " + where(w, in, lane));
}

/// The format's values lie one behind the other, each aligned to its size of 4 or 8.
std::string formatted(Warp& w, const Inst& in, int lane, const char* format, uint64_t values) {
  std::string out;
  uint64_t at = 0;
  const auto next = [&](uint64_t bytes) {
    at = (at + bytes - 1) / bytes * bytes;
    uint64_t v = 0;
    if (values < kLocalWindow) throw Fault("printf: its values are not in local memory: " + where(w, in, lane));
    std::memcpy(&v, local(w, lane) + (values - kLocalWindow) + at, bytes);
    at += bytes;
    return v;
  };
  while (*format) {
    if (*format != '%') {
      out += *format++;
      continue;
    }
    std::string spec;
    bool wide = false;
    do {
      if (*format == '*')
        spec += std::to_string(static_cast<int32_t>(next(4)));
      else if (std::strchr("lzjt", *format))
        wide = true;
      else if (*format != 'h')
        spec += *format;
      ++format;
    } while (*format && !std::strchr("diouxXcsfFeEgGaAp%", *format));
    const char kind = *format ? *format++ : '%';
    char text[512] = "";
    if (kind == '%') {
      out += '%';
      continue;
    }
    const auto print = [&](const char* length, auto value) {
      std::snprintf(text, sizeof text, (spec + length + kind).c_str(), value);
    };
    if (std::strchr("fFeEgGaA", kind))
      print("", std::bit_cast<double>(next(8)));
    else if (kind == 's')
      print("", reinterpret_cast<const char*>(next(8)));
    else if (kind == 'p')
      print("", reinterpret_cast<void*>(next(8)));
    else if (wide)
      print("ll", static_cast<long long>(next(8)));
    else
      print("", static_cast<int>(next(4)));
    out += text;
  }
  return out;
}

Flow print(Warp& w, const Inst& in, Mask lanes) {
  const auto& a = *static_cast<const Arguments*>(in.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int lane = std::countr_zero(m);
    const std::string line = formatted(w, in, lane, text(w, lane, a.at[0]), argument<uint64_t>(w, lane, a.at[1]));
    std::fputs(line.c_str(), stdout);
    const auto count = static_cast<int32_t>(line.size());
    std::memcpy(local(w, lane) + a.at[2], &count, sizeof count);
  }
  return Flow::next;
}

}  // namespace

bool decode_system_call(Decoder& d, Inst& in) {
  Arguments a;
  int count = 0;
  const auto take = [&](const ptx::Operand& list, size_t n) {
    const auto& symbols = d.program.state->current->symbols;
    if (list.items.size() < n) d.unknown("arguments");
    for (size_t i = 0; i < n; ++i) {
      const auto it = symbols.find(list.items[i].text);
      if (it == symbols.end() || it->second.kind != Symbol::Kind::local) d.unknown("an argument");
      a.at[count++] = static_cast<int64_t>(it->second.value - kLocalWindow);
    }
  };
  const auto& args = d.s.args;
  if (args.size() != 3) return false;
  if (args[1].text == "__assertfail") {
    take(args[2], 3);
    in.exec = assertion;
  } else if (args[1].text == "vprintf") {
    take(args[2], 2);
    take(args[0], 1);
    in.exec = print;
  } else {
    return false;
  }
  in.cls = Class::control;
  in.extra = d.keep(a);
  return true;
}

}  // namespace emu
