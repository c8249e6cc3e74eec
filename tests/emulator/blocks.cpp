#include <algorithm>
#include <functional>

#include "state.h"

// Basic blocks and the order in which diverged groups execute them: reverse post-order, in which a loop's blocks come
// together and before what follows the loop, so that lanes leaving a loop early wait behind it.
namespace emu {
namespace {
using Blocks = std::vector<std::vector<uint32_t>>;

bool ends_block(const ptx::Statement* s) {
  if (!s) return true;
  return s->op == "bra" || s->op == "brx" || s->op == "call" || s->op == "ret" || s->op == "exit" || s->op == "trap";
}

// Sets of the loops each block is in: headers of the natural loops of the back edges.
Blocks loops(const Blocks& successors, const Blocks& predecessors) {
  const size_t n = successors.size();
  Blocks in(n);
  std::vector<uint8_t> mark(n);  // 1: on the path from the entry, 2: done
  struct Frame {
    uint32_t block;
    size_t next;
  };
  std::vector<std::pair<uint32_t, uint32_t>> back;
  for (uint32_t root = 0; root < n; ++root) {
    if (mark[root]) continue;
    std::vector<Frame> stack = {{root, 0}};
    mark[root] = 1;
    while (!stack.empty()) {
      Frame& f = stack.back();
      if (f.next == successors[f.block].size()) {
        mark[f.block] = 2;
        stack.pop_back();
        continue;
      }
      const uint32_t to = successors[f.block][f.next++];
      if (mark[to] == 1) back.push_back({f.block, to});
      if (mark[to] == 0) {
        mark[to] = 1;
        stack.push_back({to, 0});
      }
    }
  }
  for (const auto& [from, header] : back) {
    std::vector<uint32_t> work = {from};
    const auto add = [&](uint32_t b) {
      if (std::ranges::count(in[b], header)) return false;
      in[b].push_back(header);
      return true;
    };
    add(header);
    while (!work.empty()) {
      const uint32_t b = work.back();
      work.pop_back();
      if (b == header || !add(b)) continue;
      for (const uint32_t p : predecessors[b]) work.push_back(p);
    }
  }
  return in;
}
}  // namespace

void order_blocks(Program& p, const std::vector<const ptx::Statement*>& statements) {
  Program::State& s = *p.state;
  const size_t n = statements.size();
  const auto function_of = [&](uint32_t pc) -> const FunctionState& {
    const FunctionState* found = nullptr;
    for (const auto& f : s.functions)
      if (f->first <= pc) found = f.get();
    return *found;
  };
  std::vector<uint8_t> leader(n + 1);
  leader[0] = leader[n] = 1;
  for (const auto& f : s.functions) {
    leader[f->first] = 1;
    for (const auto& [name, at] : f->function->labels) leader[f->first + at] = 1;
  }
  for (uint32_t i = 0; i < n; ++i)
    if (ends_block(statements[i])) leader[i + 1] = 1;
  s.block_of.resize(n);
  for (uint32_t i = 0; i < n; ++i) {
    if (leader[i]) s.blocks.push_back({i, i, 0});
    s.block_of[i] = static_cast<uint32_t>(s.blocks.size()) - 1;
    s.blocks.back().end = i + 1;
  }

  const size_t count = s.blocks.size();
  Blocks successors(count), predecessors(count);
  const auto edge = [&](uint32_t from, uint32_t to) {
    if (std::ranges::count(successors[from], s.block_of[to])) return;
    successors[from].push_back(s.block_of[to]);
    predecessors[s.block_of[to]].push_back(from);
  };
  for (uint32_t b = 0; b < count; ++b) {
    const uint32_t last = s.blocks[b].end - 1;
    const ptx::Statement* st = statements[last];
    if (!st) continue;
    const FunctionState& f = function_of(last);
    const auto target = [&](const std::string& label) {
      if (const auto it = f.function->labels.find(label); it != f.function->labels.end())
        edge(b, f.first + static_cast<uint32_t>(it->second));
    };
    bool falls = !st->predicate.empty() || !ends_block(st);
    if (st->op == "bra") target(st->args[0].text);
    if (st->op == "brx")
      if (const auto it = f.function->branch_targets.find(st->args[1].text); it != f.function->branch_targets.end())
        for (const std::string& label : it->second) target(label);
    if (st->op == "call") {
      falls = true;  // the callee's blocks are ordered by themselves, before the kernel's
    }
    if (falls && last + 1 < n) edge(b, last + 1);
  }

  const Blocks in = loops(successors, predecessors);
  const auto shared_loops = [&](uint32_t a, uint32_t b) {
    return std::ranges::count_if(in[a], [&](uint32_t h) { return std::ranges::count(in[b], h) != 0; });
  };
  for (uint32_t b = 0; b < count; ++b)  // visited last: comes first
    std::ranges::stable_sort(successors[b],
                             [&](uint32_t x, uint32_t y) { return shared_loops(b, x) < shared_loops(b, y); });
  std::vector<uint8_t> seen(count);
  uint32_t order = static_cast<uint32_t>(count);
  const auto visit = [&](uint32_t root) {
    if (seen[root]) return;
    std::vector<std::pair<uint32_t, size_t>> stack = {{root, 0}};
    seen[root] = 1;
    while (!stack.empty()) {
      const uint32_t block = stack.back().first;
      if (stack.back().second == successors[block].size()) {
        s.blocks[block].order = --order;
        stack.pop_back();
        continue;
      }
      const uint32_t to = successors[block][stack.back().second++];
      if (!seen[to]) {
        seen[to] = 1;
        stack.push_back({to, 0});
      }
    }
  };
  for (const auto& f : s.functions) visit(s.block_of[f->first]);
  for (uint32_t b = 0; b < count; ++b) visit(b);
}

}  // namespace emu
