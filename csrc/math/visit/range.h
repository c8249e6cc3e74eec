#pragma once
#include "math/fn.h"

namespace saccade::math {

/// Dense, causal and windowed visits of one sequence: query i sees the keys [key_begin(i), key_end(i)), both bounds
/// non-decreasing in i. Query i sits at p = i + keys − queries on the key axis (bottom-right alignment).
/// Int holds twice the sum of both lengths.
template <class Int>
struct BasicRange {
  Int queries, keys;
  Int left, right;  // key p − left … p + right; unbounded sides are large

  /// Sides < 0 are unbounded; causal bounds the right by 0.
  static SACCADE_FN BasicRange make(Int queries, Int keys, bool causal, int64_t left, int64_t right) {
    const Int unbounded = queries + keys;
    if (left < 0 || left > unbounded) left = unbounded;
    if (right < 0 || right > unbounded) right = unbounded;
    return {queries, keys, static_cast<Int>(left), causal ? 0 : static_cast<Int>(right)};
  }

  SACCADE_FN Int position(Int i) const { return i + keys - queries; }
  SACCADE_FN Int clamp(Int x, Int end) const { return x < 0 ? 0 : x > end ? end : x; }
  SACCADE_FN Int key_begin(Int i) const { return clamp(position(i) - left, keys); }
  SACCADE_FN Int key_end(Int i) const { return clamp(position(i) + right + 1, keys); }
  /// Queries [query_begin(j), query_end(j)) see key j.
  SACCADE_FN Int query_begin(Int j) const { return clamp(j - right - position(0), queries); }
  SACCADE_FN Int query_end(Int j) const { return clamp(j + left + 1 - position(0), queries); }
};

using Range = BasicRange<int64_t>;

}  // namespace saccade::math
