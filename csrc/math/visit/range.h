#pragma once
#include "math/fn.h"

namespace saccade::math {

/// Dense, causal and windowed visits of one sequence: query i sees the keys [key_begin(i), key_end(i)), both bounds
/// non-decreasing in i. Query i sits at p = i + keys − queries on the key axis (bottom-right alignment).
struct Range {
  int64_t queries, keys;
  int64_t left, right;  // key p − left … p + right; unbounded sides are large

  /// Sides < 0 are unbounded; causal bounds the right by 0.
  static SACCADE_FN Range make(int64_t queries, int64_t keys, bool causal, int64_t left, int64_t right) {
    const int64_t unbounded = queries + keys;
    if (left < 0 || left > unbounded) left = unbounded;
    if (right < 0 || right > unbounded) right = unbounded;
    return {queries, keys, left, causal ? 0 : right};
  }

  SACCADE_FN int64_t position(int64_t i) const { return i + keys - queries; }
  SACCADE_FN int64_t clamp(int64_t x, int64_t end) const { return x < 0 ? 0 : x > end ? end : x; }
  SACCADE_FN int64_t key_begin(int64_t i) const { return clamp(position(i) - left, keys); }
  SACCADE_FN int64_t key_end(int64_t i) const { return clamp(position(i) + right + 1, keys); }
  /// Queries [query_begin(j), query_end(j)) see key j.
  SACCADE_FN int64_t query_begin(int64_t j) const { return clamp(j - right - position(0), queries); }
  SACCADE_FN int64_t query_end(int64_t j) const { return clamp(j + left + 1 - position(0), queries); }
};

}  // namespace saccade::math
