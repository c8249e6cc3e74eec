#include <algorithm>
#include <cstring>

#include "strict.h"

// Addresses to host pointers, with bounds, alignment and write protection checked; what races is strict.cpp's.
namespace emu {
namespace {

const char* verb(Use u) { return u == Use::read ? "read" : u == Use::write ? "write" : "atomic operation"; }

[[noreturn]] void bad(Warp& w, const Inst& i, int lane, Use use, int bytes, const std::string& what) {
  fault(w, i, lane, std::string(verb(use)) + " of " + std::to_string(bytes) + " bytes " + what);
}

void misaligned(Warp& w, const Inst& i, Mask lanes, Use use, const uint64_t* address, int bytes) {
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    if (address[l] & (bytes - 1))
      bad(w, i, l, use, bytes,
          "at the misaligned address " + hex(address[l]) + " (a multiple of " + std::to_string(bytes) +
              " is required)");
  }
}

/// Where a shared address lies: own CTA's window, or a peer's.
Cta& shared_owner(Warp& w, const Inst& i, int lane, Use use, uint64_t address, int bytes, uint64_t* offset) {
  const uint64_t rank = address >> 24, byte = address & 0xFF'FFFF;
  auto& ctas = w.cta->cluster->ctas;
  if (rank > ctas.size())
    bad(w, i, lane, use, bytes, "out of bounds: shared address " + hex(address) + " is of no CTA of the cluster");
  Cta& cta = rank ? *ctas[rank - 1] : *w.cta;
  *offset = byte - kSharedBase;
  if (byte < kSharedBase || *offset + bytes > cta.shared.size())
    bad(w, i, lane, use, bytes,
        "out of bounds: byte " + std::to_string(static_cast<int64_t>(*offset)) + " of " +
            std::to_string(cta.shared.size()) + " bytes of shared memory (static " +
            std::to_string(w.cta->cluster->grid->program->shared_bytes) + ")");
  return cta;
}

// Bank conflicts: 32 banks of 4 bytes; accesses of 8 and 16 bytes go by half and quarter warps; lanes at one word
// share.
void count_shared(Mask lanes, const uint64_t* offset, int bytes) {
  Counts& c = counts();
  ++c.shared_requests;
  const int group = bytes <= 4 ? kLanes : std::max(1, kLanes * 4 / bytes);
  const int words = std::max(1, bytes / 4);
  uint64_t wavefronts = 0, ideal = 0;
  for (int first = 0; first < kLanes; first += group) {
    const Mask part = lanes & (group == kLanes ? kAllLanes : ((Mask{1} << group) - 1) << first);
    if (!part) continue;
    uint64_t low = ~uint64_t{0};
    for (int l = first; l < first + group; ++l) low = std::min(low, offset[l]);
    // the usual case: within 128 bytes that start at a multiple of 4, every bank is asked for one word at most
    bool near = true;
    for (int l = first; l < first + group; ++l) near &= (offset[l] >> 2) - (low >> 2) + words <= 32;
    if (near) {
      ++wavefronts, ++ideal;
      continue;
    }
    uint32_t word[128];
    int n = 0;
    for (Mask m = part; m; m &= m - 1)
      for (int k = 0; k < words; ++k) word[n++] = static_cast<uint32_t>(offset[__builtin_ctz(m)] >> 2) + k;
    std::sort(word, word + n);
    n = static_cast<int>(std::unique(word, word + n) - word);
    int bank[32] = {}, most = 0;
    for (int k = 0; k < n; ++k) most = std::max(most, ++bank[word[k] % 32]);
    wavefronts += most;
    ideal += (n + 31) / 32;
  }
  c.shared_wavefronts += wavefronts;
  c.shared_ideal += ideal;
}

void count_global(Mask lanes, const uint64_t* address, int bytes) {
  Counts& c = counts();
  ++c.global_requests;
  c.global_bytes += static_cast<uint64_t>(__builtin_popcount(lanes)) * bytes;
  uint64_t sector[2 * kLanes];
  int n = 0;
  bool sorted = true;
  for (int l = 0; l < kLanes; ++l) {  // an access of 32 bytes is aligned: one sector
    const uint64_t s = address[l] / 32;
    if (n && sector[n - 1] == s) continue;
    sorted &= !n || sector[n - 1] < s;
    sector[n++] = s;
  }
  if (!sorted) {
    std::sort(sector, sector + n);
    n = static_cast<int>(std::unique(sector, sector + n) - sector);
  }
  c.global_sectors += n;
}

struct Values {
  const std::byte (*of)[16] = nullptr;
};

void shared_access(Warp& w, const Inst& i, Mask lanes, Use use, Order order, const uint64_t* address, int bytes,
                   std::byte** host, Values value) {
  Cta& cta = *w.cta;
  uint64_t any = 0, far = 0;
  uint64_t offset[kLanes];
  const uint64_t size = cta.shared.size(), room = size - bytes;
  for (int l = 0; l < kLanes; ++l) {
    offset[l] = address[l] - kSharedBase;
    any |= address[l];
    far |= (size < static_cast<uint64_t>(bytes)) | (offset[l] > room);
    host[l] = cta.shared.data() + offset[l];
  }
  if (any & (bytes - 1)) misaligned(w, i, lanes, use, address, bytes);
  Cta* owner[kLanes];
  if (far) {
    for (Mask m = lanes; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      owner[l] = &shared_owner(w, i, l, use, address[l], bytes, &offset[l]);
      host[l] = owner[l]->shared.data() + offset[l];
    }
    const int first = __builtin_ctz(lanes);
    for (int l = 0; l < kLanes; ++l)
      if (!(lanes >> l & 1)) host[l] = host[first], offset[l] = offset[first], owner[l] = owner[first];
  }
  if (use != Use::read && order != Order::weak) order_before(w, lanes, host, order);
  if (!far) {
    count_shared(lanes, offset, bytes);
    return touch_shared(w, i, lanes, use, order, cta, offset, bytes, value.of);
  }
  for (Mask left = lanes; left;) {
    Cta* const of = owner[__builtin_ctz(left)];
    Mask same = 0;
    for (Mask m = left; m; m &= m - 1)
      if (owner[__builtin_ctz(m)] == of) same |= m & -m;
    left &= ~same;
    if (of == &cta) count_shared(same, offset, bytes);
    touch_shared(w, i, same, use, order, *of, offset, bytes, value.of);
  }
}

/// A word of 4 bytes that holds the poison whole: of random data one in 2^32. Smaller elements are judged by their
/// word.
bool poisoned(const std::byte* at, int bytes) {
  constexpr uint32_t kWord = kPoison * 0x10001u;
  at -= reinterpret_cast<uintptr_t>(at) % 4;
  bool found = false;
  for (int k = 0; k < bytes; k += 4) {
    uint32_t v;
    std::memcpy(&v, at + k, 4);
    found |= v == kWord;
  }
  return found;
}

void global_access(Warp& w, const Inst& i, Mask lanes, Use use, Order order, const uint64_t* address, int bytes,
                   std::byte** host, Values value) {
  uint64_t any = 0, low = ~uint64_t{0}, high = 0;
  for (int l = 0; l < kLanes; ++l) {
    any |= address[l];
    low = std::min(low, address[l]);
    high = std::max(high, address[l]);
    host[l] = reinterpret_cast<std::byte*>(address[l]);
  }
  if (any & (bytes - 1)) misaligned(w, i, lanes, use, address, bytes);
  const Allocation* a = find_allocation(low);
  const bool one = a && a->holds(low, bytes) && a->holds(high, bytes);
  if (strict().bounds) {
    for (Mask m = one ? lanes & -lanes : lanes; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      const Allocation* of = one ? a : find_allocation(address[l]);
      if (!of && !strict().untracked) continue;
      if (!of || !of->holds(address[l], bytes))
        bad(w, i, l, use, bytes, "out of bounds: " + hex(address[l]) + " is " + nearby(address[l]));
      if (use != Use::read && !of->writable)
        bad(w, i, l, use, bytes, "to read-only memory: " + hex(address[l]) + " is " + nearby(address[l]));
    }
    if (strict().uninitialised && use != Use::write) {
      bool found = false;
      for (int l = 0; l < kLanes; ++l) found |= poisoned(host[l], bytes);
      for (Mask m = found ? lanes : 0; m; m &= m - 1) {
        const int l = __builtin_ctz(m);
        if (poisoned(host[l], bytes))
          bad(w, i, l, use, bytes, "of uninitialised global memory: " + hex(address[l]) + " is " + nearby(address[l]));
      }
    }
  }
  count_global(lanes, address, bytes);
  if (use != Use::read && order != Order::weak) order_before(w, lanes, host, order);
  touch_global(w, i, lanes, use, order, one ? a : nullptr, address, bytes, value.of);
}

void local_access(Warp& w, const Inst& i, Mask lanes, Use use, const uint64_t* address, int bytes, std::byte** host) {
  const int64_t size = w.cta->cluster->grid->program->local_bytes;
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    if (address[l] & (bytes - 1)) misaligned(w, i, lanes, use, address, bytes);
    const uint64_t offset = address[l] - kLocalWindow;
    if (offset + bytes > static_cast<uint64_t>(size))
      bad(w, i, l, use, bytes,
          "out of bounds: byte " + std::to_string(static_cast<int64_t>(offset)) + " of " + std::to_string(size) +
              " bytes of local memory");
    host[l] = local(w, l) + offset;
  }
  std::byte* const first = host[__builtin_ctz(lanes)];
  for (int l = 0; l < kLanes; ++l) host[l] = lanes >> l & 1 ? host[l] : first;
}

