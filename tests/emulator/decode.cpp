#include <cxxabi.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <unordered_set>

#include "memory.h"
#include "state.h"

namespace emu {

Flow end_of_code(Warp&, const Inst&, Mask);  // control.cpp
bool decode_clock(Decoder&, Inst&);          // control.cpp: mov of %clock and the like

Program::Program() : state(std::make_unique<State>()) {}
Program::~Program() = default;

Place Program::State::allocate(int bytes) {
  const size_t size = bytes == 0 ? sizeof(Mask) : std::max(bytes, 2) * size_t{kLanes};
  const size_t align = bytes == 0 ? sizeof(Mask) : 64;
  const size_t at = (image.size() + align - 1) / align * align;
  image.resize(at + size);
  for (size_t i = 0; i < size; i += 2) std::memcpy(&image[at + i], &kPoison, 2);
  return static_cast<Place>(at);
}

const FunctionState* Program::State::find(std::string_view name) const {
  for (const auto& f : functions)
    if (f->function->name == name) return f.get();
  return nullptr;
}

namespace {

template <class F>
void each_name(const ptx::Operand& o, const F& f) {
  if (o.kind == ptx::Operand::Kind::name) f(o.text);
  for (const ptx::Operand& i : o.items) each_name(i, f);
}

int64_t align_up(int64_t n, int64_t align) { return (n + align - 1) / align * align; }

// The kernel and the functions that it calls, each with its registers and symbols; shared, local and parameter memory.
void lay_out(Program& p, const ptx::Function& kernel) {
  Program::State& s = *p.state;
  std::unordered_map<std::string_view, const ptx::Function*> functions;
  for (const ptx::Function& f : p.module->functions) functions[f.name] = &f;
  std::vector<const ptx::Function*> reached = {&kernel};
  std::unordered_set<std::string_view> used;
  for (size_t i = 0; i < reached.size(); ++i)
    for (const ptx::Statement& st : reached[i]->body)
      for (const ptx::Operand& o : st.args)
        each_name(o, [&](const std::string& name) {
          if (!used.insert(name).second) return;
          const auto f = functions.find(name);
          if (st.op == "call" && f != functions.end() && std::ranges::count(reached, f->second) == 0)
            reached.push_back(f->second);
        });

  uint32_t first = 0;
  int64_t dynamic_align = 0;
  const auto shared = [&](const ptx::Variable& v) {
    p.shared_bytes = align_up(p.shared_bytes, v.align);
    const Symbol symbol{Symbol::Kind::shared, static_cast<uint64_t>(kSharedBase + p.shared_bytes)};
    p.shared_bytes += v.bytes;
    return symbol;
  };
  const auto local = [&](const ptx::Variable& v) {
    p.local_bytes = align_up(p.local_bytes, v.align);
    const Symbol symbol{Symbol::Kind::local, kLocalWindow + static_cast<uint64_t>(p.local_bytes)};
    p.local_bytes += v.bytes;
    return symbol;
  };
  std::unordered_map<std::string_view, Symbol> of_module;
  for (const ptx::Variable& v : p.module->variables) {
    if (v.space == "shared" && used.contains(v.name)) {
      if (v.bytes == 0)
        dynamic_align = std::max(dynamic_align, v.align);
      else if (v.external)
        throw Fault("the shared variable '" + v.name + "' is defined elsewhere");
      else
        of_module[v.name] = shared(v);
    }
  }
  for (const ptx::Function* f : reached) {
    auto state = std::make_unique<FunctionState>();
    state->function = f;
    state->first = first;
    first += static_cast<uint32_t>(f->body.size()) + 1;
    place_registers(*state, s);
    for (const ptx::Variable& v : f->variables) {
      if (v.space == "shared" && v.bytes == 0)
        dynamic_align = std::max(dynamic_align, v.align);
      else if (v.space == "shared")
        state->symbols[v.name] = shared(v);
      else if (v.space == "local" || v.space == "param")
        state->symbols[v.name] = local(v);
      else if (v.space != "reg")
        throw Fault("the variable '" + v.name + "' in ." + v.space + " of a function");
    }
    for (const ptx::Variable& v : f->params) {
      if (f == &kernel) {
        p.param_bytes = align_up(p.param_bytes, v.align);
        state->symbols[v.name] = {Symbol::Kind::param, static_cast<uint64_t>(p.param_bytes)};
        p.param_bytes += v.bytes;
      } else {
        state->symbols[v.name] = local(v);
      }
    }
    for (const ptx::Variable& v : f->returns) state->symbols[v.name] = local(v);
    if (f != &kernel) state->return_pc = s.allocate(4);
    s.functions.push_back(std::move(state));
  }
  if (dynamic_align) p.shared_bytes = align_up(p.shared_bytes, dynamic_align);
  const Symbol dynamic{Symbol::Kind::shared, static_cast<uint64_t>(kSharedBase + p.shared_bytes)};
  for (const auto& state : s.functions) {
    for (const auto& [name, symbol] : of_module) state->symbols.emplace(name, symbol);
    for (const ptx::Variable& v : p.module->variables)
      if (v.space == "shared" && v.bytes == 0) state->symbols.emplace(v.name, dynamic);
    for (const ptx::Variable& v : state->function->variables)
      if (v.space == "shared" && v.bytes == 0) state->symbols[v.name] = dynamic;
  }
  p.local_bytes = align_up(p.local_bytes, 16);
}

using Table = std::unordered_map<std::string_view, void (*)(Decoder&, Inst&)>;
const Table& families() {
  static const Table table = [] {
    Table t;
    for (const Family* f : {kControl, kArithmetic, kConvert, kMemory, kWarp, kMma, kAsync, kWgmma})
      for (; f->op; ++f) t.emplace(f->op, f->decode);
    return t;
  }();
  return table;
}

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status),
                                                    std::free);
  return text ? text.get() : name;
}

