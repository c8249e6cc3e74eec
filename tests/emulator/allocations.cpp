#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "strict.h"

// The table of what device code may touch.
namespace emu {
namespace {

constexpr size_t kRedZone = 256;

struct Table {
  std::shared_mutex mutex;
  std::map<uint64_t, std::shared_ptr<Allocation>> ranges;  // by base
  std::atomic<uint64_t> version{1};
};
Table& table() {
  static Table* t = new Table;  // outlives whatever frees memory at exit
  return *t;
}

struct Recent {
  static constexpr int kSlots = 4;
  uint64_t version = 0;
  int next = 0;
  std::shared_ptr<Allocation> slot[kSlots];
};
thread_local Recent recent;

void insert(std::shared_ptr<Allocation> a) {
  Table& t = table();
  const std::unique_lock lock(t.mutex);
  t.ranges[a->base] = std::move(a);
  t.version.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<Allocation> erase(uint64_t base) {
  Table& t = table();
  const std::unique_lock lock(t.mutex);
  const auto it = t.ranges.find(base);
  if (it == t.ranges.end()) return nullptr;
  auto a = std::move(it->second);
  t.ranges.erase(it);
  t.version.fetch_add(1, std::memory_order_release);
  return a;
}

void poison(std::byte* to, size_t bytes) {
  for (size_t i = 0; i + 2 <= bytes; i += 2) std::memcpy(to + i, &kPoison, 2);
  if (bytes % 2) to[bytes - 1] = std::byte{kPoison & 0xFF};
}

}  // namespace

const Allocation* find_allocation(uint64_t address) {
  Table& t = table();
  const uint64_t version = t.version.load(std::memory_order_acquire);
  Recent& r = recent;
  if (r.version == version) {
    for (const auto& a : r.slot)
      if (a && a->holds(address, 1)) return a.get();
  } else {
    for (auto& a : r.slot) a.reset();
    r.version = version;
  }
  const std::shared_lock lock(t.mutex);
  auto it = t.ranges.upper_bound(address);
  if (it == t.ranges.begin()) return nullptr;
  --it;
  if (!it->second->holds(address, 1)) return nullptr;
  r.next = (r.next + 1) % Recent::kSlots;
  r.slot[r.next] = it->second;
  return it->second.get();
}

std::string hex(uint64_t v) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

std::string nearby(uint64_t address) {
  const auto name = [](const Allocation& a) {
    return "the " + std::to_string(a.size) + " bytes of " + a.what + " at " + hex(a.base);
  };
  Table& t = table();
  const std::shared_lock lock(t.mutex);
  const auto above = t.ranges.upper_bound(address);
  if (above != t.ranges.begin()) {
    const Allocation& a = *std::prev(above)->second;
    if (address < a.base + a.size) return "byte " + std::to_string(address - a.base) + " of " + name(a);
    const uint64_t past = address - (a.base + a.size);
    if (above == t.ranges.end() || past <= above->first - address)
      return std::to_string(past) + " bytes behind " + name(a);
  }
  if (above == t.ranges.end()) return "nothing is allocated";
  return std::to_string(above->first - address) + " bytes before " + name(*above->second);
}

void* device_malloc(size_t bytes, size_t align) {
  align = std::max(align, kRedZone);
  const size_t room = (bytes + align - 1) / align * align + 2 * align;
  auto* start = static_cast<std::byte*>(std::aligned_alloc(align, room));
  if (!start) return nullptr;
  poison(start, room);
  auto a = std::make_shared<Allocation>();
  a->base = reinterpret_cast<uint64_t>(start + align);
  a->size = bytes;
  a->what = "device memory";
  a->owned = start;
  insert(std::move(a));
  return start + align;
}

bool device_free(void* p) {
  const uint64_t base = reinterpret_cast<uint64_t>(p);
  {
    Table& t = table();
    const std::shared_lock lock(t.mutex);
    const auto it = t.ranges.find(base);
    if (it == t.ranges.end() || !it->second->owned) return false;
  }
  const auto a = erase(base);
  if (!a) return false;
  std::free(a->owned);
  return true;
}

void track(const void* p, size_t bytes, bool writable, bool initialised, const char* what) {
  auto a = std::make_shared<Allocation>();
  a->base = reinterpret_cast<uint64_t>(p);
  a->size = bytes;
  a->writable = writable;
  a->what = what;
  if (!initialised) poison(static_cast<std::byte*>(const_cast<void*>(p)), bytes);
  insert(std::move(a));
}

void untrack(const void* p) { erase(reinterpret_cast<uint64_t>(p)); }

}  // namespace emu
