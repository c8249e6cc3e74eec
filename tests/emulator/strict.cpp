#include "strict.h"

namespace emu {

struct Clock::State {};

Strict& strict() {
  static Strict s;
  return s;
}

void release(Warp&, Mask, Clock&) {}
void acquire(Warp&, Mask, const Clock&) {}
void join(Clock&, const Clock&) {}
void fence_proxy_async(Warp&, Mask) {}
void sync_warp(Warp&, Mask) {}
void order_at(Warp&, Mask, const std::byte*, Order) {}
void order_after(Warp&, Mask, std::byte* const*, Order) {}
void fence_memory(Warp&, Mask) {}

Transfer begin_transfer(Warp& w, const Inst& i, int lane, bool async_proxy) {
  Transfer t;
  t.cta = w.cta;
  t.async_proxy = async_proxy;
  t.warp = w.index;
  t.lane = lane;
  t.line = i.line;
  return t;
}
void complete_transfer(Transfer&, Clock&) {}
void begin_pending(Transfer&, Cta& cta, Space space, uint64_t address, int bytes, Use use) {
  if (use != Use::write) return;
  std::byte* at = space == Space::shared ? cta.shared.data() + ((address & 0xFF'FFFF) - kSharedBase)
                                         : reinterpret_cast<std::byte*>(address);
  for (int k = 0; k < bytes; ++k) at[k] = std::byte{0xFF};
}
void end_pending(Transfer&, Cta&, Space, uint64_t, int) {}

}  // namespace emu
