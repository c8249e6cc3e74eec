#pragma once
#include "math/philox.h"
#include "math/score/maps.h"
#include "saccade/attention.h"

// The problem as kernels get it: plain data, by value.
namespace saccade::cuda {

constexpr int64_t kMaxHeadDim = 256;

/// (batch, head, row[, column]) with strides in elements. Of packed tensors the batch stride is 0 and rows count from
/// the first token.
struct View {
  char* data;
  int64_t batch, head, row, column;

  SACCADE_FN explicit operator bool() const { return data != nullptr; }
};

/// Of (B, H, N[, D]) or (T, H[, D]).
inline View row_view(const TensorView& t, bool packed) {
  if (!t) return {};
  const int row = packed ? 0 : 2, last = row + (packed ? 2 : 1);
  return {static_cast<char*>(t.data), packed ? 0 : t.stride[0], t.stride[1], t.stride[row],
          last < t.rank ? t.stride[last] : 0};
}

/// Numbers whose names end in 2 are in the score map's unit: log2 for maps that exponentiate.
struct Params {
  View query, key, value;  // columns are 1 apart, rows 16-byte aligned (attention/repack.h sees to it)
  View out, lse;
  View bias;               // (B|1, Hq|1, Nq|1, Nk|1): row is the query's axis, column the key's
  View slopes;             // (B|1, Hq)
  View temperature, gate;  // (B|1, Hq|1, Nq|1) or (Tq|1, Hq|1)
  View sinks, biases;      // head only; biases: of the score, per head
  const int32_t *cu_q, *cu_k;
  int64_t cu_q_stride, cu_k_stride;

  int64_t batch, queries, keys;     // per sequence; packed: rows in all
  int64_t left, right;              // as in VisitSpec
  int32_t bias_queries, bias_keys;  // its extents
  int32_t query_heads, key_heads, group, head_dim, value_dim;
  bool packed, causal;
  // Else a score is scale2·q·k, and the maximum of products that of scores: which takes a positive scale.
  bool scores_modified;
  bool modified;        // scores, or weights by dropout
  bool wide_out;        // rows of out are whole and 16-byte aligned
  DType bias_type;      // none: no bias
  uint32_t drop_below;  // 0: no dropout
  uint32_t seed_low, seed_high;
  float keep_scale;  // 1/(1 − p)
  float scale2;
  float softcap2;  // 0: none
  float bias2;     // score bias of every head

  explicit Params(const AttentionProblem& p) {
    const ScoreSpec& s = p.score;
    const VisitSpec& v = p.visit;
    packed = static_cast<bool>(v.cu_seqlens_q);
    query = row_view(p.query, packed), key = row_view(p.key, packed), value = row_view(p.value, packed);
    out = lse = View{};
    wide_out = false;
    // A bias without elements meets no pair in a valid problem; where the device's cu_seqlens are wrong, it must not be
    // read.
    bias = s.bias && s.bias.numel() > 0 ? row_view(s.bias, false) : View{};
    bias_type = bias ? s.bias.dtype : DType::none;
    bias_queries = bias ? static_cast<int32_t>(s.bias.shape[2]) : 0;
    bias_keys = bias ? static_cast<int32_t>(s.bias.shape[3]) : 0;
    slopes = s.alibi_slopes
                 ? View{static_cast<char*>(s.alibi_slopes.data), s.alibi_slopes.stride[0], s.alibi_slopes.stride[1]}
                 : View{};
    temperature = row_view(s.temperature, packed), gate = row_view(s.head_gate, packed);
    sinks = s.sinks ? View{static_cast<char*>(s.sinks.data), 0, s.sinks.stride[0]} : View{};
    biases = s.score_biases ? View{static_cast<char*>(s.score_biases.data), 0, s.score_biases.stride[0]} : View{};
    cu_q = static_cast<const int32_t*>(v.cu_seqlens_q.data), cu_k = static_cast<const int32_t*>(v.cu_seqlens_k.data);
    cu_q_stride = v.cu_seqlens_q.stride[0], cu_k_stride = v.cu_seqlens_k.stride[0];
    batch = packed ? v.cu_seqlens_q.shape[0] - 1 : p.query.shape[0];
    queries = p.query.shape[packed ? 0 : 2], keys = p.key.shape[packed ? 0 : 2];
    left = v.window_left, right = v.window_right, causal = v.causal;
    query_heads = static_cast<int32_t>(p.query.shape[1]), key_heads = static_cast<int32_t>(p.key.shape[1]);
    group = key_heads ? query_heads / key_heads : 1;
    head_dim = static_cast<int32_t>(p.query.shape[p.query.rank - 1]);
    value_dim = static_cast<int32_t>(p.value.shape[p.value.rank - 1]);
    drop_below = s.dropout_p > 0 ? math::dropout_threshold(s.dropout_p) : 0;
    seed_low = static_cast<uint32_t>(s.seed), seed_high = static_cast<uint32_t>(s.seed >> 32);
    keep_scale = static_cast<float>(1 / (1 - s.dropout_p));
    const double unit = math::with_score(s.map, []<class Score>(Score) { return Score::kUnit; });
    scale2 = static_cast<float>(s.scale * unit);
    softcap2 = static_cast<float>(s.softcap * unit);
    bias2 = static_cast<float>(s.score_bias * unit);
    scores_modified = softcap2 != 0 || bias || slopes || temperature || !(scale2 > 0);
    modified = scores_modified || drop_below;
  }
};

/// Pieces of `size` rows: sequence b of a packed axis owns the places floor(start_b / size) + b …, of which ceil(n_b /
/// size) are used: monotone and wide enough, so that the grid needs no sequence length (attention/sequence.cuh).
template <class P>
int64_t piece_count(const P& p, int64_t rows, int64_t size) {
  return p.packed ? rows / size + p.batch : p.batch * ((rows + size - 1) / size);
}

}  // namespace saccade::cuda
