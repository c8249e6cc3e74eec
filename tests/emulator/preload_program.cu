#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "runtime.h"

// Run under LD_PRELOAD of libsaccade_emulator_preload.so: the host's allocations are device memory, watched to the
// byte.
__global__ void copy(int* to, const int* from, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from[i];
}

static int failures = 0;

static void check(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  ++failures;
}

/// Launches and says what was found.
static std::string run(int* to, const int* from, int n) {
  copy<<<(n + 127) / 128, 128>>>(to, from, n);
  cudaGetLastError();
  std::string findings(2000, '\0');
  findings.resize(std::min(findings.size(), saccade_emulator_findings(findings.data(), findings.size())));
  saccade_emulator_clear();
  return findings;
}

static int* aligned(int n) {
  void* p = nullptr;
  check(posix_memalign(&p, 64, n * sizeof(int)) == 0, "posix_memalign");
  return static_cast<int*>(p);
}

int main() {
  saccade_emulator_set("print=off");
  int *a = aligned(10), *b = aligned(10);
  check(reinterpret_cast<size_t>(a) % 64 == 0, "alignment");
  for (int i = 0; i < 10; ++i) a[i] = i;
  check(run(b, a, 10).empty(), "in bounds");
  check(b[9] == 9, "copied");
  check(run(b, a, 11).find("out of bounds") != std::string::npos, "one element too many");
  int* fresh = aligned(10);
  check(run(b, fresh, 10).find("uninitialised") != std::string::npos, "read of what nobody wrote");
  check(run(fresh, a, 10).empty() && run(b, fresh, 10).empty(), "read of what a kernel wrote");
  std::free(fresh);
  check(run(b, fresh, 10).find("out of bounds") != std::string::npos, "read of freed memory");

  auto* large = static_cast<int*>(std::calloc(5000, sizeof(int)));
  check(run(large, a, 10).empty() && run(b, large + 4990, 10).empty(), "calloc");
  check(b[0] == 0, "zeroed");
  large = static_cast<int*>(std::realloc(large, 9000 * sizeof(int)));
  check(large[9] == 9 && run(large + 8990, a, 10).empty(), "realloc");
  check(run(large + 8991, a, 10).find("out of bounds") != std::string::npos, "behind what realloc gave");
  large = static_cast<int*>(std::realloc(large, 16));
  check(large[3] == 3, "shrunk");
  std::free(large);

  int local[10];
  check(run(local, a, 10).find("out of bounds") != std::string::npos, "the stack is nobody's");
  saccade_emulator_set("untracked=off");
  check(run(local, a, 10).empty() && local[9] == 9, "untracked=off");
  std::free(a);
  std::free(b);
  return failures;
}
