#include "wgmma.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>

#include "fragment.h"
#include "lanes.h"
#include "strict.h"

// wgmma.mma_async: D = A B + D, 64 rows by a warpgroup, of which each warp has 16. An instruction is queued and its
// accumulators' registers are poisoned. The operands are read and multiplied, for all four warps, when the first of
// them waits for it (one warp's wgmma.wait_group says that the warpgroup's reads are done: pipelines release a stage by
// it); each warp's registers are written at its own wait. Sums are formed as in mma.cpp.
namespace emu {

using namespace wgmma;

struct WgmmaQueue {
  struct OfWarp {
    std::vector<std::unique_ptr<Accumulators>> sums, spare;
    uint32_t commits = 0;
    uint64_t issued = 0, collected = 0;  // instructions
    bool fenced = false;
    std::shared_ptr<Transfer> transfer;  // of the last instruction
    uint64_t version = 0;                // of the warp's clocks, then
  };
  OfWarp warp[kWarps];
  std::deque<std::unique_ptr<Multiply>> queue;
  std::vector<std::unique_ptr<Multiply>> spare;
  uint64_t first = 0;  // the number of queue[0]
};
void WgmmaQueueDelete::operator()(WgmmaQueue* q) const { delete q; }

namespace {

WgmmaQueue& queue_of(Warp& w) {
  auto& queues = async_of(*w.cta).wgmma;
  if (queues.empty()) queues.resize((w.cta->warps.size() + kWarps - 1) / kWarps);
  auto& q = queues[w.index / kWarps];
  if (!q) q.reset(new WgmmaQueue);
  return *q;
}

/// Which 16-byte chunks of shared memory are read: checked in runs, before any is read.
class Chunks {
 public:
  void add(uint32_t address) {
    const uint32_t n = (address - kSharedBase) / 16;
    if (n >= kCount)
      beyond_ = address;
    else
      bits_[n / 64] |= uint64_t{1} << n % 64;
  }
  void read(Transfer& t) {
    const auto check = [&](uint32_t first, uint32_t end) {
      transfer_access(t, *t.cta, Space::shared, Use::read, kSharedBase + first * 16,
                      static_cast<int>(end - first) * 16);
    };
    uint32_t first = 0, end = 0;  // of the run
    for (uint32_t n = 0; n < kCount; n += 64) {
      for (uint64_t word = std::exchange(bits_[n / 64], 0); word;) {
        const uint32_t low = std::countr_zero(word), ones = std::countr_one(word >> low);
        if (n + low != end) {
          if (end) check(first, end);
          first = n + low;
        }
        end = n + low + ones;
        word &= low + ones == 64 ? 0 : ~uint64_t{0} << (low + ones);
      }
    }
    if (end) check(first, end);
    if (beyond_) check((beyond_ - kSharedBase) / 16, (beyond_ - kSharedBase) / 16 + 1);  // throws
  }

