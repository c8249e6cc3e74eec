#include "machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "memory.h"
#include "runner.h"
#include "runtime.h"

namespace emu {

void keep_counts(const Grid&, const std::vector<Counts>&);  // counts.cpp

Mask active(const Warp& w) { return w.state->group().mask; }
std::byte* local(Warp& w, int lane) { return w.state->local + lane * w.state->program->local_bytes; }

void Warp::State::move(Mask lanes, uint32_t pc) {
  Group& g = group();
  if (g.mask == lanes) {
    g.pc = pc;
    return;
  }
  g.mask &= ~lanes;
  groups[count++] = {pc, lanes, 0, Waits::no};
}

namespace {

constexpr int kSameStates = 4;
constexpr size_t kReport = 12'000;  // characters of a report; a grid has more warps than anybody reads

struct Resident {
  Cluster cluster;
  std::vector<Warp*> warps;
  std::unique_ptr<std::byte[]> registers, locals;
  std::vector<Warp::State> states;
  int unfinished = 0;
};

uint64_t special(const Program::State::AtStart& a, const Grid& g, const Cta& c, const Warp& w, uint32_t lane) {
  const auto component = [&](const Dim3& d) { return a.component == 0 ? d.x : a.component == 1 ? d.y : d.z; };
  const uint32_t thread = w.index * kLanes + lane;
  const Mask eq = Mask{1} << lane;
  const Dim3 clusters{g.grid.x / g.cluster.x, g.grid.y / g.cluster.y, g.grid.z / g.cluster.z};
  switch (a.special) {
    case Special::parameter:
      return reinterpret_cast<uint64_t>(g.params.data()) + a.offset;
    case Special::tid:
      return component({thread % g.block.x, thread / g.block.x % g.block.y, thread / (g.block.x * g.block.y)});
    case Special::ntid:
      return component(g.block);
    case Special::ctaid:
      return component(c.id);
    case Special::nctaid:
      return component(g.grid);
    case Special::laneid:
      return lane;
    case Special::warpid:
      return w.index;
    case Special::nwarpid:
      return c.warps.size();
    case Special::smid:
      return linear(c.cluster->id, clusters) % std::max(1, device().sms);
    case Special::nsmid:
      return device().sms;
    case Special::lanemask_eq:
      return eq;
    case Special::lanemask_lt:
      return eq - 1;
    case Special::lanemask_le:
      return eq | (eq - 1);
    case Special::lanemask_gt:
      return ~(eq | (eq - 1));
    case Special::lanemask_ge:
      return ~(eq - 1);
    case Special::clusterid:
      return component(c.cluster->id);
    case Special::nclusterid:
      return component(clusters);
    case Special::cluster_ctaid:
      return component({c.id.x % g.cluster.x, c.id.y % g.cluster.y, c.id.z % g.cluster.z});
    case Special::cluster_nctaid:
      return component(g.cluster);
    case Special::cluster_ctarank:
      return c.rank;
    case Special::cluster_nctarank:
      return uint64_t{g.cluster.x} * g.cluster.y * g.cluster.z;
    case Special::is_explicit_cluster:
      return g.explicit_cluster;
    case Special::dynamic_smem_size:
      return g.dynamic_shared;
    case Special::total_smem_size:
      return g.program->shared_bytes + g.dynamic_shared;
    case Special::zero:
      break;
  }
  return 0;
}

std::unique_ptr<Resident> start(Grid& g, uint64_t index) {
  auto r = std::make_unique<Resident>();
  Program& p = *g.program;
  const Dim3 clusters{g.grid.x / g.cluster.x, g.grid.y / g.cluster.y, g.grid.z / g.cluster.z};
  Cluster& cluster = r->cluster;
  cluster.grid = &g;
  cluster.id = {static_cast<uint32_t>(index % clusters.x), static_cast<uint32_t>(index / clusters.x % clusters.y),
                static_cast<uint32_t>(index / (uint64_t{clusters.x} * clusters.y))};
  const uint32_t threads = g.block.x * g.block.y * g.block.z;
  const int warps = (threads + kLanes - 1) / kLanes;
  const uint32_t ctas = g.cluster.x * g.cluster.y * g.cluster.z;
  const size_t all = size_t{ctas} * warps;
  r->registers = std::make_unique_for_overwrite<std::byte[]>(all * p.register_bytes + 64);
  const auto base = (reinterpret_cast<uintptr_t>(r->registers.get()) + 63) / 64 * 64;
  const size_t local_bytes = p.local_bytes * kLanes;
  if (local_bytes) {
    r->locals = std::make_unique_for_overwrite<std::byte[]>(all * local_bytes);
    for (size_t i = 0; i < all * local_bytes; i += 2) std::memcpy(&r->locals[i], &kPoison, 2);
  }
  r->states.resize(all);
  for (uint32_t rank = 0; rank < ctas; ++rank) {
    auto cta = std::make_unique<Cta>();
    cta->cluster = &cluster;
    cta->rank = rank;
    cta->id = {cluster.id.x * g.cluster.x + rank % g.cluster.x,
               cluster.id.y * g.cluster.y + rank / g.cluster.x % g.cluster.y,
               cluster.id.z * g.cluster.z + rank / (g.cluster.x * g.cluster.y)};
    cta->shared.resize(p.shared_bytes + g.dynamic_shared);
    for (size_t i = 0; i + 1 < cta->shared.size(); i += 2) std::memcpy(&cta->shared[i], &kPoison, 2);
    cta->warps.resize(warps);
    for (int i = 0; i < warps; ++i) {
      Warp& w = cta->warps[i];
      const size_t n = size_t{rank} * warps + i;
      w.regs = reinterpret_cast<std::byte*>(base + n * p.register_bytes);
      w.cta = cta.get();
      w.index = i;
      const uint32_t lanes = std::min<uint32_t>(kLanes, threads - i * kLanes);
      w.alive = lanes == kLanes ? kAllLanes : (Mask{1} << lanes) - 1;
      w.state = &r->states[n];
      w.state->program = &p;
      w.state->local = r->locals.get() + n * local_bytes;
      w.state->groups[0] = {0, w.alive, 0, Waits::no};
      w.state->count = 1;
      std::memcpy(w.regs, p.state->image.data(), p.register_bytes);
      for (const auto& a : p.state->at_start)
        for (int l = 0; l < kLanes; ++l) {
          const uint64_t v = special(a, g, *cta, w, l);
          if (a.bytes == 0)
            w.predicate(a.place) = (w.predicate(a.place) & ~(Mask{1} << l)) | (v != 0 ? Mask{1} << l : 0);
          else
            std::memcpy(w.regs + a.place + l * a.bytes, &v, std::min(a.bytes, 8));
        }
      r->warps.push_back(&w);
    }
    cluster.ctas.push_back(std::move(cta));
  }
  r->unfinished = static_cast<int>(all);
  return r;
}

// What the workers of a launch share.
struct Launch {
  Launch(Grid& g, uint64_t n) : grid(g), clusters(n) {}
  Grid& grid;
  uint64_t clusters;
  std::vector<uint64_t> order;  // empty: as they are numbered
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> progress{0};  // grows with every quantum in which a warp moved
  std::atomic<int> resident{0};
  int most_resident = 0;
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr fault;
  std::atomic<int> spinning{0};  // workers all of whose warps repeat themselves
  int workers = 0, stuck = 0;    // under mutex: workers without a warp that can move
  uint64_t stuck_at = 0;         // the progress at which they found out
  std::string stuck_report;
};

class Worker {
 public:
  Worker(Launch& l, int index)
      : l_(l), runner_(*l.grid.program, counts(), l.grid), random_(l.grid.seed * 2 + index + 1) {}

