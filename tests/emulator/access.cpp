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

void shared_access(Warp& w, const Inst& i, Mask lanes, Use use, Order, const uint64_t* address, int bytes,
                   std::byte** host) {
  Cta& cta = *w.cta;
  uint64_t any = 0, far = 0;
  const uint64_t room = cta.shared.size() - bytes;
  for (int l = 0; l < kLanes; ++l) {
    const uint64_t offset = address[l] - kSharedBase;
    any |= address[l];
    far |= (cta.shared.size() < static_cast<uint64_t>(bytes)) | (offset > room);
    host[l] = cta.shared.data() + offset;
  }
  if (far) {
    for (Mask m = lanes; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      uint64_t offset;
      Cta& owner = shared_owner(w, i, l, use, address[l], bytes, &offset);
      host[l] = owner.shared.data() + offset;
    }
    std::byte* const first = host[__builtin_ctz(lanes)];
    for (int l = 0; l < kLanes; ++l) host[l] = lanes >> l & 1 ? host[l] : first;
  }
  if (any & (bytes - 1)) misaligned(w, i, lanes, use, address, bytes);
}

void global_access(Warp& w, const Inst& i, Mask lanes, Use use, Order, const uint64_t* address, int bytes,
                   std::byte** host) {
  uint64_t any = 0, low = ~uint64_t{0}, high = 0;
  for (int l = 0; l < kLanes; ++l) {
    any |= address[l];
    low = std::min(low, address[l]);
    high = std::max(high, address[l]);
    host[l] = reinterpret_cast<std::byte*>(address[l]);
  }
  if (any & (bytes - 1)) misaligned(w, i, lanes, use, address, bytes);
  if (!strict().bounds) return;
  const Allocation* a = find_allocation(low);
  const bool one = a && a->holds(low, bytes) && a->holds(high, bytes);
  for (Mask m = one ? lanes & -lanes : lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    if (!one) a = find_allocation(address[l]);
    if (!a && !strict().untracked) continue;
    if (!a || !a->holds(address[l], bytes))
      bad(w, i, l, use, bytes, "out of bounds: " + hex(address[l]) + " is " + nearby(address[l]));
    if (use != Use::read && !a->writable)
      bad(w, i, l, use, bytes, "to read-only memory: " + hex(address[l]) + " is " + nearby(address[l]));
  }
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

}  // namespace

void access(Warp& w, const Inst& i, Mask lanes, Space space, Use use, Order order, const uint64_t* given, int bytes,
            std::byte** host) {
  if (!lanes) return;
  uint64_t address[kLanes];  // those of lanes that take no part are another's: the loops need no mask
  const uint64_t first = given[__builtin_ctz(lanes)];
  for (int l = 0; l < kLanes; ++l) address[l] = lanes >> l & 1 ? given[l] : first;
  if (space == Space::shared) return shared_access(w, i, lanes, use, order, address, bytes, host);
  if (space == Space::global) return global_access(w, i, lanes, use, order, address, bytes, host);
  const Space window = space == Space::local ? Space::local : window_of(w, space, first);
  Mask same = 0;
  for (int l = 0; l < kLanes; ++l)
    same |= Mask{space == Space::local || window_of(w, space, address[l]) == window} << l;
  if (same != kAllLanes) {
    std::byte* part[kLanes];
    const Mask here = same & lanes;
    access(w, i, here, space, use, order, given, bytes, host);
    access(w, i, lanes & ~here, space, use, order, given, bytes, part);
    for (int l = 0; l < kLanes; ++l)
      host[l] = here >> l & 1 ? host[l] : lanes >> l & 1 ? part[l] : host[__builtin_ctz(here)];
    return;
  }
  if (window == Space::local) return local_access(w, i, lanes, use, address, bytes, host);
  if (window == Space::param) return param_access(w, i, lanes, use, address, bytes, host);
  if (window == Space::shared) {
    for (int l = 0; l < kLanes; ++l) address[l] -= kSharedWindow;
    return shared_access(w, i, lanes, use, order, address, bytes, host);
  }
  if (space == Space::constant && use != Use::read)
    bad(w, i, __builtin_ctz(lanes), use, bytes, "to read-only memory: constants");
  global_access(w, i, lanes, use, order, address, bytes, host);
}

void access_values(Warp& w, const Inst& i, Mask lanes, Space space, const uint64_t* address, int bytes,
                   std::byte** host, const std::byte (*)[16]) {
  access(w, i, lanes, space, Use::write, Order::weak, address, bytes, host);
}

std::byte* transfer_access(Transfer& t, Cta& cta, Space space, Use use, uint64_t address, int bytes) {
  const auto bad = [&](const std::string& what) {
    throw Fault("line " + std::to_string(t.line) + ", warp " + std::to_string(t.warp) + ", lane " +
                std::to_string(t.lane) + ": asynchronous " + verb(use) + " of " + std::to_string(bytes) + " bytes " +
                what);
  };
  if (space == Space::shared) {
    const uint64_t offset = (address & 0xFF'FFFF) - kSharedBase;
    if (offset + bytes > cta.shared.size())
      bad("out of bounds: byte " + std::to_string(static_cast<int64_t>(offset)) + " of " +
          std::to_string(cta.shared.size()) + " bytes of shared memory");
    return cta.shared.data() + offset;
  }
  if (strict().bounds) {
    const Allocation* a = find_allocation(address);
    if (a ? !a->holds(address, bytes) : strict().untracked)
      bad("out of bounds: " + hex(address) + " is " + nearby(address));
    if (a && use != Use::read && !a->writable) bad("to read-only memory: " + hex(address) + " is " + nearby(address));
  }
  return reinterpret_cast<std::byte*>(address);
}

}  // namespace emu
