#pragma once
#include "cuda/attention/params.h"
#include "cuda/launch.h"

namespace saccade::cuda {

/// Per row: lse·log2 e (+inf where there are no weights) and δ = dout·out − dlse (0 there). Maps without a row state
/// have a reference per head, and no δ.
struct alignas(8) RowStatistics {
  float reference, delta;
};

/// What the backward's kernels get. `out` and `lse` are the forward's. Per-row arrays are [Hq][B·Nq], packed [Hq][Tq].
struct BackwardParams : Params {
  View dout, dlse;
  View dquery, dkey, dvalue, dbias;
  bool wide_dquery, wide_dkey, wide_dvalue;  // rows take 16-byte stores
  DType dbias_type;
  int64_t dbias_size[4];                               // 1: summed over
  RowStatistics* statistics;                           // null without a row state
  float *dtemperature, *dgate, *dslope, *dscore_bias;  // each row's share; null unless wanted
  int64_t rows;                                        // of one head
  float scale;

  explicit BackwardParams(const AttentionBackward& p) : Params(p) {
    out = row_view(p.out, packed), lse = row_view(p.lse, packed);
    dout = row_view(p.dout, packed), dlse = row_view(p.dlse, packed);
    dquery = row_view(p.dquery, packed), dkey = row_view(p.dkey, packed), dvalue = row_view(p.dvalue, packed);
    wide_dquery = wide_dkey = wide_dvalue = false;
    dbias = row_view(p.dbias, false), dbias_type = p.dbias.dtype;
    for (int i = 0; i < 4; ++i) dbias_size[i] = p.dbias.shape[i];
    statistics = nullptr, dtemperature = dgate = dslope = dscore_bias = nullptr;
    rows = packed ? queries : batch * queries;
    scale = static_cast<float>(p.score.scale);
  }

  /// Whether the general kernels are needed; the plain ones know scale, causal and window.
  bool general() const { return modified || gate || dscore_bias; }
};

/// The bias's gradient in tiles; few of them split what they sum over, partial sums are [splits][elements].
struct BiasGradientParams : BackwardParams {
  int64_t splits;
  float* partial;

  SACCADE_FN int64_t elements() const { return dbias_size[0] * dbias_size[1] * dbias_size[2] * dbias_size[3]; }
};

/// A parameter's gradient: each element of (B|1, Hq|1, N|1) sums the rows that it was broadcast to. Packed, rows are
/// tokens and B is 1, but for slopes (B, Hq), which sum the tokens of a sequence.
struct ReduceParams {
  const float* shares;  // per-row numbers; null: those of the sinks, from the statistics
  const RowStatistics* statistics;
  View sinks, to;
  int64_t size[3];                // of the result
  int64_t batch, heads, queries;  // of the rows: [heads][batch][queries]
  const int32_t* cu;              // where slopes of packed sequences need it
  int64_t cu_stride;
};

/// Kernels of one operand type (math::Bf16, …) and score map (math::Softmax, …), each in its own translation unit
/// (query_gradient_softmax_bf16.cu, …).
template <class T, class Score>
struct QueryGradient {
  static int shared_bytes(const Params&);
  static void launch(Queue&, const BackwardParams&);
};
template <class T, class Score>
struct KeyGradient {
  static int shared_bytes(const Params&);
  static void launch(Queue&, const BackwardParams&);
};
template <class T, class Score>
struct BiasGradient {
  static int shared_bytes(const Params&);
  /// Splits that a problem's bias gradient takes.
  static int64_t splits(const BackwardParams&);
  static void launch(Queue&, const BiasGradientParams&);
};
void launch_reduce(Queue&, const ReduceParams&);

}  // namespace saccade::cuda
