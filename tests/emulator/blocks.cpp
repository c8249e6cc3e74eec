#include <algorithm>

#include "state.h"

// Basic blocks and the order in which diverged groups execute them: reverse post-order, in which a loop's blocks come
// together and before what follows the loop, so that lanes leaving a loop early wait behind it.
namespace emu {
namespace {
using Blocks = std::vector<std::vector<uint32_t>>;

bool ends_block(const ptx::Statement& s) {
  return s.op == "bra" || s.op == "brx" || s.op == "call" || s.op == "ret" || s.op == "exit" || s.op == "trap";
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

Flowgraph flow_graph(const ptx::Function& f) {
  const auto n = static_cast<uint32_t>(f.body.size()) + 1;
  std::vector<uint8_t> leader(n + 1);
  leader[0] = leader[n] = 1;
  for (const auto& [name, at] : f.labels) leader[at] = 1;
  for (uint32_t i = 0; i + 1 < n; ++i)
    if (ends_block(f.body[i])) leader[i + 1] = 1;
  Flowgraph g;
  std::vector<uint32_t> block_of(n);
  for (uint32_t i = 0; i < n; ++i) {
    if (leader[i]) g.first.push_back(i);
    block_of[i] = static_cast<uint32_t>(g.first.size()) - 1;
  }
  const auto blocks = static_cast<uint32_t>(g.first.size());
  g.first.push_back(n);
  g.successors.resize(blocks);
  for (uint32_t b = 0; b < blocks; ++b) {
    const uint32_t last = g.first[b + 1] - 1;
    if (last + 1 == n) continue;
    const ptx::Statement& s = f.body[last];
    const auto edge = [&](uint32_t to) {
      if (std::ranges::count(g.successors[b], block_of[to]) == 0) g.successors[b].push_back(block_of[to]);
    };
    const auto target = [&](const std::string& label) {
      if (const auto it = f.labels.find(label); it != f.labels.end()) edge(static_cast<uint32_t>(it->second));
    };
    if (s.op == "bra" && !s.args.empty()) target(s.args[0].text);
    if (s.op == "brx" && s.args.size() == 2)
      if (const auto it = f.branch_targets.find(s.args[1].text); it != f.branch_targets.end())
        for (const std::string& label : it->second) target(label);
    if (!s.predicate.empty() || !ends_block(s) || s.op == "call") edge(last + 1);
  }
  return g;
}

void order_blocks(Program& p) {
  Program::State& s = *p.state;
  Blocks successors;
  std::vector<uint32_t> entries;
  for (const auto& f : s.functions) {  // a callee's blocks are ordered by themselves, before its callers'
    const Flowgraph g = flow_graph(*f->function);
    const auto base = static_cast<uint32_t>(s.blocks.size());
    entries.push_back(base);
    for (size_t b = 0; b < g.successors.size(); ++b) {
      s.blocks.push_back({f->first + g.first[b], f->first + g.first[b + 1], 0});
      s.block_of.resize(f->first + g.first[b + 1], static_cast<uint32_t>(s.blocks.size()) - 1);
      successors.push_back(g.successors[b]);
      for (uint32_t& to : successors.back()) to += base;
    }
  }
  const size_t count = s.blocks.size();
  Blocks predecessors(count);
  for (uint32_t b = 0; b < count; ++b)
    for (const uint32_t to : successors[b]) predecessors[to].push_back(b);

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
  for (const uint32_t b : entries) visit(b);
  for (uint32_t b = 0; b < count; ++b) visit(b);
}

}  // namespace emu