/// A kernel's parameters; those of calls lie in local memory.
void param_access(Warp& w, const Inst& i, Mask lanes, Use use, const uint64_t* address, int bytes, std::byte** host) {
  const auto& params = w.cta->cluster->grid->params;
  const uint64_t base = reinterpret_cast<uint64_t>(params.data());
  for (int l = 0; l < kLanes; ++l) {
    host[l] = reinterpret_cast<std::byte*>(address[l]);
    if (address[l] - base + bytes > params.size())
      bad(w, i, lanes >> l & 1 ? l : __builtin_ctz(lanes), use, bytes,
          "out of bounds: byte " + std::to_string(static_cast<int64_t>(address[l] - base)) + " of " +
              std::to_string(params.size()) + " bytes of parameters");
    if (address[l] & (bytes - 1)) misaligned(w, i, lanes, use, address, bytes);
  }
  if (use != Use::read) bad(w, i, __builtin_ctz(lanes), use, bytes, "to read-only memory: the kernel's parameters");
}

Space window_of(const Warp& w, Space space, uint64_t address) {
  if (address >= kLocalWindow) return Space::local;
  if (address >= kSharedWindow) return Space::shared;
  if (space == Space::constant || space == Space::param) {
    const auto& params = w.cta->cluster->grid->params;
    if (address - reinterpret_cast<uint64_t>(params.data()) < params.size()) return Space::param;
  }
  return space == Space::param ? Space::param : Space::global;
}

