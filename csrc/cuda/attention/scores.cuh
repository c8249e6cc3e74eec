#pragma once
#include "cuda/attention/sequence.cuh"
#include "cuda/ptx/special.cuh"
#include "math/modifier.h"
#include "math/operand/float.h"

// What happens to a warp's block of products before it is a block of scores, in the unit of the score map (the type
// Score, a header of math/score/). Blocks are accumulators [M][N][4] (cuda/ptx/mma.cuh); a Place says which query, key
// and query head element (m, n, e) belongs to.
namespace saccade::cuda {

constexpr float kLn2 = static_cast<float>(math::kLn2);
constexpr float kInf = __builtin_inff();

/// Rows of accumulators are queries, columns keys, of one head.
struct QueriesDown {
  static constexpr bool kQueriesDown = true;
  int32_t query0, key0;  // of element (0, 0, 0), the lane's share in it
  int32_t head0;

  __device__ QueriesDown(int32_t query, int32_t key, int32_t head, int lane)
      : query0(query + (lane >> 2)), key0(key + 2 * (lane & 3)), head0(head) {}
  __device__ __forceinline__ int32_t query(int m, int, int e) const { return query0 + 16 * m + 8 * (e >> 1); }
  __device__ __forceinline__ int32_t key(int, int n, int e) const { return key0 + 8 * n + (e & 1); }
  __device__ __forceinline__ int32_t head(int, int, int) const { return head0; }
};

/// Rows are keys, columns queries.
struct KeysDown {
  static constexpr bool kQueriesDown = false;
  int32_t query0, key0;
  int32_t head0;

  __device__ KeysDown(int32_t query, int32_t key, int32_t head, int lane)
      : query0(query + 2 * (lane & 3)), key0(key + (lane >> 2)), head0(head) {}
  __device__ __forceinline__ int32_t query(int, int n, int e) const { return query0 + 8 * n + (e & 1); }
  __device__ __forceinline__ int32_t key(int m, int, int e) const { return key0 + 16 * m + 8 * (e >> 1); }
  __device__ __forceinline__ int32_t head(int, int, int) const { return head0; }
};

/// f(m, n, e) for every element.
template <int M, int N, class F>
__device__ __forceinline__ void each(F f) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) f(m, n, e);
}

/// `f(i, head)` once for every query of the block; the result is used as rows(m, n, e).
template <class Place, int M, int N>
struct PerQuery {
  static constexpr int kCount = Place::kQueriesDown ? 2 * M : 2 * N;
  float x[kCount];

  template <class F>
  __device__ __forceinline__ PerQuery(const Place& at, F f) {
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int m = Place::kQueriesDown ? r / 2 : 0, n = Place::kQueriesDown ? 0 : r / 2;
      const int e = Place::kQueriesDown ? 2 * (r & 1) : r & 1;
      x[r] = f(at.query(m, n, e), at.head(m, n, e));
    }
  }
  __device__ __forceinline__ float operator()(int m, int n, int e) const {
    return x[Place::kQueriesDown ? 2 * m + (e >> 1) : 2 * n + (e & 1)];
  }
};

/// The score terms as one sequence sees them. Indices past a sequence's rows are clamped where they are read.
template <class Score>
struct Terms {
  static constexpr float kUnit = static_cast<float>(Score::kUnit);
  const Params& p;
  const Sequence& s;

