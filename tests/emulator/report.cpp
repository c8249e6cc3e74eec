#include <bit>

#include "state.h"

// Where warps and lanes stand, in words.
namespace emu {

std::string barrier_state(const Warp&, Mask);  // barrier.cpp
std::string mbarrier_state(const Warp&);       // mbarrier.cpp

namespace {
std::string coordinates(const Dim3& d) {
  return std::string("(") + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}
std::string line_text(const Program& p, int line) {
  return "line " + std::to_string(line) + ": " + std::string(ptx::source_line(*p.module, line));
}
}  // namespace

std::string lanes_text(Mask m) {
  if (m == kAllLanes) return "all lanes";
  std::string out;
  for (int l = 0; l < kLanes; ++l) {
    if (!(m >> l & 1)) continue;
    int last = l;
    while (last + 1 < kLanes && (m >> (last + 1) & 1)) ++last;
    out += (out.empty() ? "" : ", ") + std::to_string(l) + (last > l ? std::string("-") + std::to_string(last) : "");
    l = last;
  }
  return (std::popcount(m) == 1 ? "lane " : "lanes ") + out;
}

std::string standing(const Warp& w) {
  const Warp::State& s = *w.state;
  std::string out;
  for (int i = 0; i < s.count; ++i) {
    const Group& g = s.groups[i];
    const Inst& in = s.program->code[g.pc];
    out += "\n  CTA " + coordinates(w.cta->id) + ", warp " + std::to_string(w.index) + ", " + lanes_text(g.mask) +
           ", " + line_text(*s.program, in.line);
    if (g.waits == Waits::converge) out += " [waits for lanes of its warp]";
    if (g.waits == Waits::handler) out += " [waits" + barrier_state(w, g.mask) + "]";
  }
  if (s.count) out += mbarrier_state(w);
  return out;
}

std::string where(const Warp& w, const Inst& in, int lane) {
  const Program& p = *w.state->program;
  return p.state->name + ", CTA " + coordinates(w.cta->id) + ", warp " + std::to_string(w.index) +
         (lane >= 0 ? ", lane " + std::to_string(lane) : "") + ", " + line_text(p, in.line);
}

}  // namespace emu
