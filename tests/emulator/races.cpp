#include <algorithm>
#include <cstring>
#include <thread>

#include "strict.h"

// Shadow memory: who wrote and who read each byte last, and whether that happened before the access at hand.
namespace emu {

// A cell's stamps cover disjoint bytes in the planes of `write`; those of `read` lie where the reader's plane is.
struct Page {
  std::atomic<bool> busy{false};
  uint64_t launch = 0;  // everything older is void
  int writers = 1;      // planes of `write` in use
  Stamp write[4][kCells];
  uint32_t readers[kCells];  // bit p: the cell has a stamp in read[p]
  std::unique_ptr<Stamp[]> read[32];
  int64_t pending = 0;                  // marks in the two below
  std::unique_ptr<Stamp[]> filling;     // destination of a transfer under way: which
  std::unique_ptr<uint16_t[]> feeding;  // source of so many transfers under way

  Page() { clear(); }
  void clear() {
    std::memset(write[0], 0, sizeof(Stamp) * kCells * writers);
    std::memset(readers, 0, sizeof readers);
    for (auto& r : read)
      if (r) std::memset(r.get(), 0, sizeof(Stamp) * kCells);
    if (pending && filling) std::memset(filling.get(), 0, sizeof(Stamp) * kCells);
    if (pending && feeding) std::memset(feeding.get(), 0, sizeof(uint16_t) * kCells);
    pending = 0;
    writers = 1;
  }
  Stamp* plane(int p) {
    if (!read[p]) read[p] = std::make_unique<Stamp[]>(kCells);
    return read[p].get();
  }
};
void PageDelete::operator()(Page* p) const { delete p; }

Allocation::~Allocation() {
  if (!pages) return;
  const uint64_t count = ((base + size - 1) / kPageBytes) - base / kPageBytes + 1;
  for (uint64_t k = 0; k < count; ++k) delete pages[k].load();
}

namespace {

// Planes of `read`: a shared page has one for each warp of the CTA, a global one for each residue of the warp's id.
constexpr int kSharedDirect = 24, kGlobalDirect = 4, kSharedPlanes = 31, kGlobalPlanes = 7;
constexpr uint32_t kFull = 1u << 31;  // in `readers`: some reader is not remembered

Stamp stamp_of(uint32_t clock, uint32_t id, bool transfer, bool strong, int line) {
  return clock | Stamp{id} << 20 | (transfer ? kTransfer : 0) | (strong ? kStrong : 0) |
         static_cast<Stamp>(line & 0xFFF) << 52;
}
constexpr Stamp lane_bits(uint32_t lane) { return Stamp{lane} << 40; }
constexpr Stamp cover_bits(uint32_t cover) { return Stamp{cover} << 46; }

struct Range {                             // what is accessed, for messages
  Cta* owner = nullptr;                    // of shared memory
  const Allocation* allocation = nullptr;  // of global memory
};

/// Who accesses, and everything to judge and report it.
struct Agent {
  Cta* cta = nullptr;
  Warp* warp = nullptr;  // null: a transfer
  const Inst* inst = nullptr;
  const Transfer* transfer = nullptr;
  const View* view = nullptr;
  Stamp base = 0;     // without lane and bytes
  uint32_t id = ~0u;  // of the warp
  uint32_t lane = 0;
  bool proxy = false;  // async
  int direct = 0, planes = 0, plane = 0;
  Stamp ordered_who = 0;  // of which all lanes happened before, as was found last
  Range range;
  // of a store: what other lanes of the instruction do
  Mask lanes = 0;
  const uint64_t* address = nullptr;
  const std::byte (*value)[16] = nullptr;
  int bytes = 0;

  const Seen* own = nullptr;  // in the view: the warps of the CTA, from `first` on
  uint32_t first = 0, own_count = 0;