  __device__ __forceinline__ int32_t clamp_query(int32_t i) const {
    return i < s.range.queries ? i : s.range.queries > 0 ? s.range.queries - 1 : 0;
  }
  __device__ __forceinline__ float per_query(const View& t, int32_t i, int32_t h) const {
    return *s.query_row<const float>(t, h, clamp_query(i));
  }
  /// scale2·temperature, what a product is multiplied by.
  __device__ __forceinline__ float factor(int32_t i, int32_t h) const {
    return p.temperature.data ? p.scale2 * per_query(p.temperature, i, h) : p.scale2;
  }
  __device__ __forceinline__ float gate(int32_t i, int32_t h) const {
    return p.gate.data ? per_query(p.gate, i, h) : 1.0f;
  }
  __device__ __forceinline__ float slope2(int32_t h) const {
    return reinterpret_cast<const float*>(p.slopes.data)[s.batch * p.slopes.batch + h * p.slopes.head] * kUnit;
  }
  __device__ __forceinline__ float sink2(int32_t h) const {
    return reinterpret_cast<const float*>(p.sinks.data)[h * p.sinks.head] * kUnit;
  }
  /// What a score of the head is compared with, under a map without row state.
  __device__ __forceinline__ float reference(int32_t h) const {
    return -(p.bias2 + (p.biases.data ? reinterpret_cast<const float*>(p.biases.data)[h * p.biases.head] * kUnit : 0));
  }
  /// The stream of dropout.
  __device__ __forceinline__ uint32_t number(int32_t h) const {
    return static_cast<uint32_t>(s.batch * p.query_heads + h);
  }
};

/// F is the stored format of the bias; bool is a byte: 0 or −inf.
struct Bool {
  using Storage = uint8_t;
  static __device__ __forceinline__ float load(uint8_t x) { return x ? 0.0f : -kInf; }
};

template <class F, class Score, int M, int N, class Place>
__device__ __forceinline__ void add_bias(float (&s)[M][N][4], const Terms<Score>& t, const Place& at) {
  const View& bias = t.p.bias;
  const auto* base = reinterpret_cast<const typename F::Storage*>(bias.data) + t.s.batch * bias.batch;
  each<M, N>([&](int m, int n, int e) {
    int32_t i = at.query(m, n, e), j = at.key(m, n, e);
    i = i < t.p.bias_queries ? i : t.p.bias_queries - 1;
    j = j < t.p.bias_keys ? j : t.p.bias_keys - 1;
    const float b = F::load(base[at.head(m, n, e) * bias.head + i * bias.row + j * bias.column]);
    s[m][n][e] =
        b == -kInf ? -kInf : s[m][n][e] + b * Terms<Score>::kUnit;  // −inf wins over NaN, as an invisible key must
  });
}

/// Turns products q·k into scores, before masking. `capped`, if given, receives factor·product after the softcap: what
/// the backward needs.
template <class T, class Score, int M, int N, class Place>
__device__ __forceinline__ void modify(float (&s)[M][N][4], const Terms<Score>& t, const Place& at,
                                       float (*capped)[N][4] = nullptr) {
  const Params& p = t.p;
  const PerQuery<Place, M, N> factor(at, [&](int32_t i, int32_t h) { return t.factor(i, h); });
  each<M, N>([&](int m, int n, int e) { s[m][n][e] *= factor(m, n, e); });
  if (p.softcap2 != 0) each<M, N>([&](int m, int n, int e) { s[m][n][e] = math::softcap(s[m][n][e], p.softcap2); });
  if (capped) each<M, N>([&](int m, int n, int e) { capped[m][n][e] = s[m][n][e]; });
  if (p.slopes.data) {
    const PerQuery<Place, M, N> slope(at, [&](int32_t, int32_t h) { return t.slope2(h); });
    each<M, N>([&](int m, int n, int e) {
      const auto distance = static_cast<float>(t.s.range.position(at.query(m, n, e)) - at.key(m, n, e));
      s[m][n][e] = math::alibi(s[m][n][e], slope(m, n, e), distance);
    });
  }
  if (p.bias_type == DType::boolean)
    add_bias<Bool>(s, t, at);
  else if (p.bias_type == DType::f32)
    add_bias<math::F32>(s, t, at);
  else if (p.bias_type != DType::none)
    add_bias<T>(s, t, at);
}

/// Does some query in [i0, i1) not see some key in [j0, j1)?
__device__ __forceinline__ bool needs_mask(const Range& r, int32_t i0, int32_t i1, int32_t j0, int32_t j1) {
  return r.key_begin(i1 - 1) > j0 || r.key_end(i0) < j1;
}

