#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <optional>

#include "memory.h"
#include "state.h"

// Branches, calls, the ends of lanes, barriers of a CTA and of a cluster.
namespace emu {

Flow end_of_code(Warp& w, const Inst& in, Mask) { throw Fault("the code ends without ret or exit: " + where(w, in)); }

namespace {

Flow jump(Warp& w, Mask lanes, uint32_t to) {
  Group& g = w.state->group();
  const uint32_t from = w.pc;
  if (to <= from && w.state->count > 1) ++g.spins;
  if (lanes == g.mask) {
    g.pc = to;
  } else {
    g.pc = from + 1;
    w.state->move(lanes, to);
  }
  return Flow::jump;
}

Flow branch(Warp& w, const Inst& in, Mask lanes) { return jump(w, lanes, static_cast<uint32_t>(in.imm[0])); }

Flow branch_uniform(Warp& w, const Inst& in, Mask lanes) {
  if (strict().collectives && lanes != active(w)) throw Fault("bra.uni that not all lanes take: " + where(w, in));
  return jump(w, lanes, static_cast<uint32_t>(in.imm[0]));
}

void decode_bra(Decoder& d, Inst& in) {
  in.cls = Class::control;
  in.exec = d.has("uni") ? branch_uniform : branch;
  in.imm[0] = d.label(d.s.args.at(0));
}

// Each lane to a place of its own.
template <class F>
Flow scatter(Warp& w, Mask lanes, const F& target) {
  Group& g = w.state->group();
  g.pc = w.pc + 1;
  while (lanes) {
    const uint32_t to = target(std::countr_zero(lanes));
    Mask same = 0;
    for (int l = 0; l < kLanes; ++l)
      if ((lanes >> l & 1) && target(l) == to) same |= Mask{1} << l;
    lanes &= ~same;
    if (to <= w.pc && w.state->count > 1) ++g.spins;
    w.state->move(same, to);
  }
  return Flow::jump;
}

Flow branch_indexed(Warp& w, const Inst& in, Mask lanes) {
  const uint32_t* index = w.at<uint32_t>(in.slot[0]);
  const auto* targets = static_cast<const uint32_t*>(in.extra);
  for (int l = 0; l < kLanes; ++l)
    if ((lanes >> l & 1) && index[l] >= in.imm[0])
      throw Fault("brx.idx: the index " + std::to_string(index[l]) + " is outside the list: " + where(w, in, l));
  return scatter(w, lanes, [&](int l) { return targets[index[l]]; });
}

void decode_brx(Decoder& d, Inst& in) {
  const FunctionState& f = *d.program.state->current;
  if (d.s.args.size() != 2) d.unknown();
  const auto it = f.function->branch_targets.find(d.s.args[1].text);
  if (it == f.function->branch_targets.end()) d.unknown("a list of targets of that name");
  std::vector<uint32_t> targets;
  for (const std::string& name : it->second) {
    const auto label = f.function->labels.find(name);
    if (label == f.function->labels.end()) d.unknown("the label '" + name + "'");
    targets.push_back(f.first + static_cast<uint32_t>(label->second));
  }
  in.cls = Class::control;
  in.exec = branch_indexed;
  in.slot[0] = d.src(d.s.args[0], 4);
  in.imm[0] = targets.size();
  in.extra = d.keep(std::move(targets))->data();
}

void leave(Warp& w, Mask lanes) {
  w.alive &= ~lanes;
  Warp::State& s = *w.state;
  s.group().mask &= ~lanes;
  s.group().pc = w.pc + 1;
  for (int i = 0; i < s.count; ++i)
    if (s.groups[i].waits == Waits::converge) s.groups[i].waits = Waits::no;  // perhaps for these lanes
  if (!s.group().mask) s.groups[s.running] = s.groups[--s.count];
}

// Parameters of calls lie in local memory; recursion does not exist, so every function has them in one place.
struct Copy {
  int64_t from, to, bytes;
};
struct Call {
  uint32_t target = 0;
  Place return_pc = kNoPlace;
  std::vector<Copy> before, after;
};

void copy(Warp& w, Mask lanes, const std::vector<Copy>& list) {
  for (const Copy& c : list)
    for (int l = 0; l < kLanes; ++l)
      if (lanes >> l & 1) std::memmove(local(w, l) + c.to, local(w, l) + c.from, c.bytes);
}

Flow call(Warp& w, const Inst& in, Mask lanes) {
  const auto& c = *static_cast<const Call*>(in.extra);
  copy(w, lanes, c.before);
  uint32_t* back = w.at<uint32_t>(c.return_pc);
  for (int l = 0; l < kLanes; ++l)
    if (lanes >> l & 1) back[l] = w.pc + 1;
  Group& g = w.state->group();
  g.pc = w.pc + 1;
  w.state->move(lanes, c.target);
  return Flow::jump;
}

void decode_call(Decoder& d, Inst& in) {
  const Program::State& s = *d.program.state;
  const FunctionState& caller = *s.current;
  const FunctionState* callee = s.find(d.s.args[1].text);
  if (!callee && decode_system_call(d, in)) return;
  if (!callee) d.unknown("a call of what is not defined in this module, or through a register");
  Call c;
  c.target = callee->first;
  c.return_pc = callee->return_pc;
  const auto offset = [&](const FunctionState& f, const std::string& name) {
    const auto it = f.symbols.find(name);
    if (it == f.symbols.end() || it->second.kind != Symbol::Kind::local) d.unknown("the argument '" + name + "'");
    return static_cast<int64_t>(it->second.value - kLocalWindow);
  };
  const auto& returns = callee->function->returns;
  const auto& params = callee->function->params;
  if (d.s.args[0].items.size() != returns.size() || d.s.args[2].items.size() != params.size())
    d.unknown("another number of arguments than the function has");
  for (size_t i = 0; i < params.size(); ++i)
    c.before.push_back({offset(caller, d.s.args[2].items[i].text), offset(*callee, params[i].name), params[i].bytes});
  // The result's copy is the callee's own: made by an instruction behind the call would cost one; ret does it.
  for (size_t i = 0; i < returns.size(); ++i)
    c.after.push_back({offset(*callee, returns[i].name), offset(caller, d.s.args[0].items[i].text), returns[i].bytes});
  in.cls = Class::control;
  in.exec = call;
  in.extra = d.keep(std::move(c));
}

Flow exit(Warp& w, const Inst&, Mask lanes) {
  leave(w, lanes);
  return Flow::jump;
}

Flow return_(Warp& w, const Inst& in, Mask lanes) {
  const uint32_t* back = w.at<uint32_t>(in.slot[0]);
  const auto& code = w.state->program->code;
  for (int l = 0; l < kLanes; ++l)
    if (lanes >> l & 1) copy(w, Mask{1} << l, static_cast<const Call*>(code[back[l] - 1].extra)->after);
  return scatter(w, lanes, [&](int l) { return back[l]; });
}

void decode_ret(Decoder& d, Inst& in) {
  const FunctionState& f = *d.program.state->current;
  in.cls = Class::control;
  in.exec = f.return_pc == kNoPlace ? exit : return_;
  in.slot[0] = f.return_pc;
}

void decode_exit(Decoder&, Inst& in) {
  in.cls = Class::control;
  in.exec = exit;
}

Flow trap(Warp& w, const Inst& in, Mask lanes) { throw Fault("trap: " + where(w, in, std::countr_zero(lanes))); }

void decode_trap(Decoder&, Inst& in) {
  in.cls = Class::control;
  in.exec = trap;
}

Flow nothing(Warp&, const Inst&, Mask) { return Flow::next; }
Flow pause(Warp&, const Inst&, Mask) { return Flow::yield; }

void decode_nanosleep(Decoder& d, Inst& in) {
  d.src(d.s.args.at(0), 4);
  in.cls = Class::control;
  in.exec = pause;
}

void decode_griddepcontrol(Decoder& d, Inst& in) {  // the grid before has ended: launches are synchronous
  if (!d.has("launch_dependents") && !d.has("wait")) d.unknown();
  in.cls = Class::control;
  in.exec = nothing;
}

void decode_pmevent(Decoder&, Inst& in) {
  in.cls = Class::control;
  in.exec = nothing;
}

template <int Bytes>
Flow clock(Warp& w, const Inst& in, Mask lanes) {
  const auto now = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) >> in.imm[0];
  for (int l = 0; l < kLanes; ++l)
    if (lanes >> l & 1) std::memcpy(w.at<std::byte>(in.slot[0]) + l * Bytes, &now, Bytes);
  return Flow::next;
}

}  // namespace