  void see(const View* v) {
    view = v;
    ordered_who = 0;
    own_count = static_cast<uint32_t>(cta->warps.size());
    own = proxy ? nullptr : v->seen.find(first);
    if (!own || first + own_count > kIdMask) own_count = 0;
  }
  /// Surely before this access, whichever the lane.
  bool known(Stamp e) const {
    const uint32_t k = id_of(e) - first;
    return (e & kWhoField) == ordered_who || (!(e & kTransfer) && k < own_count && clock_of(e) <= own[k].all);
  }
  enum class Why : uint8_t { ordered, race, proxy };
  Why judge(Stamp e, bool written) {
    if (e & kTransfer) {
      if ((e & kWhoField) == (base & kWhoField)) return Why::ordered;
      if (!view->transfers.has(id_of(e), clock_of(e))) return Why::race;
      ordered_who = e & kWhoField;
      return Why::ordered;
    }
    if (id_of(e) == id && lane_of(e) == lane) return Why::ordered;
    const Seen* s = view->seen.find(id_of(e));
    if (!s || !s->has(clock_of(e), lane_of(e))) return Why::race;
    if (proxy && written) {
      const Seen* p = view->proxied.find(id_of(e));
      if (!p || !p->has(clock_of(e), lane_of(e))) return Why::proxy;
    } else if (!proxy && clock_of(e) <= s->all) {
      ordered_who = e & kWhoField;
    }
    return Why::ordered;
  }
};

std::string line_of(const Cta& cta, Stamp e) {
  const Program& p = *cta.cluster->grid->program;
  std::string out;
  int last = 0;
  for (const Inst& i : p.code) {
    if ((i.line & 0xFFF) != static_cast<int>(e >> 52) || i.line == last) continue;
    switch (i.cls) {
      case Class::load_global:
      case Class::store_global:
      case Class::load_shared:
      case Class::store_shared:
      case Class::atomic:
      case Class::ldmatrix:
      case Class::stmatrix:
      case Class::wgmma:
      case Class::cp_async:
      case Class::bulk:
      case Class::tensor:
      case Class::mbarrier:
      case Class::other:
        break;
      default:
        continue;
    }
    last = i.line;
    out += (out.empty() ? "line " : " or line ") + std::to_string(i.line) + ": " +
           std::string(ptx::source_line(*p.module, i.line));
  }
  return out.empty() ? "line unknown" : out;
}

std::string who(const Agent& a, Stamp e) {
  const auto& g = *a.cta->cluster->grid;
  const uint32_t warps = static_cast<uint32_t>(a.cta->warps.size());
  const uint32_t number = e & kTransfer ? id_of(e) : id_of(e) / warps;
  const std::string cta = "CTA (" + std::to_string(number % g.grid.x) + ", " +
                          std::to_string(number / g.grid.x % g.grid.y) + ", " +
                          std::to_string(number / g.grid.x / g.grid.y) + ")";
  if (e & kTransfer) return "an asynchronous operation of " + cta + ", issued at " + line_of(*a.cta, e);
  return cta + ", warp " + std::to_string(id_of(e) % warps) +
         (lane_of(e) == kSeveral ? ", several lanes" : ", lane " + std::to_string(lane_of(e))) + ", " +
         line_of(*a.cta, e);
}

std::string place(const Range& r, uint64_t at) {
  if (r.owner) return "byte " + std::to_string(at) + " of shared memory";
  return "global " + hex(at) + ", " + nearby(at);
}

std::string subject(const Agent& a, bool write) {
  const std::string verb = write ? "write" : "read";
  if (a.warp) return where(*a.warp, *a.inst, a.lane == kSeveral ? -1 : static_cast<int>(a.lane)) + ": " + verb;
  const auto& id = a.cta->id;
  return a.cta->cluster->grid->program->function->name + ", CTA (" + std::to_string(id.x) + ", " +
         std::to_string(id.y) + ", " + std::to_string(id.z) + "), asynchronous operation of warp " +
         std::to_string(a.transfer->warp) + ", lane " + std::to_string(a.transfer->lane) + ", " +
         line_of(*a.cta, a.base) + ": " + verb;
}

[[noreturn]] void conflict(Agent& a, Stamp e, bool written, bool write, uint64_t at, Agent::Why why) {
  const std::string other = written ? "write" : "read";
  std::string out = subject(a, write) + " of " + place(a.range, at);
  if (why == Agent::Why::proxy)
    throw Fault(out + " by the async proxy: missing fence.proxy.async after the write by " + who(a, e));
  out += ": data race with the " + other + " by " + who(a, e) + ": ";
  if (e & kTransfer)
    out += "its completion was not waited for";
  else if (id_of(e) == a.id)
    out += "lanes of one warp, no bar.warp.sync or barrier between";
  else if (a.cta->warps.size() && id_of(e) / a.cta->warps.size() == strict_of(*a.cta).number)
    out += "no barrier or other synchronisation between";
  else
    out += "another CTA, no release and acquire between";
  throw Fault(out);
}

/// A lane before this one stored the same value at the same address with the same instruction.
bool same_store(const Agent& a, Stamp e) {
  if (!a.value || ((e ^ a.base) & (kWhoField | Stamp{0xFFF} << 52))) return false;
  for (Mask m = a.lanes & ((Mask{1} << a.lane) - 1); m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    if (a.address[l] == a.address[a.lane]) return std::memcmp(a.value[l], a.value[a.lane], a.bytes) == 0;
  }
  return false;
}

[[noreturn, gnu::noinline]] void report_pending(Agent& a, bool write, uint64_t at, Stamp filling) {
  std::string out = subject(a, write) + " of " + place(a.range, at) + ": ";
  if (filling)
    out +=
        "an asynchronous copy to it is under way: waiting for it is missing; issued by " + who(a, filling & ~kTransfer);
  else
    out += "an asynchronous operation under way still reads it: waiting for that is missing";
  throw Fault(out);
}

[[gnu::noinline]] void check_pending(Page& p, Agent& a, int cell, int count, bool write, uint64_t at) {
  for (int c = cell; c < cell + count; ++c, at += 4) {
    if (p.filling && p.filling[c]) report_pending(a, write, at, p.filling[c]);
    if (write && p.feeding && p.feeding[c]) report_pending(a, write, at, 0);
  }
}

[[gnu::noinline]] void check_write(Page& p, Agent& a, int c, uint32_t cover, uint64_t at) {
  for (int k = 0; k < p.writers; ++k) {
    const Stamp e = p.write[k][c];
    if (!(cover_of(e) & cover) || (e & a.base & kStrong) || a.known(e)) continue;
    const auto why = a.judge(e, true);
    if (why != Agent::Why::ordered) conflict(a, e, true, false, at & ~uint64_t{3}, why);
  }
}

// The reader's own plane holds something else of the cell.
[[gnu::noinline]] void record_read(Page& p, Agent& a, int c, Stamp mine) {
  const auto place_at = [&](int plane) {
    Stamp& r = p.plane(plane)[c];
    const Stamp differs = r ^ mine;
    if (!r) {
      p.readers[c] |= 1u << plane;
      return r = mine, true;
    }
    if (!(differs & kWhoField)) {
      const Stamp strong = ~(r & mine) & kStrong;  // a plain read among strong ones counts
      if (!(differs & kLaneField)) return r = (mine | (r & kCoverField)) & ~strong, true;
      if (!(differs & kCoverField)) return r = ((r & ~kLaneField) | lane_bits(kSeveral)) & ~strong, true;
      return false;
    }
    if (!(r & mine & kTransfer) && !((r | mine) & kTransfer) && id_of(r) == id_of(mine)) return r = mine, true;
    if (!(cover_of(r) & ~cover_of(mine)) && a.judge(r, false) == Agent::Why::ordered) return r = mine, true;
    return false;
  };
  if (a.plane < a.planes && place_at(a.plane)) return;
  for (int k = a.direct; k < a.planes; ++k)
    if (place_at(k)) return;
  p.readers[c] |= kFull;
}

[[gnu::always_inline]] inline void touch_read(Page& p, Agent& a, int first, int count, uint32_t cover, uint64_t at) {
  if (p.pending) [[unlikely]]
    check_pending(p, a, first, count, false, at);
  const Stamp mine = a.base | lane_bits(a.lane) | cover_bits(cover);
  Stamp* own = p.plane(a.plane);
  const uint32_t bit = 1u << a.plane;
  for (int c = first; c < first + count; ++c) {
    const Stamp w = p.write[0][c];
    if (p.writers > 1 || (w && !a.known(w))) check_write(p, a, c, cover, at + 4 * (c - first));
    Stamp& r = own[c];
    const Stamp differs = r ^ mine;
    if (r == 0) {
      r = mine;
      p.readers[c] |= bit;
    } else if (!(differs & (kWhoField | kCoverField | kStrong))) {
      if (differs & kLaneField) r = (r & ~kLaneField) | lane_bits(kSeveral);
    } else if (!(differs & kWhoField & ~Stamp{kClockMask}) && differs & kClockMask) {
      r = mine;  // the warp's own older read
    } else if (!(p.readers[c] & kFull)) {
      record_read(p, a, c, mine);
    }
  }
}

inline void touch_write(Page& p, Agent& a, int first, int count, uint32_t cover, uint64_t at) {
  if (p.pending) [[unlikely]]
    check_pending(p, a, first, count, true, at);
  const Stamp covers = cover_bits(cover);
  for (int c = first; c < first + count; ++c) {
    Stamp mine = a.base | lane_bits(a.lane) | covers;
    const uint64_t here = at + 4 * (c - first);
    for (int k = 0; k < p.writers; ++k) {
      Stamp& e = p.write[k][c];
      if (!(e & covers)) continue;
      if (!a.known(e) && (e ^ mine) & (kWhoField | kLaneField) && !(e & a.base & kStrong)) {
        const auto why = a.judge(e, true);
        if (why != Agent::Why::ordered) {
          if (!same_store(a, e)) conflict(a, e, true, true, here & ~uint64_t{3}, why);
          mine = (mine & ~kLaneField) | lane_bits(kSeveral);
        }
      }
      e &= ~covers;
      if (!(e & kCoverField)) e = 0;
    }
    for (uint32_t bits = p.readers[c] &= ~kFull; bits; bits &= bits - 1) {
      const int k = __builtin_ctz(bits);
      Stamp& e = p.read[k][c];
      if (!(e & covers)) continue;
      if (!a.known(e) && (e ^ mine) & (kWhoField | kLaneField) && !(e & a.base & kStrong)) {
        const auto why = a.judge(e, false);
        if (why != Agent::Why::ordered) conflict(a, e, false, true, here & ~uint64_t{3}, why);
      }
      e &= ~covers;
      if (!(e & kCoverField)) e = 0, p.readers[c] &= ~(1u << k);
    }
    if (!p.write[0][c]) [[likely]] {
      p.write[0][c] = mine;
      continue;
    }
    for (int k = 0; k < 4; ++k) {
      if (k == p.writers) std::memset(p.write[p.writers++], 0, sizeof p.write[0]);
      Stamp& e = p.write[k][c];
      if (e && ((e ^ mine) & (kWhoField | kLaneField | kStrong))) continue;
      e |= mine;  // bytes together; of two lines the bits of both: the same store in a loop is the rule
      if (e != mine) e = (e & ~(Stamp{0xFFF} << 52)) | (mine & Stamp{0xFFF} << 52);
      break;
    }
  }
}

/// 16 bytes whose cells agree, as they mostly do; false: they must be looked at one by one.
[[gnu::always_inline]] inline bool touch_read_four(Page& p, Agent& a, int c, bool global) {
  if (p.pending || p.writers > 1) return false;
  const Stamp* w = p.write[0] + c;
  if (w[0] | w[1] | w[2] | w[3]) {
    if (((w[0] ^ w[1]) | (w[0] ^ w[2]) | (w[0] ^ w[3])) & kWhoField || !a.known(w[0])) return false;
  }
  const Stamp mine = a.base | lane_bits(a.lane) | kCoverField;
  Stamp* r = p.plane(a.plane) + c;
  const Stamp none = r[0] | r[1] | r[2] | r[3];
  const Stamp differs = (r[0] ^ mine) | (r[1] ^ mine) | (r[2] ^ mine) | (r[3] ^ mine);
  if (none && !(differs & (kWhoField | kLaneField | kCoverField | kStrong))) return true;
  uint32_t* readers = p.readers + c;
  const bool older = !(differs & kWhoField & ~Stamp{kClockMask}) && clock_of(r[0]) != clock_of(mine) &&
                     clock_of(r[1]) != clock_of(mine) && clock_of(r[2]) != clock_of(mine) &&
                     clock_of(r[3]) != clock_of(mine);
  if (!none || older) {
    for (int k = 0; k < 4; ++k) r[k] = mine, readers[k] |= 1u << a.plane;
    return true;
  }
  return global && readers[0] & readers[1] & readers[2] & readers[3] & kFull;
}

[[gnu::noinline]] void touch(Page& p, Agent& a, bool write, uint64_t at, int bytes) {
  const int cell = static_cast<int>(at % kPageBytes / 4);
  const uint32_t cover = bytes >= 4 ? 15u : ((1u << bytes) - 1) << (at & 3);
  const int count = bytes >= 4 ? bytes / 4 : 1;
  if (write)
    touch_write(p, a, cell, count, cover, at);
  else
    touch_read(p, a, cell, count, cover, at);
}

/// The lanes one by one; page(at) finds the page of an address. The usual sizes of reads are loops of known length.
template <class FindPage>
inline void touch_lanes(Agent& a, const WarpClock& c, bool write, const uint64_t* at, int bytes, FindPage page) {
  for (Mask m = a.lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    a.lane = l;
    if (c.split) [[unlikely]] {
      const View* v = &c.view(l);
      if (v != a.view) a.see(v);
    }
    Page* p = page(at[l], l);
    if (!p) continue;
    const int cell = static_cast<int>(at[l] % kPageBytes / 4);
    if (!write && bytes == 4)
      touch_read(*p, a, cell, 1, 15, at[l]);
    else if (write || bytes != 16 || !touch_read_four(*p, a, cell, a.direct == kGlobalDirect))
      touch(*p, a, write, at[l], bytes);
  }
}

/// The page, locked: two worker threads share global memory.
class Held {
 public:
  ~Held() { leave(); }
  Page& at(const Allocation& a, uint64_t address, uint64_t launch) {
    const uint64_t number = address / kPageBytes - a.base / kPageBytes;
    if (page && &a == of && number == index) return *page;
    leave();
    of = &a;
    index = number;
    page = find(a, number);
    while (page->busy.exchange(true, std::memory_order_acquire))
      while (page->busy.load(std::memory_order_relaxed)) std::this_thread::yield();
    if (page->launch != launch) {
      page->clear();
      page->launch = launch;
    }
    return *page;
  }

