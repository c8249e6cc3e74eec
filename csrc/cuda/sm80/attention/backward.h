#pragma once
#include "cuda/attention/params.h"

namespace saccade::cuda {

/// Per row: lse·log2 e (+inf where there are no weights) and δ = dout·out − dlse (0 there).
struct alignas(8) RowStatistics {
  float lse2, delta;
};

/// What the backward's kernels get. `out` and `lse` are the forward's. Per-row arrays are [Hq][B·Nq], packed [Hq][Tq].
struct BackwardParams : Params {
  View dout, dlse;
  View dquery, dkey, dvalue, dbias;
  bool wide_dquery, wide_dkey, wide_dvalue;  // rows take 16-byte stores
  DType dbias_type;
  int64_t dbias_size[4];  // 1: summed over
  RowStatistics* statistics;
  float *dtemperature, *dgate, *dslope;  // each row's share; null unless wanted
  int64_t rows;                          // of one head
  float scale;

  explicit BackwardParams(const AttentionBackward& p) : Params(p) {
    out = row_view(p.out, packed), lse = row_view(p.lse, packed);
    dout = row_view(p.dout, packed), dlse = row_view(p.dlse, packed);
    dquery = row_view(p.dquery, packed), dkey = row_view(p.dkey, packed), dvalue = row_view(p.dvalue, packed);
    wide_dquery = wide_dkey = wide_dvalue = false;
    dbias = row_view(p.dbias, false), dbias_type = p.dbias.dtype;
    for (int i = 0; i < 4; ++i) dbias_size[i] = p.dbias.shape[i];
    statistics = nullptr, dtemperature = dgate = dslope = nullptr;
    rows = packed ? queries : batch * queries;
    scale = static_cast<float>(p.score.scale);
  }

  /// Whether the general kernels are needed; the plain ones know scale, causal and window.
  bool general() const { return modifies() || gate; }
};

}  // namespace saccade::cuda