/// Pairs that do not see each other get `value`. Queries past the sequence's see what Range says of them.
template <int M, int N, class Place>
__device__ __forceinline__ void mask(float (&s)[M][N][4], const Range& r, const Place& at, float value = -kInf) {
  if constexpr (Place::kQueriesDown) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t i = at.query(m, 0, 2 * half), j = at.key(m, 0, 0);
        const int lo = r.key_begin(i) - j, hi = r.key_end(i) - j;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (const int x = 8 * n + e; x < lo || x >= hi) s[m][n][2 * half + e] = value;
      }
  } else {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t j = at.key(m, 0, 2 * half), i = at.query(m, 0, 0);
        const bool inside = j < r.keys;
        const int lo = r.query_begin(j) - i, hi = inside ? r.query_end(j) - i : lo;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (const int x = 8 * n + e; x < lo || x >= hi) s[m][n][2 * half + e] = value;
      }
  }
}

/// Which weights of a block dropout keeps, one bit each. In 64 keys a lane's elements of one query need 4 counters
/// (queries down), those of one query and 64 keys two (keys down); loops stay rolled, philox being 60 instructions.
template <class Place, int M, int N>
struct Keep {
  static constexpr bool kDown = Place::kQueriesDown;
  static constexpr int kBlocks = kDown ? (N + 7) / 8 : (M + 3) / 4;  // of 64 keys
  static constexpr int kCounters = kDown ? (N == 1 ? 2 : 4) : 2;     // of one query in one block
  static constexpr int kNibbles = kBlocks * (kDown ? 2 * M : 2 * N) * kCounters;
  uint32_t bits[(kNibbles + 7) / 8];

  /// All of them.
  __device__ __forceinline__ Keep() {
#pragma unroll
    for (uint32_t& word : bits) word = ~0u;
  }
  template <class Score>
  __device__ __forceinline__ Keep(const Terms<Score>& t, const Place& at) {
    const uint32_t key = static_cast<uint32_t>(at.key(0, 0, 0));
    const uint32_t shift = key / 16 % 4;  // blocks of fewer than 64 keys may start at any word
#pragma unroll
    for (int w = 0; w < (kNibbles + 7) / 8; ++w) {
      uint32_t word = 0;
#pragma unroll 1
      for (int x = 0; x < 8 && w * 8 + x < kNibbles; ++x) {
        const int nibble = w * 8 + x, counter = nibble % kCounters, row = nibble / kCounters / kBlocks;
        const int block = nibble / kCounters % kBlocks;
        const uint32_t column = kDown ? counter % 2 + counter / 2 * 8 : counter * 8;  // beside the lane's first key
        const int32_t h = at.head(kDown ? row / 2 : 0, 0, kDown ? 2 * (row & 1) : 0);
        const int32_t i = at.query(kDown ? row / 2 : 0, kDown ? 0 : row / 2, kDown ? 2 * (row & 1) : row & 1);
        uint32_t c[4] = {(key / 64 + block) * 16 + (key + column) % 16, static_cast<uint32_t>(i), t.number(h), 0};
        math::philox(c, t.p.seed_low, t.p.seed_high);
        uint32_t kept = 0;
#pragma unroll
        for (int b = 0; b < 4; ++b) kept |= (c[b] >= t.p.drop_below ? 1u : 0u) << b;
        word |= kept >> shift << (4 * x);
      }
      bits[w] = word;
    }
  }

  __device__ __forceinline__ bool operator()(int m, int n, int e) const {
    const int row = kDown ? 2 * m + (e >> 1) : 2 * n + (e & 1), block = kDown ? n / 8 : m / 4;
    const int counter = kDown ? (N == 1 ? 0 : 2 * (n & 1)) + (e & 1) : e >> 1;
    const int nibble = (row * kBlocks + block) * kCounters + counter, bit = kDown ? n / 2 % 4 : m % 4;
    return bits[nibble / 8] >> (nibble % 8 * 4 + bit) & 1;
  }
};

}  // namespace saccade::cuda
