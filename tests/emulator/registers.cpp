#include <algorithm>
#include <functional>
#include <queue>

#include "state.h"

// Where registers lie. PTX has as many as its compiler liked, up to a megabyte and more a warp; those that are never
// alive at once share a place, which brings a warp's file down to about the size of the first cache.
namespace emu {
namespace {

struct Accesses {
  std::vector<uint32_t> uses, kills;  // a kill writes every lane that executes, and does not read
};
struct Virtual {
  std::string_view name;
  int bytes;
  uint32_t first = ~0u, last = 0;  // instructions between which it may be alive
  bool alone = false;
};

class Bits {
 public:
  explicit Bits(size_t n) : words_((n + 63) / 64) {}
  void set(uint32_t i) { words_[i / 64] |= uint64_t{1} << i % 64; }
  void clear(uint32_t i) { words_[i / 64] &= ~(uint64_t{1} << i % 64); }
  bool join(const Bits& other) {
    uint64_t fresh = 0;
    for (size_t i = 0; i < words_.size(); ++i) fresh |= other.words_[i] & ~words_[i], words_[i] |= other.words_[i];
    return fresh != 0;
  }
  template <class F>
  void each(const F& f) const {
    for (size_t i = 0; i < words_.size(); ++i)
      for (uint64_t w = words_[i]; w; w &= w - 1) f(static_cast<uint32_t>(i * 64 + __builtin_ctzll(w)));
  }

 private:
  std::vector<uint64_t> words_;
};

class Placing {
 public:
  Placing(FunctionState& f, Program::State& s) : f_(f), s_(s) {}

  void run() {
    declare();
    read();
    live();
    place();
  }

 private:
  FunctionState& f_;
  Program::State& s_;
  std::vector<Virtual> registers_;
  std::unordered_map<std::string_view, uint32_t> number_;
  std::vector<Accesses> accesses_;

  void declare() {
    const auto add = [&](std::string_view name, std::string_view type) {
      number_.emplace(name, static_cast<uint32_t>(registers_.size()));
      registers_.push_back({name, type == "pred" ? 0 : std::max(ptx::type_bytes(type), 2)});
    };
    for (const ptx::Variable& v : f_.function->variables) {
      if (v.space != "reg") continue;
      if (v.count < 0) add(v.name, v.type);
      for (int64_t i = 0; i < v.count; ++i) {
        auto name = std::make_shared<std::string>(v.name + std::to_string(i));
        add(*name, v.type);
        s_.kept.push_back(std::move(name));
      }
    }
  }

  void collect(const ptx::Operand& o, std::vector<uint32_t>& into) const {
    if (o.kind == ptx::Operand::Kind::reg)
      if (const auto it = number_.find(o.text); it != number_.end()) into.push_back(it->second);
    for (const ptx::Operand& i : o.items) collect(i, into);
  }

  void read() {
    for (const ptx::Statement& st : f_.function->body) {
      Accesses& a = accesses_.emplace_back();
      if (const auto it = number_.find(st.predicate); it != number_.end()) a.uses.push_back(it->second);
      const bool reduces = std::ranges::count(st.mods, "red") != 0;
      const bool reads_first = ((st.op == "bar" || st.op == "barrier") && !reduces) || st.op == "nanosleep" ||
                               st.op == "brx" || st.op == "call" || st.op == "stackrestore" || st.op == "wgmma";
      for (size_t i = 0; i < st.args.size(); ++i) {
        const bool writes = i == 0 && !reads_first && st.args[i].kind != ptx::Operand::Kind::address;
        collect(st.args[i], writes && st.predicate.empty() ? a.kills : a.uses);
      }
      if (st.op == "wgmma")  // reads and writes its registers until the wait
        for (const uint32_t r : a.uses) registers_[r].alone = true;
    }
    accesses_.emplace_back();
  }

  void touch(uint32_t r, uint32_t at) {
    registers_[r].first = std::min(registers_[r].first, at);
    registers_[r].last = std::max(registers_[r].last, at);
  }

  void live() {
    const Flowgraph g = flow_graph(*f_.function);
    const size_t blocks = g.successors.size(), n = registers_.size();
    std::vector<Bits> in(blocks, Bits(n)), out(blocks, Bits(n));
    for (bool again = true; again;) {
      again = false;
      for (size_t b = blocks; b-- > 0;) {
        for (const uint32_t to : g.successors[b]) out[b].join(in[to]);
        Bits alive = out[b];
        for (uint32_t i = g.first[b + 1]; i-- > g.first[b];) {
          for (const uint32_t r : accesses_[i].kills) alive.clear(r);
          for (const uint32_t r : accesses_[i].uses) alive.set(r);
        }
        again = in[b].join(alive) || again;
      }
    }
    in[0].each([&](uint32_t r) { registers_[r].alone = true; });  // perhaps never written: keeps its poison
    for (size_t b = 0; b < blocks; ++b) {
      in[b].each([&](uint32_t r) { touch(r, g.first[b]); });
      out[b].each([&](uint32_t r) { touch(r, g.first[b + 1] - 1); });
    }
    // All that an instruction names is alive at it, so that no result takes the place of an operand.
    for (uint32_t i = 0; i < accesses_.size(); ++i) {
      for (const uint32_t r : accesses_[i].uses) touch(r, i);
      for (const uint32_t r : accesses_[i].kills) touch(r, i);
    }
  }

  void place() {
    std::vector<uint32_t> order;
    for (uint32_t r = 0; r < registers_.size(); ++r)
      if (registers_[r].first != ~0u) order.push_back(r);
    std::ranges::sort(order, {}, [&](uint32_t r) { return std::pair(registers_[r].first, r); });
    for (const int bytes : {0, 2, 4, 8, 16}) {  // predicates first: the others begin on cache lines
      using End = std::pair<uint32_t, Place>;
      std::priority_queue<End, std::vector<End>, std::greater<>> busy;
      std::vector<Place> free;
      for (const uint32_t r : order) {
        const Virtual& v = registers_[r];
        if (v.bytes != bytes) continue;
        for (; !busy.empty() && busy.top().first < v.first; busy.pop()) free.push_back(busy.top().second);
        Place place;
        if (v.alone || free.empty()) {
          place = s_.allocate(bytes);
        } else {
          place = free.back();
          free.pop_back();
        }
        if (!v.alone) busy.push({v.last, place});
        f_.registers[v.name] = {place, bytes};
      }
    }
  }
};

}  // namespace

void place_registers(FunctionState& f, Program::State& s) { Placing(f, s).run(); }

}  // namespace emu