 private:
  Page* page = nullptr;
  const Allocation* of = nullptr;
  uint64_t index = 0;

  void leave() {
    if (page) page->busy.store(false, std::memory_order_release);
    page = nullptr;
  }
  static Page* find(const Allocation& a, uint64_t number) {
    static std::mutex making;
    if (!a.has_pages.load(std::memory_order_acquire)) {
      const std::lock_guard lock(making);
      if (!a.pages) {
        const uint64_t count = (a.base + a.size - 1) / kPageBytes - a.base / kPageBytes + 1;
        a.pages = std::make_unique<std::atomic<Page*>[]>(count);
        a.has_pages.store(true, std::memory_order_release);
      }
    }
    Page* p = a.pages[number].load(std::memory_order_acquire);
    if (p) return p;
    auto made = std::make_unique<Page>();
    if (a.pages[number].compare_exchange_strong(p, made.get())) p = made.release();
    return p;
  }
};

Page& shared_page(Cta::Strict& s, uint64_t offset) {
  auto& p = s.pages[offset / kPageBytes];
  if (!p) p.reset(new Page);
  return *p;
}

Agent agent_of(Warp& w, const Inst& i, Mask lanes, Use use, Order order, bool shared) {
  Agent a;
  Cta::Strict& s = strict_of(*w.cta);
  const WarpClock& c = s.warps[w.index];
  a.cta = w.cta;
  a.warp = &w;
  a.inst = &i;
  a.first = s.first;
  a.see(&c.base);
  a.id = c.id;
  a.base = stamp_of(c.now, c.id, false, order != Order::weak || use == Use::atomic, i.line);
  a.direct = shared ? kSharedDirect : kGlobalDirect;
  a.planes = shared ? kSharedPlanes : kGlobalPlanes;
  a.plane = shared ? w.index % kSharedDirect : static_cast<int>(c.id % kGlobalDirect);
  a.lanes = lanes;
  return a;
}

inline bool initialised(const Cta::Strict& s, uint64_t offset, int bytes) {
  const uint64_t bits = s.initialised[offset / 32] | uint64_t{s.initialised[offset / 32 + 1]} << 32;
  const uint64_t want = (uint64_t{1} << bytes) - 1;
  return (bits >> offset % 32 & want) == want;
}

void initialise(Cta::Strict& s, uint64_t offset, int bytes) {
  const uint64_t bits = ((uint64_t{1} << bytes) - 1) << offset % 32;
  s.initialised[offset / 32] |= static_cast<uint32_t>(bits);
  if (bits >> 32) s.initialised[offset / 32 + 1] |= static_cast<uint32_t>(bits >> 32);
}

}  // namespace

void touch_shared(Warp& w, const Inst& i, Mask lanes, Use use, Order order, Cta& owner, const uint64_t* offset,
                  int bytes, const std::byte (*value)[16]) {
  Cta::Strict& s = strict_of(owner);
  if (strict().races) {
    Agent a = agent_of(w, i, lanes, use, order, true);
    if (&owner != w.cta) a.plane = kSharedPlanes - 1;
    a.range.owner = &owner;
    a.address = offset;
    a.value = value;
    a.bytes = bytes;
    Page* page = nullptr;
    uint64_t number = ~uint64_t{0};
    touch_lanes(a, clock_of(w), use != Use::read, offset, bytes, [&](uint64_t at, int) {
      if (at / kPageBytes != number) number = at / kPageBytes, page = &shared_page(s, at);
      return page;
    });
  }
  if (strict().uninitialised && use != Use::write) {
    bool all = true;
    for (Mask m = lanes; m; m &= m - 1) all &= initialised(s, offset[__builtin_ctz(m)], bytes);
    for (Mask m = all ? 0 : lanes; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      if (!initialised(s, offset[l], bytes))
        fault(w, i, l,
              "read of uninitialised shared memory: " + std::to_string(bytes) + " bytes at byte " +
                  std::to_string(offset[l]) + " that nothing wrote so far");
    }
  }
  if (use != Use::read)
    for (Mask m = lanes; m; m &= m - 1) initialise(s, offset[__builtin_ctz(m)], bytes);
}

void touch_global(Warp& w, const Inst& i, Mask lanes, Use use, Order order, const Allocation* common,
                  const uint64_t* address, int bytes, const std::byte (*value)[16]) {
  if (!strict().races || (common && !common->writable)) return;
  Agent a = agent_of(w, i, lanes, use, order, false);
  a.address = address;
  a.value = value;
  a.bytes = bytes;
  const uint64_t launch = w.cta->cluster->grid->launch;
  Held held;
  touch_lanes(a, clock_of(w), use != Use::read, address, bytes, [&](uint64_t at, int) -> Page* {
    const Allocation* of = common ? common : find_allocation(at);
    if (!of || !of->writable) return nullptr;
    a.range.allocation = of;
    return &held.at(*of, at, launch);
  });
}

namespace {
Agent agent_of(Transfer& t, bool shared, Use use) {
  Agent a;
  Cta::Strict& s = strict_of(*t.cta);
  const WarpClock& c = s.warps[t.warp];
  a.cta = t.cta;
  a.transfer = &t;
  a.first = s.first;
  a.direct = shared ? kSharedDirect : kGlobalDirect;
  a.planes = shared ? kSharedPlanes : kGlobalPlanes;
  a.lane = t.lane;
  if (t.async_proxy) {
    static const View none;
    a.proxy = true;
    a.see(t.issued.state ? &t.issued.state->view : &none);
    a.base = stamp_of(static_cast<uint32_t>(t.id), s.number, true, use == Use::atomic, t.line);
    a.plane = a.direct;
    a.lane = 0;
  } else {
    a.see(&c.view(t.lane));
    a.id = c.id;
    a.base = stamp_of(c.now, c.id, false, use == Use::atomic, t.line);
    a.plane = shared ? t.warp % kSharedDirect : static_cast<int>(c.id % kGlobalDirect);
  }
  return a;
}

/// Calls f(page, address, bytes) for the part in each page, shared or global.
template <class F>
void each_page(Cta::Strict* s, const Allocation* allocation, uint64_t launch, uint64_t at, int64_t bytes, F f) {
  Held held;
  while (bytes > 0) {
    const int part = static_cast<int>(std::min<int64_t>(bytes, kPageBytes - at % kPageBytes));
    f(s ? shared_page(*s, at) : held.at(*allocation, at, launch), at, part);
    at += part;
    bytes -= part;
  }
}
}  // namespace

void touch_transfer(Transfer& t, Use use, Cta* owner, uint64_t at, const Allocation* allocation, int bytes) {
  if (!owner && (!allocation || !allocation->writable)) return;
  Cta::Strict* s = owner ? &strict_of(*owner) : nullptr;
  const uint64_t launch = t.cta->cluster->grid->launch;
  if (strict().races) {
    Agent a = agent_of(t, owner, use);
    a.range = {owner, allocation};
    each_page(s, allocation, launch, at, bytes, [&](Page& p, uint64_t from, int part) {
      // ragged ends by themselves, whole cells between
      while (part > 0) {
        const int ragged = static_cast<int>(from % 4);
        const int now = ragged || part < 4 ? std::min(4 - ragged, part) : part / 4 * 4;
        touch(p, a, use != Use::read, from, now);
        from += now;
        part -= now;
      }
    });
    if (!t.async_proxy) t.acted |= Mask{1} << t.lane;
  }
  if (!s) return;
  for (int k = 0; k < bytes; k += 16) {
    const int part = std::min(16, bytes - k);
    if (use != Use::read)
      initialise(*s, at + k, part);
    else if (strict().uninitialised && !initialised(*s, at + k, part)) {
      Agent a = agent_of(t, true, use);
      throw Fault(subject(a, false) + " of uninitialised shared memory: bytes from " + std::to_string(at + k) +
                  " that nothing wrote so far");
    }
  }
}

namespace {
/// One page's part; the agent is needed for a report only.
template <class MakeAgent>
void mark_cells(Page& p, uint64_t at, int bytes, Use use, bool begin, Stamp who, MakeAgent agent) {
  const int first = static_cast<int>((at % kPageBytes + 3) / 4), last = static_cast<int>((at % kPageBytes + bytes) / 4);
  if (begin && p.pending) {
    bool any = false;
    for (int c = first; c < last; ++c)
      any |= (p.filling && p.filling[c]) || (use != Use::read && p.feeding && p.feeding[c]);
    if (any) {
      Agent a = agent();
      check_pending(p, a, first, last - first, use != Use::read, at);
    }
  }
  if (use != Use::read) {
    if (!p.filling) p.filling = std::make_unique<Stamp[]>(kCells);
    for (int c = first; c < last; ++c) {
      p.pending += (begin ? 1 : 0) - (p.filling[c] ? 1 : 0);
      p.filling[c] = begin ? who : 0;
    }
  } else {
    if (!p.feeding) p.feeding = std::make_unique<uint16_t[]>(kCells);
    for (int c = first; c < last; ++c) {
      if (!begin && !p.feeding[c]) continue;
      p.feeding[c] += begin ? 1 : -1;
      p.pending += begin ? 1 : -1;
    }
  }
}

void mark_pending(Transfer& t, Cta& cta, Space space, uint64_t address, int bytes, Use use, bool begin) {
  const bool shared = space == Space::shared;
  const uint64_t at = shared ? (address & 0xFF'FFFF) - kSharedBase : address;
  const Allocation* allocation = shared ? nullptr : find_allocation(address);
  if (shared ? at + bytes > cta.shared.size() : !allocation || !allocation->writable || !allocation->holds(at, bytes))
    return;  // reported when it is carried out
  const WarpClock& c = strict_of(*t.cta).warps[t.warp];
  const Stamp who = stamp_of(c.now, c.id, false, false, t.line) | lane_bits(t.lane) | cover_bits(15);
  const auto agent = [&] {
    Agent a = agent_of(t, shared, use);
    a.range = {shared ? &cta : nullptr, allocation};
    return a;
  };
  each_page(shared ? &strict_of(cta) : nullptr, allocation, t.cta->cluster->grid->launch, at, bytes,
            [&](Page& p, uint64_t from, int part) { mark_cells(p, from, part, use, begin, who, agent); });
}
}  // namespace

void begin_pending(Transfer& t, Cta& cta, Space space, uint64_t address, int bytes, Use use) {
  t.pending_use = use;
  mark_pending(t, cta, space, address, bytes, use, true);
  if (use == Use::read) return;
  std::byte* host = space == Space::shared ? cta.shared.data() + ((address & 0xFF'FFFF) - kSharedBase)
                                           : reinterpret_cast<std::byte*>(address);
  if (space == Space::shared && (address & 0xFF'FFFF) - kSharedBase + bytes > cta.shared.size())
    return;  // reported when carried out
  std::memset(host, 0xFF, bytes);
}

void end_pending(Transfer& t, Cta& cta, Space space, uint64_t address, int bytes) {
  mark_pending(t, cta, space, address, bytes, t.pending_use, false);
}

}  // namespace emu