 private:
  static constexpr uint32_t kCount = 1 << 14;
  uint64_t bits_[kCount / 64] = {};
  uint32_t beyond_ = 0;
};

void chunks_along_k(Chunks& c, const Matrix& x, int first, int rows) {
  for (int r = first; r < first + rows; ++r) c.add(x.along_k(r, 0)), c.add(x.along_k(r, 1));
}
void chunks_along_mn(Chunks& c, const Matrix& x, int first, int chunks) {
  for (int k = 0; k < 16; ++k)
    for (int m = first; m < first + chunks; ++m) c.add(x.along_mn(m, k));
}

// Register 4 j + 2 h + p, lane 4 g + t: column 8 j + 2 t + p, row g + 8 h; f16 pairs the two p.
void load_sums(Warp& w, const Plan& plan, Accumulators& to) {
  if (plan.f16_sums) {
    for (int r = 0; r < plan.count; ++r) {
      const uint32_t* in = w.at<uint32_t>(plan.d[r]);
      for (int l = 0; l < kLanes; ++l)
        for (int p = 0; p < 2; ++p)
          to.real[8 * (r >> 1) + 2 * (l & 3) + p][(l >> 2) + 8 * (r & 1)] = fragment::Float<F16>::get(in[l], p);
    }
    return;
  }
  for (int r = 0; r < plan.count; ++r) {
    const int32_t* in = w.at<int32_t>(plan.d[r]);
    int32_t(*out)[kRows] = to.whole + 8 * (r >> 2) + (r & 1);
    for (int t = 0; t < 4; ++t)
      for (int g = 0; g < 8; ++g) out[2 * t][g + 4 * (r & 2)] = in[4 * g + t];
  }
}

void store_sums(Warp& w, const Plan& plan, const Accumulators& from) {
  if (plan.f16_sums) {
    for (int r = 0; r < plan.count; ++r) {
      uint32_t* out = w.at<uint32_t>(plan.d[r]);
      for (int l = 0; l < kLanes; ++l) {
        const int row = (l >> 2) + 8 * (r & 1), column = 8 * (r >> 1) + 2 * (l & 3);
        out[l] = encode<F16>(from.real[column][row]) | encode<F16>(from.real[column + 1][row]) << 16;
      }
    }
    return;
  }
  for (int r = 0; r < plan.count; ++r) {
    int32_t* out = w.at<int32_t>(plan.d[r]);
    const int32_t(*in)[kRows] = from.whole + 8 * (r >> 2) + (r & 1);
    for (int t = 0; t < 4; ++t)
      for (int g = 0; g < 8; ++g) out[4 * g + t] = in[2 * t][g + 4 * (r & 2)];
  }
}

/// Instructions of which each warp's are one transfer: checks what they read, and multiplies. B is read once, on behalf
/// of a warp that changes.
template <class Iterator>
void carry_out(Iterator first, int count) {
  static thread_local Chunks chunks;
  const int reader = static_cast<int>((*first)->number / 4 % kWarps);
  for (int warp = 0; warp < kWarps; ++warp) {
    for (int k = 0; k < count; ++k) {
      const Multiply& m = **(first + k);
      const Plan& plan = *m.plan;
      if (warp == reader) {
        if (plan.b_by_n)
          chunks_along_mn(chunks, Matrix(m.b), 0, plan.columns / 8);
        else
          chunks_along_k(chunks, Matrix(m.b), 0, plan.columns);
      }
      if (plan.from_registers) continue;
      if (plan.a_by_m)
        chunks_along_mn(chunks, Matrix(m.a), warp * 2, 2);
      else
        chunks_along_k(chunks, Matrix(m.a), warp * kRows, kRows);
    }
    chunks.read(*(*first)->part[warp].transfer);
  }
  for (int k = 0; k < count; ++k) {
    Multiply& m = **(first + k);
    m.plan->multiply(m);
    m.done = true;
  }
}

/// Writes the registers of the warp, once nothing on them is under way any more.
void collect(Warp& w, WgmmaQueue::OfWarp& own, Multiply& m, int warp) {
  const auto changed = [&](const std::string& what) {
    throw Fault(what + " was written before wgmma.wait_group: " + where(w, *m.inst));
  };
  const Plan& plan = *m.plan;
  Multiply::Part& part = m.part[warp];
  m.collected |= 1u << warp;
  if (plan.from_registers) {
    for (int r = 0; r < 4; ++r)
      if (std::memcmp(part.fragment[r], w.at<uint32_t>(plan.a[r]), sizeof part.fragment[r]) != 0)
        changed("a register of A");
  }
  counts().tensor_flops += plan.flops;
  if (--part.to->under_way) return;
  for (int r = 0; strict().adversarial && r < plan.count; ++r) {
    const uint32_t* held = w.at<uint32_t>(plan.d[r]);
    uint32_t all = kInFlight;
    for (int l = 0; l < kLanes; ++l) all &= held[l];
    if (all != kInFlight) changed("an accumulator");
  }
  store_sums(w, plan, *part.to);
  const auto at = std::find_if(own.sums.begin(), own.sums.end(), [&](const auto& s) { return s.get() == part.to; });
  own.spare.push_back(std::move(*at));
  own.sums.erase(at);
}

template <class T>
T uniform(Warp& w, const Inst& i, Place place, const char* what) {
  const T* v = w.at<T>(place);
  for (int l = 1; l < kLanes; ++l)
    if (v[l] != v[0]) fault(w, i, l, std::string(what) + " differs between the lanes");
  return v[0];
}

bool same_registers(const Plan& x, const Plan& y) {
  return &x == &y || (x.count == y.count && std::equal(x.d, x.d + x.count, y.d) && x.f16_sums == y.f16_sums);
}

bool same_transfers(const Multiply& x, const Multiply& y) {
  bool same = true;
  for (int k = 0; k < kWarps; ++k) same &= x.part[k].transfer == y.part[k].transfer;
  return same;
}

Flow exec_multiply(Warp& w, const Inst& i, Mask lanes) {
  const Plan& plan = *static_cast<const Plan*>(i.extra);
  const int warp = w.index % kWarps;
  if (lanes != kAllLanes) fault(w, i, std::countr_one(lanes), "wgmma needs all 32 lanes of the warp");
  if (w.cta->warps.size() < static_cast<size_t>(w.index - warp + kWarps))
    fault(w, i, -1, "wgmma needs warpgroups of four warps");
  WgmmaQueue& q = queue_of(w);
  WgmmaQueue::OfWarp& own = q.warp[warp];
  if (!own.fenced) fault(w, i, -1, "wgmma.mma_async without a wgmma.fence before");
  const uint64_t b = uniform<uint64_t>(w, i, plan.b, "the descriptor of B");
  const uint64_t a = plan.from_registers ? 0 : uniform<uint64_t>(w, i, plan.a[0], "the descriptor of A");
  const Mask add = w.predicate(plan.add) ^ (plan.add_negated ? kAllLanes : 0);
  if (add != 0 && add != kAllLanes) fault(w, i, -1, "scale-d differs between the lanes");
  if (own.issued - q.first == q.queue.size()) {
    if (q.spare.empty()) q.spare.push_back(std::make_unique<Multiply>());
    q.queue.push_back(std::move(q.spare.back()));
    q.spare.pop_back();
    Multiply& m = *q.queue.back();
    m.plan = &plan;
    m.inst = &i;
    m.a = a;
    m.b = b;
    m.add = add != 0;
    m.done = false;
    m.issued = m.collected = 0;
    m.number = own.issued;
  }
  Multiply& m = *q.queue[own.issued++ - q.first];
  if (m.inst != &i || m.a != a || m.b != b || m.add != (add != 0))
    fault(w, i, -1,
          "the warps of a warpgroup execute different wgmma; another is at line " + std::to_string(m.inst->line));
  Multiply::Part& part = m.part[warp];
  part.group = own.commits;
  if (plan.from_registers)
    for (int r = 0; r < 4; ++r) std::memcpy(part.fragment[r], w.at<uint32_t>(plan.a[r]), sizeof part.fragment[r]);
  part.to = nullptr;
  for (const auto& s : own.sums) {
    if (same_registers(*s->plan, plan)) {
      part.to = s.get();
    } else {
      for (int r = 0; r < plan.count; ++r)
        if (std::find(s->plan->d, s->plan->d + s->plan->count, plan.d[r]) != s->plan->d + s->plan->count)
          fault(w, i, -1, "an accumulator of another wgmma under way, of another shape");
    }
  }
  if (!part.to) {
    if (own.spare.empty()) own.spare.push_back(std::make_unique<Accumulators>());
    own.sums.push_back(std::move(own.spare.back()));
    own.spare.pop_back();
    part.to = own.sums.back().get();
    part.to->plan = &plan;
    part.to->under_way = 0;
    if (m.add) load_sums(w, plan, *part.to);
    if (strict().adversarial)
      for (int r = 0; r < plan.count; ++r) std::memset(w.at<uint32_t>(plan.d[r]), 0xFF, sizeof(uint32_t) * kLanes);
  }
  ++part.to->under_way;
  const uint64_t version = strict().races ? clock_of(w).version : 0;
  if (!own.transfer || own.version != version || !strict().adversarial)
    own.transfer = std::make_shared<Transfer>(begin_transfer(w, i, 0, true));
  own.version = version;
  part.transfer = own.transfer;
  m.issued |= 1u << warp;
  if (!strict().adversarial && m.issued == kEveryWarp) carry_out(&q.queue[own.issued - 1 - q.first], 1);
  return Flow::next;
}

// .sync: what the warp's lanes did is before what its wgmma reads
Flow exec_fence(Warp& w, const Inst&, Mask) {
  sync_warp(w, kAllLanes);
  queue_of(w).warp[w.index % kWarps].fenced = true;
  return Flow::next;
}

Flow exec_commit(Warp& w, const Inst&, Mask) {
  ++queue_of(w).warp[w.index % kWarps].commits;
  return Flow::next;
}

// imm[0]: how many of the latest groups may stay under way
Flow exec_wait(Warp& w, const Inst& i, Mask) {
  WgmmaQueue& q = queue_of(w);
  const int warp = w.index % kWarps;
  WgmmaQueue::OfWarp& own = q.warp[warp];
  uint64_t due = own.collected;
  for (; due < own.issued; ++due) {
    const Multiply& m = *q.queue[due - q.first];
    if (m.part[warp].group + i.imm[0] >= own.commits) break;
    if (m.issued != kEveryWarp) return Flow::wait;  // the others of the warpgroup are not there yet
  }
  if (due == own.collected) return Flow::next;
  for (uint64_t n = own.collected; n < due; ++n) {
    const auto first = q.queue.begin() + static_cast<std::ptrdiff_t>(n - q.first);
    if ((*first)->done) continue;
    int count = 1;
    while (n + 1 < due && same_transfers(**first, *first[count])) ++count, ++n;
    carry_out(first, count);
  }
  Clock done;
  const Multiply* last = nullptr;
  for (; own.collected < due; ++own.collected) {
    Multiply& m = *q.queue[own.collected - q.first];
    collect(w, own, m, warp);
    if (!last || !same_transfers(*last, m))
      for (Multiply::Part& p : m.part) complete_transfer(*p.transfer, done);
    last = &m;
  }
  own.transfer = nullptr;
  acquire(w, kAllLanes, done);
  while (!q.queue.empty() && q.queue[0]->collected == kEveryWarp) {
    q.spare.push_back(std::move(q.queue[0]));
    q.queue.pop_front();
    ++q.first;
  }
  return Flow::next;
}

void decode_multiply(Decoder& d, Inst& i, Mods& mods) {
  using Kind = ptx::Operand::Kind;
  const auto& args = d.s.args;
  const std::string& shape = d.s.mods.at(3);
  mods.take(shape);
  const bool saturate = mods.take("satfinite");
  const std::string type_d(mods.type()), type_a(mods.type()), type_b(mods.type());
  mods.done();
  const Form* form = nullptr;
  for (const Form& f : forms())
    if (f.d == type_d && f.a == type_a && f.b == type_b) form = &f;
  Plan plan;
  for (int n = 8; form && n <= kMaxColumns; n += 8)
    if (shape == "m64n" + std::to_string(n) + "k" + std::to_string(form->k)) plan.columns = n;
  if (!plan.columns || (saturate && !form->saturated)) d.unknown("wgmma of this shape and these types");
  const bool whole = type_d == "s32", wide = form->k == 16;
  // integer: d, a, b, scale-d; else imm-scale-a, imm-scale-b; of 16 bits imm-trans-a unless A is in registers,
  // imm-trans-b
  plan.from_registers = args.size() > 1 && args[1].kind == Kind::vector;
  if (args.size() != 4 + (whole ? 0u : 2u) + (wide ? (plan.from_registers ? 1u : 2u) : 0u)) d.unknown("operands");
  plan.f16_sums = type_d == "f16";
  plan.count = plan.columns / (plan.f16_sums ? 4 : 2);
  plan.flops = 2ull * kRows * plan.columns * form->k;
  plan.multiply = saturate ? form->saturated : form->multiply;
  if (args[0].items.size() != static_cast<size_t>(plan.count)) d.unknown("wrong number of accumulators");
  std::vector<Place> registers;
  for (const auto& item : args[0].items) {
    registers.push_back(d.dst(item, 4));
    if (registers.back() == kNoPlace) d.unknown("`_` is no accumulator");
  }
  plan.d = d.list(registers);
  if (plan.from_registers) {
    if (args[1].items.size() != 4) d.unknown("wrong number of registers of A");
    for (int r = 0; r < 4; ++r) plan.a[r] = d.src(args[1].items[r], 4);
  } else {
    plan.a[0] = d.src(args[1], 8);
  }
  plan.b = d.src(args[2], 8);
  plan.add = d.src(args[3], 0);
  plan.add_negated = args[3].negated;
  if (!whole) {
    const auto sign = [&](const ptx::Operand& o) {
      const auto v = static_cast<int64_t>(constant(d, o));
      if (v != 1 && v != -1 && v != 0xFFFF'FFFF) d.unknown("imm-scale");
      return v != 1;
    };
    plan.negative = sign(args[4]) != sign(args[5]);
  }
  if (wide) {
    plan.a_by_m = !plan.from_registers && constant(d, args[6]) != 0;
    plan.b_by_n = constant(d, args.back()) != 0;
  }
  i.extra = d.keep(plan);
  i.exec = exec_multiply;
}

void decode_wgmma(Decoder& d, Inst& i) {
  i.cls = Class::wgmma;
  i.converge = Converge::all;
  Mods mods(d);
  const int form = mods.pick({"mma_async", "fence", "commit_group", "wait_group"});
  if (d.has("sp")) d.unknown("sparse wgmma is not emulated");
  if (form < 0 || !mods.take("sync") || !mods.take("aligned")) d.unknown();
  if (form == 0) return decode_multiply(d, i, mods);
  mods.done();
  if (form == 3) i.imm[0] = constant(d, d.s.args.at(0));
  i.exec = form == 1 ? exec_fence : form == 2 ? exec_commit : exec_wait;
}

}  // namespace

void finish_wgmma(Cta& cta) {
  for (const auto& q : cta.async->wgmma)
    if (q && !q->queue.empty())
      throw Fault("line " + std::to_string(q->queue[0]->inst->line) +
                  ": wgmma was still under way when its CTA ended: no wgmma.wait_group covers it");
}

const Family kWgmma[] = {{"wgmma", decode_wgmma}, {nullptr, nullptr}};

}  // namespace emu
