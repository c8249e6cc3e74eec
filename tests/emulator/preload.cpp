#include <dlfcn.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "runtime.h"

// Under LD_PRELOAD the host's larger allocations are device memory: tracked to the byte, a red zone behind, poisoned.
// PyTorch's CPU tensors come from posix_memalign, whatever their size; malloc and calloc are tracked from kLeast bytes
// on.
extern "C" {  // glibc's own, which need no dlsym
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
}
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t kLeast = 4096, kRedZone = 256;

// Precedes the pointer of a tracked block, so that free() asks no table. Every other block has glibc's chunk size where
// `check` is, whose upper 16 bits are 0; `check` alone is read before that is known.
struct Mark {
  size_t bytes;
  uint64_t offset;  // from glibc's pointer
  uint64_t unused;
  uint64_t check;
};
constexpr uint64_t kMagic = 0xA110'0000'0000'0000;

bool ready = false;
size_t (*usable_size)(void*) = nullptr;  // glibc's

__attribute__((constructor)) void start() {
  usable_size = reinterpret_cast<size_t (*)(void*)>(dlsym(RTLD_NEXT, "malloc_usable_size"));
  ready = usable_size != nullptr;
}
__attribute__((destructor)) void stop() { ready = false; }

Mark* mark(void* p) { return static_cast<Mark*>(p) - 1; }
bool marked(void* p) { return p && mark(p)->check == (kMagic ^ reinterpret_cast<uint64_t>(p)); }
bool wants(size_t bytes, size_t least) { return ready && !saccade_emulator_quiet && bytes >= least; }

void* tracked(size_t align, size_t bytes, bool zero, const char* what) {
  if (align < 64) align = 64;
  auto* base = static_cast<std::byte*>(__libc_memalign(align, align + bytes + kRedZone));
  if (!base) return nullptr;
  std::byte* p = base + align;
  *mark(p) = {bytes, align, 0, kMagic ^ reinterpret_cast<uint64_t>(p)};
  if (zero) std::memset(p, 0, bytes);
  ++saccade_emulator_quiet;
  saccade_emulator_track(p, bytes, zero, what);
  --saccade_emulator_quiet;
  return p;
}

void* aligned(size_t align, size_t bytes, const char* what) {
  return wants(bytes, 1) ? tracked(align, bytes, false, what) : __libc_memalign(align, bytes);
}

}  // namespace

EXPORT void* malloc(size_t bytes) {
  return wants(bytes, kLeast) ? tracked(64, bytes, false, "malloc") : __libc_malloc(bytes);
}

EXPORT void* calloc(size_t n, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(n, size, &bytes)) return errno = ENOMEM, nullptr;
  return wants(bytes, kLeast) ? tracked(64, bytes, true, "calloc") : __libc_calloc(n, size);
}

EXPORT void free(void* p) {
  if (!marked(p)) return __libc_free(p);
  ++saccade_emulator_quiet;
  saccade_emulator_untrack(p);
  --saccade_emulator_quiet;
  mark(p)->check = 0;
  __libc_free(static_cast<std::byte*>(p) - mark(p)->offset);
}

EXPORT size_t malloc_usable_size(void* p) {
  if (marked(p)) return mark(p)->bytes;
  if (!usable_size) usable_size = reinterpret_cast<size_t (*)(void*)>(dlsym(RTLD_NEXT, "malloc_usable_size"));
  return usable_size(p);
}

EXPORT void* realloc(void* p, size_t bytes) {
  if (!p) return malloc(bytes);
  if (!marked(p) && !wants(bytes, kLeast)) return __libc_realloc(p, bytes);
  void* to = bytes ? malloc(bytes) : nullptr;
  if (bytes && !to) return nullptr;
  if (bytes) std::memcpy(to, p, std::min(bytes, malloc_usable_size(p)));
  free(p);
  return to;
}

EXPORT int posix_memalign(void** out, size_t align, size_t bytes) {
  if (align < sizeof(void*) || (align & (align - 1))) return EINVAL;
  *out = aligned(align, bytes, "posix_memalign");
  return *out ? 0 : ENOMEM;
}
EXPORT void* aligned_alloc(size_t align, size_t bytes) { return aligned(align, bytes, "aligned_alloc"); }
EXPORT void* memalign(size_t align, size_t bytes) { return aligned(align, bytes, "memalign"); }