std::string key(uint64_t v, int bytes) { return std::to_string(bytes) + ":" + std::to_string(v); }

Place constant(Program& p, uint64_t value, int bytes) {
  auto& s = *p.state;
  if (bytes && bytes < 8) value &= (uint64_t{1} << (8 * bytes)) - 1;
  const auto [it, fresh] = s.constants.try_emplace(key(value, bytes), 0);
  if (!fresh) return it->second;
  const Place place = it->second = s.allocate(bytes);
  const Mask mask = value ? kAllLanes : 0;
  if (bytes == 0) std::memcpy(&s.image[place], &mask, sizeof mask);
  const int stride = std::max(bytes, 2);
  if (bytes == 16) std::memset(&s.image[place], 0, 16 * kLanes);
  if (bytes)
    for (int l = 0; l < kLanes; ++l) std::memcpy(&s.image[place + l * stride], &value, std::min(stride, 8));
  return place;
}

}  // namespace

std::unique_ptr<Program> decode(const ptx::Module& m, const ptx::Function& kernel, const Symbols& globals) {
  auto p = std::make_unique<Program>();
  Program::State& s = *p->state;
  p->module = &m;
  p->function = &kernel;
  s.globals = &globals;
  s.name = demangled(kernel.name);
  lay_out(*p, kernel);
  for (const auto& f : s.functions) {
    s.current = f.get();
    for (const ptx::Statement& st : f->function->body) {
      Decoder d(st, *p);
      Inst in;
      in.line = st.line;
      if (!st.predicate.empty()) {
        const auto it = f->registers.find(st.predicate);
        if (it == f->registers.end() || it->second.bytes != 0) d.unknown("'" + st.predicate + "' is no predicate");
        in.predicate = it->second.place;
        in.predicate_negated = st.predicate_negated;
      }
      if (!decode_clock(d, in)) {
        const auto family = families().find(st.op);
        if (family == families().end()) d.unknown();
        family->second(d, in);
      }
      if (!in.exec) d.unknown("its decoder chose nothing to execute");
      if (in.converge == Converge::member && in.mask_slot == constant(*p, kAllLanes, 4)) in.converge = Converge::all;
      p->code.push_back(in);
    }
    Inst end;
    end.exec = end_of_code;
    end.line = f->function->body.empty() ? f->function->line : f->function->body.back().line;
    end.cls = Class::control;
    p->code.push_back(end);
  }
  order_blocks(*p);
  p->register_bytes = (s.image.size() + 63) / 64 * 64;
  s.image.resize(p->register_bytes);
  return p;
}