bool decode_clock(Decoder& d, Inst& in) {
  if (d.s.op != "mov" || d.s.args.size() != 2 || d.s.args[1].kind != ptx::Operand::Kind::reg) return false;
  const std::string& name = d.s.args[1].text;
  if (name != "%clock" && name != "%clock64" && name != "%clock_hi" && name != "%globaltimer" &&
      name != "%globaltimer_lo" && name != "%globaltimer_hi")
    return false;
  const int bytes = d.reg_bytes(d.s.args[0]);
  if (bytes != 4 && bytes != 8) d.unknown();
  in.cls = Class::move;
  in.slot[0] = d.dst(d.s.args[0]);
  in.imm[0] = name.ends_with("_hi") ? 32 : 0;
  in.exec = bytes == 4 ? clock<4> : clock<8>;
  return true;
}

void decode_bar(Decoder&, Inst&);         // barrier.cpp
void decode_barrier(Decoder&, Inst&);     // barrier.cpp
void decode_setmaxnreg(Decoder&, Inst&);  // barrier.cpp

extern const Family kControl[] = {{"bra", decode_bra},
                                  {"brx", decode_brx},
                                  {"call", decode_call},
                                  {"ret", decode_ret},
                                  {"exit", decode_exit},
                                  {"trap", decode_trap},
                                  {"brkpt", decode_trap},
                                  {"nanosleep", decode_nanosleep},
                                  {"griddepcontrol", decode_griddepcontrol},
                                  {"pmevent", decode_pmevent},
                                  {"bar", decode_bar},
                                  {"barrier", decode_barrier},
                                  {"setmaxnreg", decode_setmaxnreg},
                                  {nullptr, nullptr}};

}  // namespace emu
