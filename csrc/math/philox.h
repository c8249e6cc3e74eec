#pragma once
#include "math/fn.h"

// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), and the place of a weight in its
// stream. For head number n = batch·Hq + head, query i, key j:
//   key = (seed low, seed high), counter = ((j / 64)·16 + j % 16, i, n, 0), word (j / 16) % 4 of the four.
// Sixteen neighbouring counters thus give the words of 64 neighbouring keys without a shuffle.
namespace saccade::math {

SACCADE_FN uint32_t mulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

/// U: uint32_t or a vector of them with +, ^, * and mulhi. `c` is replaced by the four output words.
template <class U>
SACCADE_FN void philox(U (&c)[4], uint32_t key0, uint32_t key1) {
  const U m0 = U(0xD2511F53u), m1 = U(0xCD9E8D57u);
  SACCADE_UNROLL
  for (int round = 0; round < 10; ++round) {
    const U hi0 = mulhi(c[0], m0), lo0 = c[0] * m0, hi1 = mulhi(c[2], m1), lo1 = c[2] * m1;
    c[0] = hi1 ^ c[1] ^ U(key0);
    c[1] = lo1;
    c[2] = hi0 ^ c[3] ^ U(key1);
    c[3] = lo0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/// A word below this drops its weight.
SACCADE_FN uint32_t dropout_threshold(double p) {
  const double t = p * 4294967296.0 + 0.5;
  return t >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(t);
}

/// Is weight (n, i, j) kept?
SACCADE_FN bool dropout_keep(uint64_t seed, uint32_t threshold, uint32_t n, uint32_t i, uint32_t j) {
  uint32_t c[4] = {(j / 64) * 16 + j % 16, i, n, 0};
  philox(c, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return c[(j / 16) % 4] >= threshold;
}

}  // namespace saccade::math