  void run() try {
    while (!l_.failed.load(std::memory_order_relaxed)) {
      if (residents_.empty() && !admit()) {
        if (l_.next.load() < l_.clusters) {  // others hold all that may be resident
          stuck();
          continue;
        }
        std::lock_guard lock(l_.mutex);
        repeats(0);
        --l_.workers;
        return;
      }
      if (step())
        watch();
      else
        stuck();
    }
  } catch (...) {
    std::lock_guard lock(l_.mutex);
    if (!l_.failed.exchange(true)) l_.fault = std::current_exception();
  }

 private:
  Launch& l_;
  Runner runner_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Resident>> residents_;
  uint64_t steps_ = 0, counted_at_ = ~uint64_t{0};
  size_t current_ = 0;
  uint64_t watched_ = 0;
  int same_ = 0;

  // A worker repeats itself while no register of its warps changes: a spin on what nobody writes any more. (A loop that
  // counts or reads a clock is not found, but ends at Grid::max_steps.)
  void watch() {
    if (steps_ < watched_) return;
    size_t warps = 0;
    for (const auto& r : residents_) warps += r->warps.size();
    watched_ = steps_ + std::max<uint64_t>(1024, 16 * warps);
    repeats(unchanged() ? same_ + 1 : 0);
    if (same_ < kSameStates) return;
    std::lock_guard lock(l_.mutex);
    if (l_.spinning.load() < l_.workers) return;
    std::string report;
    for (const auto& r : residents_)
      for (const Warp* w : r->warps)
        if (w->state->count && report.size() < kReport) report += standing(*w);
    throw Fault("livelock: the warps of " + l_.grid.program->state->name + " loop without an effect" + report);
  }
  bool unchanged() {
    for (const auto& r : residents_)
      for (const Warp* w : r->warps) {
        uint64_t h = w->alive;
        const auto* words = reinterpret_cast<const uint64_t*>(w->regs);
        for (size_t i = 0; i < l_.grid.program->register_bytes / 8; ++i) h = (h ^ words[i]) * 0x9E3779B97F4A7C15u;
        if (std::exchange(w->state->hash, h) != h) return false;
      }
    return true;
  }
  void repeats(int same) {
    const bool was = same_ >= kSameStates, is = same >= kSameStates;
    same_ = same;
    if (was != is) l_.spinning += is ? 1 : -1;
  }