void resolve(Warp& w, const Inst& i, Mask lanes, Space space, Use use, Order order, const uint64_t* given, int bytes,
             std::byte** host, Values value) {
  if (!lanes) return;
  uint64_t address[kLanes];  // those of lanes that take no part are another's: the loops need no mask
  const uint64_t first = given[__builtin_ctz(lanes)];
  for (int l = 0; l < kLanes; ++l) address[l] = lanes >> l & 1 ? given[l] : first;
  if (space == Space::shared) return shared_access(w, i, lanes, use, order, address, bytes, host, value);
  if (space == Space::global) return global_access(w, i, lanes, use, order, address, bytes, host, value);
  const Space window = space == Space::local ? Space::local : window_of(w, space, first);
  Mask same = 0;
  for (int l = 0; l < kLanes; ++l)
    same |= Mask{space == Space::local || window_of(w, space, address[l]) == window} << l;
  if (same != kAllLanes) {
    std::byte* part[kLanes];
    const Mask here = same & lanes;
    resolve(w, i, here, space, use, order, given, bytes, host, value);
    resolve(w, i, lanes & ~here, space, use, order, given, bytes, part, value);
    for (int l = 0; l < kLanes; ++l)
      host[l] = here >> l & 1 ? host[l] : lanes >> l & 1 ? part[l] : host[__builtin_ctz(here)];
    return;
  }
  if (window == Space::local) return local_access(w, i, lanes, use, address, bytes, host);
  if (window == Space::param) return param_access(w, i, lanes, use, address, bytes, host);
  if (window == Space::shared) {
    for (int l = 0; l < kLanes; ++l) address[l] -= kSharedWindow;
    return shared_access(w, i, lanes, use, order, address, bytes, host, value);
  }
  if (space == Space::constant && use != Use::read)
    bad(w, i, __builtin_ctz(lanes), use, bytes, "to read-only memory: constants");
  global_access(w, i, lanes, use, order, address, bytes, host, value);
}

}  // namespace

void access(Warp& w, const Inst& i, Mask lanes, Space space, Use use, Order order, const uint64_t* address, int bytes,
            std::byte** host) {
  resolve(w, i, lanes, space, use, order, address, bytes, host, {});
}

void access_values(Warp& w, const Inst& i, Mask lanes, Space space, const uint64_t* address, int bytes,
                   std::byte** host, const std::byte (*value)[16]) {
  resolve(w, i, lanes, space, Use::write, Order::weak, address, bytes, host, {value});
}

std::byte* transfer_access(Transfer& t, Cta& cta, Space space, Use use, uint64_t address, int bytes) {
  const auto bad = [&](const std::string& what) {
    const Grid& g = *t.cta->cluster->grid;
    throw Fault(g.program->function->name + ", warp " + std::to_string(t.warp) + ", lane " + std::to_string(t.lane) +
                ", line " + std::to_string(t.line) + ": " + std::string(ptx::source_line(*g.program->module, t.line)) +
                ": asynchronous " + verb(use) + " of " + std::to_string(bytes) + " bytes " + what);
  };
  if (space == Space::shared) {
    const uint64_t offset = (address & 0xFF'FFFF) - kSharedBase;
    if (offset + bytes > cta.shared.size())
      bad("out of bounds: byte " + std::to_string(static_cast<int64_t>(offset)) + " of " +
          std::to_string(cta.shared.size()) + " bytes of shared memory");
    touch_transfer(t, use, &cta, offset, nullptr, bytes);
    return cta.shared.data() + offset;
  }
  const Allocation* a = find_allocation(address);
  if (strict().bounds) {
    if (a ? !a->holds(address, bytes) : strict().untracked)
      bad("out of bounds: " + hex(address) + " is " + nearby(address));
    if (a && use != Use::read && !a->writable) bad("to read-only memory: " + hex(address) + " is " + nearby(address));
  }
  auto* host = reinterpret_cast<std::byte*>(address);
  if (strict().uninitialised && !t.async_proxy && use == Use::read && poisoned(host, bytes))
    bad("of uninitialised global memory: " + hex(address) + " is " + nearby(address));
  if (a) touch_transfer(t, use, nullptr, address, a, bytes);
  return host;
}

}  // namespace emu
