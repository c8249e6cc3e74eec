// What this machine can do at most, measured beside the kernels: fused multiply-adds per second from registers, and
// bytes read per second from memory. A plain shared library that Python loads by ctypes; it links nothing of saccade.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

// Twelve independent sums: latency 4 x 2 units needs eight, and avx2 has 16 registers.
constexpr int kSums = 12;

// `width` floats per instruction; FMA_LOOP returns the multiply-adds done, times two.
#define SACCADE_FMA_LOOP(name, attribute, vec, set1, fma, width)                           \
  attribute double name(int64_t rounds, float seed) {                                      \
    vec sum[kSums];                                                                        \
    const vec a = set1(0.999f + seed), b = set1(1e-3f);                                    \
    for (int i = 0; i < kSums; ++i) sum[i] = set1(static_cast<float>(i));                  \
    for (int64_t r = 0; r < rounds; ++r) {                                                 \
      _Pragma("GCC unroll 12") for (int i = 0; i < kSums; ++i) sum[i] = fma(sum[i], a, b); \
    }                                                                                      \
    float out[width];                                                                      \
    std::memcpy(out, sum, sizeof(out));                                                    \
    for (int i = 1; i < kSums; ++i) {                                                      \
      float more[width];                                                                   \
      std::memcpy(more, &sum[i], sizeof(more));                                            \
      for (int j = 0; j < width; ++j) out[j] += more[j];                                   \
    }                                                                                      \
    sink.store(out[0], std::memory_order_relaxed);                                         \
    return 2.0 * width * kSums * static_cast<double>(rounds);                              \
  }

// Four streams of loads, all bytes used.
#define SACCADE_READ_LOOP(name, attribute, vec, zero, load, add, width)          \
  attribute void name(const float* p, int64_t n) {                               \
    vec sum[4] = {zero, zero, zero, zero};                                       \
    for (int64_t i = 0; i + 4 * width <= n; i += 4 * width)                      \
      for (int j = 0; j < 4; ++j) sum[j] = add(sum[j], load(p + i + j * width)); \
    float out[width];                                                            \
    const vec all = add(add(sum[0], sum[1]), add(sum[2], sum[3]));               \
    std::memcpy(out, &all, sizeof(out));                                         \
    sink.store(out[0], std::memory_order_relaxed);                               \
  }

std::atomic<float> sink;

#if defined(__x86_64__)
#define SACCADE_MULTIPLY_ADD(x, a, b) _mm_add_ps(_mm_mul_ps(x, a), b)
SACCADE_FMA_LOOP(fma_base, , __m128, _mm_set1_ps, SACCADE_MULTIPLY_ADD, 4)
SACCADE_READ_LOOP(read_base, , __m128, _mm_setzero_ps(), _mm_loadu_ps, _mm_add_ps, 4)
#define SACCADE_AVX2 __attribute__((target("avx2,fma")))
SACCADE_FMA_LOOP(fma_avx2, SACCADE_AVX2, __m256, _mm256_set1_ps, _mm256_fmadd_ps, 8)
SACCADE_READ_LOOP(read_avx2, SACCADE_AVX2, __m256, _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_add_ps, 8)
#define SACCADE_AVX512 __attribute__((target("avx512f")))
SACCADE_FMA_LOOP(fma_avx512, SACCADE_AVX512, __m512, _mm512_set1_ps, _mm512_fmadd_ps, 16)
SACCADE_READ_LOOP(read_avx512, SACCADE_AVX512, __m512, _mm512_setzero_ps(), _mm512_loadu_ps, _mm512_add_ps, 16)
#elif defined(__aarch64__)
#define SACCADE_MULTIPLY_ADD(x, a, b) vfmaq_f32(b, x, a)
SACCADE_FMA_LOOP(fma_neon, , float32x4_t, vdupq_n_f32, SACCADE_MULTIPLY_ADD, 4)
SACCADE_READ_LOOP(read_neon, , float32x4_t, vdupq_n_f32(0), vld1q_f32, vaddq_f32, 4)
#endif

struct Isa {
  const char* name;
  double (*fma)(int64_t, float);
  void (*read)(const float*, int64_t);
};

const Isa* find(const char* name) {
  static const Isa isas[] = {
#if defined(__x86_64__)
      {"base", fma_base, read_base},
      {"avx2", fma_avx2, read_avx2},
      {"avx512", fma_avx512, read_avx512},
#elif defined(__aarch64__)
      {"neon", fma_neon, read_neon},
      {"base", fma_neon, read_neon},
#endif
      {nullptr, nullptr, nullptr}};
  for (const Isa* i = isas; i->name; ++i)
    if (!std::strcmp(i->name, name)) return i;
  return nullptr;
}

/// Seconds from the moment all threads stand ready until the last is done; work(t, phase): phase 0 prepares, 1 is
/// timed.
template <class Work>
double timed(int threads, const Work& work) {
  std::atomic<int> ready{0};
  std::vector<std::thread> pool;
  using Clock = std::chrono::steady_clock;
  std::vector<Clock::time_point> begin(threads), end(threads);
  for (int t = 0; t < threads; ++t)
    pool.emplace_back([&, t] {
      work(t, 0);
      ready.fetch_add(1);
      while (ready.load(std::memory_order_acquire) < threads) std::this_thread::yield();
      begin[t] = Clock::now();
      work(t, 1);
      end[t] = Clock::now();
    });
  for (auto& thread : pool) thread.join();
  return std::chrono::duration<double>(*std::max_element(end.begin(), end.end()) -
                                       *std::min_element(begin.begin(), begin.end()))
      .count();
}

}  // namespace

extern "C" {

/// FLOP/s of dependent-free single-precision multiply-adds on `threads` threads; 0 for an instruction set it does not
/// know.
__attribute__((visibility("default"))) double saccade_roofline_fma(const char* isa, int threads, int64_t rounds) {
  const Isa* i = find(isa);
  if (!i || threads < 1) return 0;
  std::vector<double> flops(threads);
  const double seconds = timed(threads, [&](int t, int phase) {
    if (phase) flops[t] = i->fma(rounds, 0.0f);
  });
  double sum = 0;
  for (double f : flops) sum += f;
  return sum / seconds;
}

/// Bytes read per second from `bytes` of memory (far more than the caches) divided among `threads` threads; 0 as above.
__attribute__((visibility("default"))) double saccade_roofline_read(const char* isa, int threads, int64_t bytes) {
  const Isa* i = find(isa);
  if (!i || threads < 1) return 0;
  const int64_t each = bytes / 4 / threads;
  std::unique_ptr<float[]> memory(new float[each * threads]);
  const double seconds = timed(threads, [&](int t, int phase) {
    float* p = memory.get() + t * each;
    if (phase)
      i->read(p, each);
    else
      std::fill(p, p + each, 1.0f);
  });
  return static_cast<double>(each) * 4 * threads / seconds;
}
}
