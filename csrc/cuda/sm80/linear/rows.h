#pragma once
#include "cuda/sm80/linear/scan.h"

// What is done to rows beside the scans.
namespace saccade::cuda {

/// Sizes and order of the tokens, as in ScanParams; per-row arrays are [H][rows].
struct RowParams {
  const int32_t* cu_seqlens;
  int64_t cu_stride, batch, tokens, rows;
  int32_t heads, dim, columns;
  bool packed, flip;
};

/// With `normalize`: factor, which is the denominator on entry, becomes 1/(denominator + ε); extra = −dout·out. Their
/// product may be null.
struct NormalizeParams : RowParams {
  View dout, out;  // columns of `columns` channels
  float *factor, *extra, *product;
  float epsilon;
};

/// to (B, H/group, N, width) = the sum of the heads that share one of its heads, in ascending order. One side is fp32.
struct SumParams : RowParams {
  View from, to;
  int32_t group, width;
};

/// dg_t = Σ_{r ≥ t} (q_r·dq_r − k_r·dk_r) + S·dS in time's order, channel by channel or, from `dots`, of them all.
struct DecayParams : RowParams {
  Operand query, key;
  View dquery, dkey, to;  // fp32; `to` (B, H, N, D|1), or (1, H) with per_head
  View state, dstate;     // (B, H, D, columns), null: no gradient of the final state
  float* dots;            // [H][rows]; null: channel by channel
  bool per_head;
};

template <class T>
struct RowKernels {
  static void normalize(Queue&, const NormalizeParams&);
  static void sum(Queue&, const SumParams&);    // from fp32
  static void widen(Queue&, const SumParams&);  // to fp32
  static void decay(Queue&, const DecayParams&);
};

}  // namespace saccade::cuda
