#pragma once
#include "cpu/attention/entry.h"
#include "cpu/attention/gemm.h"
#include "cpu/attention/sequences.h"
#include "cpu/vec/convert.h"

// User rows of any type and stride to fp32, in the order in which the register tile reads them.
namespace saccade::cpu::SACCADE_ISA {
namespace {

// Rows of packed A operands: a compile-time stride, and an odd number of cache lines so that rows spread over the sets.
constexpr int kRowStride = kMaxHeadDim + 16;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

constexpr int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

/// Calls f with the operand type of a tensor.
template <class F>
inline void with_operand(DType t, const F& f) {
  switch (t) {
    case DType::f32:
      return f(math::F32{});
    case DType::bf16:
      return f(math::Bf16{});
    default:
      return f(math::F16{});
  }
}

/// to[0, n) = f·row r, zero up to the next multiple of kNr.
template <class T>
inline void load_row(const Rows& rows, int64_t r, int64_t n, float f, float* to) {
  const auto* from = rows.at<const typename T::Storage>(r);
  int64_t c = 0;
  if (rows.col == 1)
    for (; c + kWidth <= n; c += kWidth) (Convert<T>::load(from + c) * Vec(f)).store(to + c);
  for (; c < n; ++c) to[c] = T::load(from[c * rows.col]) * f;
  for (const int64_t end = round_up(n, kNr); c < end; ++c) to[c] = 0;
}

/// Row r = f·from[0, n).
template <class T>
inline void store_row(const Rows& rows, int64_t r, int64_t n, float f, const float* from) {
  auto* to = rows.at<typename T::Storage>(r);
  int64_t c = 0;
  if (rows.col == 1)
    for (; c + kWidth <= n; c += kWidth) Convert<T>::store(to + c, Vec::load(from + c) * Vec(f));
  for (; c < n; ++c) to[c * rows.col] = T::store(from[c] * f);
}

/// Does x − x vanish everywhere in x[0, n)? n is a multiple of kWidth.
inline bool all_finite(const float* x, int64_t n) {
  Vec bad(0.0f);
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec v = Vec::load(x + i);
    bad = bad + (v - v);
  }
  return sum(bad) == 0;
}

/// Panel [d][kNr] of the rows r … r+kNr−1: their transpose, zero for rows past `count`.
template <class T>
inline void pack_panel_transposed(const Rows& rows, int64_t r, int64_t count, int64_t d, float f, float* panel) {
  alignas(64) float block[kNr][kRowStride];
  for (int64_t i = 0; i < kNr; ++i)
    if (r + i < count)
      load_row<T>(rows, r + i, d, f, block[i]);
    else
      for (int64_t c = 0; c < round_up(d, kNr); ++c) block[i][c] = 0;
  for (int64_t c = 0; c < d; c += kWidth)
    for (int half = 0; half < 2; ++half) {
      vf t[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) t[i] = Vec::load(block[half * kWidth + i] + c).v;
      transpose(t);
      const int64_t n = d - c < kWidth ? d - c : kWidth;
      for (int64_t i = 0; i < n; ++i) Vec(t[i]).store(panel + (c + i) * kNr + half * kWidth);
    }
}

/// Rows r … r+n−1 as panels of kNr columns, `panel_rows` rows apart; returns whether all are finite.
template <class T>
inline bool pack_columns(const Rows& rows, int64_t r, int64_t n, int64_t d, float* panels, int64_t panel_rows) {
  alignas(64) float row[kRowStride];
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    load_row<T>(rows, r + i, d, 1.0f, row);
    finite &= all_finite(row, round_up(d, kNr));
    for (int64_t c = 0; c < d; c += kNr)
      for (int half = 0; half < kNr; half += kWidth)
        Vec::load(row + c + half).store(panels + c * panel_rows + i * kNr + half);
  }
  return finite;
}

/// Vectors in the panel that starts at column c of d.
constexpr int panel_vectors(int64_t c, int64_t d) { return d - c > kWidth ? 2 : 1; }

}  // namespace
}  // namespace saccade::cpu::SACCADE_ISA
