#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "memory.h"

namespace emu {
namespace {
Counts g_last;

constexpr const char* kNames[] = {"integer",     "floating",     "half",        "convert",      "special",
                                  "predicate",   "move",         "control",     "barrier",      "shuffle",
                                  "load_global", "store_global", "load_shared", "store_shared", "load_local",
                                  "store_local", "load_param",   "load_const",  "atomic",       "ldmatrix",
                                  "stmatrix",    "mma",          "wgmma",       "cp_async",     "bulk",
                                  "tensor",      "mbarrier",     "fence",       "other"};
static_assert(std::size(kNames) == static_cast<size_t>(Class::count_));

struct Sum {
  const char* name;
  uint64_t Counts::* member;
};
constexpr Sum kSums[] = {{"lane_instructions", &Counts::lane_instructions},
                         {"shared_requests", &Counts::shared_requests},
                         {"shared_wavefronts", &Counts::shared_wavefronts},
                         {"shared_ideal", &Counts::shared_ideal},
                         {"global_requests", &Counts::global_requests},
                         {"global_sectors", &Counts::global_sectors},
                         {"global_bytes", &Counts::global_bytes},
                         {"tensor_flops", &Counts::tensor_flops},
                         {"bulk_bytes", &Counts::bulk_bytes},
                         {"cp_async_bytes", &Counts::cp_async_bytes}};

std::string triple(const char* name, const Dim3& d) {
  return std::string("\"") + name + "\": [" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " +
         std::to_string(d.z) + "], ";
}
}  // namespace

Counts& counts() {
  thread_local Counts c;
  return c;
}

const Counts& last_counts() { return g_last; }

std::string to_json(const Counts& c) {
  std::string out;
  for (size_t i = 0; i < std::size(kNames); ++i)
    out += std::string("\"") + kNames[i] + "\": " + std::to_string(c.warp_instructions[i]) + ", ";
  for (const Sum& s : kSums) out += std::string("\"") + s.name + "\": " + std::to_string(c.*s.member) + ", ";
  out.resize(out.size() - 2);
  return out;
}

void keep_counts(const Grid& g, const std::vector<Counts>& workers) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  g_last = {};
  for (const Counts& c : workers) {
    for (size_t i = 0; i < std::size(kNames); ++i) g_last.warp_instructions[i] += c.warp_instructions[i];
    for (const Sum& s : kSums) g_last.*s.member += c.*s.member;
  }
  const char* path = std::getenv("SACCADE_EMULATOR_COUNTS");
  if (!path || !*path) return;
  std::FILE* f = std::fopen(path, "a");
  if (!f) throw Fault(std::string("SACCADE_EMULATOR_COUNTS: cannot write ") + path);
  const std::string line = "{\"kernel\": \"" + g.program->function->name + "\", " + triple("grid", g.grid) +
                           triple("block", g.block) + triple("cluster", g.cluster) + to_json(g_last) + "}\n";
  const bool written = std::fwrite(line.data(), 1, line.size(), f) == line.size();
  if (std::fclose(f) != 0 || !written) throw Fault(std::string("SACCADE_EMULATOR_COUNTS: cannot write ") + path);
}

}  // namespace emu