  bool admit() {
    if (l_.resident.fetch_add(1) >= l_.most_resident) {
      --l_.resident;
      return !residents_.empty();
    }
    const uint64_t n = l_.next.fetch_add(1);
    if (n >= l_.clusters) {
      --l_.resident;
      return false;
    }
    residents_.push_back(start(l_.grid, l_.order.empty() ? n : l_.order[n]));
    return true;
  }

  // One quantum of a warp that can move; false: none can.
  bool step() {
    ++steps_;
    const uint64_t bits = random_();
    if ((bits & 31) == 0 || current_ >= residents_.size()) current_ = (bits >> 8) % residents_.size();
    if (steps_ % 4096 == 0) admit();  // those that are resident may spin for one that is not yet
    for (size_t i = 0; i < residents_.size(); ++i) {
      const size_t n = (current_ + i) % residents_.size();
      Resident& r = *residents_[n];
      const size_t count = r.warps.size();
      size_t at = strict().random_order ? (bits >> 32) % count : steps_ % count;
      for (size_t k = 0; k < count; ++k, at = at + 1 == count ? 0 : at + 1) {
        Warp& w = *r.warps[at];
        Warp::State& s = *w.state;
        if (s.count == 0) continue;
        const uint64_t progress = l_.progress.load(std::memory_order_acquire);
        if (s.blocked && s.seen == progress) continue;
        const int64_t quantum = int64_t{32} << (bits >> 16 & 7);  // 32 to 4096
        const Stop stop = runner_.run(w, quantum);
        if (stop == Stop::waits) {
          s.blocked = true;
          s.seen = progress;
          continue;
        }
        s.blocked = false;
        l_.progress.fetch_add(1, std::memory_order_release);
        current_ = n;
        if (stop == Stop::finished && --r.unfinished == 0) finish(n);
        return true;
      }
    }
    return false;
  }

  void finish(size_t n) {
    for (auto& cta : residents_[n]->cluster.ctas) finish_async(*cta);
    residents_.erase(residents_.begin() + n);
    repeats(0);
    --l_.resident;
  }

  void stuck() {
    const uint64_t before = l_.progress.load();
    const size_t had = residents_.size();
    if (l_.resident.load() < l_.most_resident && admit() && residents_.size() > had) return;
    std::unique_lock lock(l_.mutex);
    if (l_.stuck_at != before) l_.stuck = 0, l_.stuck_at = before, l_.stuck_report.clear();
    bool can_move = false;
    for (const auto& r : residents_)
      for (const Warp* w : r->warps) can_move = can_move || (w->state->count && w->state->seen != before);
    if (can_move) return;
    if (counted_at_ != before) {
      counted_at_ = before;
      ++l_.stuck;
      for (const auto& r : residents_)
        for (const Warp* w : r->warps)
          if (w->state->count && l_.stuck_report.size() < kReport) l_.stuck_report += standing(*w);
    }
    if (l_.stuck >= l_.workers && l_.progress.load() == before)
      throw Fault("deadlock: no warp of " + l_.grid.program->state->name + " can go on" + l_.stuck_report);
    if (same_ < kSameStates) repeats(kSameStates);  // until a state differs from the one that is seen next
    do {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      lock.lock();
    } while (l_.progress.load() == before && !l_.failed.load() && l_.stuck < l_.workers);
  }
};

}  // namespace

void run(Grid& g) {
  const Dim3& c = g.cluster;
  if (g.grid.x % c.x || g.grid.y % c.y || g.grid.z % c.z) throw Fault("the grid is no multiple of the cluster");
  const uint64_t clusters = uint64_t{g.grid.x / c.x} * (g.grid.y / c.y) * (g.grid.z / c.z);
  int threads = device().threads ? device().threads : static_cast<int>(std::thread::hardware_concurrency());
  threads = static_cast<int>(std::clamp<uint64_t>(clusters, 1, std::max(threads, 1)));
  const uint32_t ctas = c.x * c.y * c.z;
  Launch l(g, clusters);
  l.most_resident = g.resident ? std::max(1, static_cast<int>(g.resident / ctas)) : 1 << 20;
  threads = std::min(threads, l.most_resident);
  l.workers = threads;
  if (strict().random_order && clusters < (1u << 24)) {
    l.order.resize(clusters);
    for (uint64_t i = 0; i < clusters; ++i) l.order[i] = i;
    std::ranges::shuffle(l.order, std::mt19937_64(g.seed));
  }
  std::vector<Counts> sums(threads);
  const auto work = [&](int i) {
    counts() = {};
    Worker(l, i).run();
    sums[i] = counts();
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) {
    others.emplace_back([&, i] {
      ++saccade_emulator_quiet;
      work(i);
    });
  }
  work(0);
  for (std::thread& t : others) t.join();
  keep_counts(g, sums);
  if (l.fault) std::rethrow_exception(l.fault);
}

}  // namespace emu