bool Decoder::has(std::string_view mod) const { return std::ranges::count(s.mods, mod) != 0; }

std::string_view Decoder::type(int skip) const {
  static const std::unordered_set<std::string_view> others = {
      "e4m3",   "e5m2",   "e4m3x2", "e5m2x2",    "e4m3x4",    "e5m2x4", "tf32",  "ue8m0x2", "e2m1x2",
      "e2m3x2", "e3m2x2", "s4",     "u4",        "b1",        "b4",     "s16x2", "u16x2",   "b16x2",
      "u8x4",   "s8x4",   "f32x2",  "b6x16_p32", "b4x16_p64", "b4x16",  "e2m1",  "e2m3",    "e3m2",
      "ue8m0",  "ue4m3",  "u8x2",   "s8x2",      "b32x2",     "bf16x2", "f16x2"};
  for (const std::string& m : s.mods)
    if ((ptx::type_bytes(m) >= 0 || others.contains(m)) && skip-- == 0) return m;
  return "";
}

void Decoder::unknown(const std::string& why) const {
  throw Fault("PTX line " + std::to_string(s.line) + ": " + (why.empty() ? "not supported" : why) + ": " +
              std::string(ptx::source_line(*program.module, s.line)));
}

namespace {
const Register* find_register(const Program& p, const ptx::Operand& o) {
  if (o.kind != ptx::Operand::Kind::reg) return nullptr;
  const auto& registers = p.state->current->registers;
  const auto it = registers.find(o.text);
  return it == registers.end() ? nullptr : &it->second;
}

Place at_start(Program& p, Program::State::AtStart a) {
  for (const auto& other : p.state->at_start)
    if (other.same(a)) return other.place;
  a.place = p.state->allocate(a.bytes);
  p.state->at_start.push_back(a);
  return a.place;
}

// "%tid.x": false where there is no such register.
bool find_special(std::string_view name, Program::State::AtStart& a) {
  static const std::unordered_map<std::string_view, Special> scalars = {
      {"%laneid", Special::laneid},
      {"%warpid", Special::warpid},
      {"%nwarpid", Special::nwarpid},
      {"%smid", Special::smid},
      {"%nsmid", Special::nsmid},
      {"%gridid", Special::zero},
      {"%lanemask_eq", Special::lanemask_eq},
      {"%lanemask_lt", Special::lanemask_lt},
      {"%lanemask_le", Special::lanemask_le},
      {"%lanemask_gt", Special::lanemask_gt},
      {"%lanemask_ge", Special::lanemask_ge},
      {"%cluster_ctarank", Special::cluster_ctarank},
      {"%cluster_nctarank", Special::cluster_nctarank},
      {"%is_explicit_cluster", Special::is_explicit_cluster},
      {"%dynamic_smem_size", Special::dynamic_smem_size},
      {"%total_smem_size", Special::total_smem_size},
      {"%aggr_smem_size", Special::total_smem_size}};
  static const std::unordered_map<std::string_view, Special> vectors = {{"%tid", Special::tid},
                                                                        {"%ntid", Special::ntid},
                                                                        {"%ctaid", Special::ctaid},
                                                                        {"%nctaid", Special::nctaid},
                                                                        {"%clusterid", Special::clusterid},
                                                                        {"%nclusterid", Special::nclusterid},
                                                                        {"%cluster_ctaid", Special::cluster_ctaid},
                                                                        {"%cluster_nctaid", Special::cluster_nctaid}};
  if (const auto it = scalars.find(name); it != scalars.end()) return a.special = it->second, true;
  if (name.starts_with("%envreg")) return a.special = Special::zero, true;
  const size_t dot = name.find('.');
  if (dot == name.npos || dot + 2 != name.size() || name[dot + 1] < 'x' || name[dot + 1] > 'z') return false;
  const auto it = vectors.find(name.substr(0, dot));
  if (it == vectors.end()) return false;
  a.special = it->second;
  a.component = name[dot + 1] - 'x';
  return true;
}
}  // namespace

int Decoder::reg_bytes(const ptx::Operand& o) {
  const Register* r = find_register(program, o);
  if (!r) unknown("'" + o.text + "' is no register");
  return r->bytes;
}

Place Decoder::dst(const ptx::Operand& o, int bytes) {
  if (o.kind == ptx::Operand::Kind::sink) return kNoPlace;
  const Register* r = find_register(program, o);
  if (!r) unknown("the destination is no register");
  if (bytes >= 0 && r->bytes != (bytes == 1 ? 2 : bytes))
    unknown("'" + o.text + "' has " + std::to_string(r->bytes) + " bytes, not " + std::to_string(bytes));
  return r->place;
}

Place Decoder::src(const ptx::Operand& o, int bytes) {
  int size = bytes;
  const Place place = any_src(o, &size);
  if (o.kind == ptx::Operand::Kind::reg && size != (bytes == 1 ? 2 : bytes))
    unknown("'" + o.text + "' has " + std::to_string(size) + " bytes, not " + std::to_string(bytes));
  return place;
}

Place Decoder::any_src(const ptx::Operand& o, int* bytes) {
  using Kind = ptx::Operand::Kind;
  switch (o.kind) {
    case Kind::reg: {
      if (const Register* r = find_register(program, o)) {
        *bytes = r->bytes;
        return r->place;
      }
      Program::State::AtStart a{kNoPlace, *bytes == 1 ? 2 : *bytes, Special::zero, 0, 0};
      if (!find_special(o.text, a)) unknown("'" + o.text + "' is no register");
      return at_start(program, a);
    }
    case Kind::integer:
      return constant(program, o.bits, *bytes);
    case Kind::real: {
      const double wide = o.wide ? std::bit_cast<double>(o.bits) : std::bit_cast<float>(static_cast<uint32_t>(o.bits));
      if (*bytes == 8) return constant(program, std::bit_cast<uint64_t>(wide), 8);
      if (*bytes != 4) unknown("a real constant of " + std::to_string(*bytes) + " bytes");
      if (!o.wide) return constant(program, o.bits, 4);
      return constant(program, std::bit_cast<uint32_t>(static_cast<float>(wide)), 4);
    }
    case Kind::name: {
      const auto& symbols = program.state->current->symbols;
      if (const auto it = symbols.find(o.text); it != symbols.end()) {
        const uint64_t value = it->second.value + static_cast<uint64_t>(o.offset);
        if (it->second.kind == Symbol::Kind::param)
          return at_start(program, {kNoPlace, *bytes, Special::parameter, 0, value});
        if (*bytes < 8 && it->second.kind != Symbol::Kind::shared) unknown("an address in fewer than 64 bits");
        return constant(program, value, *bytes);
      }
      if (const auto it = program.state->globals->find(o.text); it != program.state->globals->end()) {
        if (*bytes != 8) unknown("an address in fewer than 64 bits");
        return constant(program, reinterpret_cast<uint64_t>(it->second) + static_cast<uint64_t>(o.offset), 8);
      }
      unknown("the name '" + o.text + "'");
    }
    default:
      unknown("an operand that is no value");
  }
}

int Decoder::address_bytes(const ptx::Operand& o) {
  if (o.kind != ptx::Operand::Kind::address) unknown("expected an address");
  return o.items[0].kind == ptx::Operand::Kind::reg ? reg_bytes(o.items[0]) : 8;
}

Place Decoder::address(const ptx::Operand& o) { return src(o.items[0], address_bytes(o)); }

Place Decoder::carry() {
  FunctionState& f = *program.state->current;
  if (f.carry == kNoPlace) f.carry = program.state->allocate(0);
  return f.carry;
}

void Decoder::own(std::shared_ptr<void> p) { program.state->kept.push_back(std::move(p)); }

const Place* Decoder::list(const std::vector<Place>& places) {
  auto copy = std::make_shared<std::vector<Place>>(places);
  program.state->kept.push_back(copy);
  return copy->data();
}

uint32_t Decoder::label(const ptx::Operand& o) {
  const FunctionState& f = *program.state->current;
  const auto it = f.function->labels.find(o.text);
  if (o.kind != ptx::Operand::Kind::name || it == f.function->labels.end()) unknown("the label '" + o.text + "'");
  return f.first + static_cast<uint32_t>(it->second);
}

}  // namespace emu
