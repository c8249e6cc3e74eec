#include "cpu/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/parallel.h"
#include "cpu/reference/access.h"
#include "math/modifier.h"
#include "math/philox.h"
#include "math/score/maps.h"
#include "math/visit/range.h"

// One output element at a time, each finished before the next, so nothing depends on the order or number of threads.
namespace saccade {
namespace {

using namespace reference;

constexpr double kInf = std::numeric_limits<double>::infinity();

struct Sequence {
  bool packed;
  int64_t batch, query0, key0;  // query0, key0: first rows in packed tensors
  math::Range range;

  int64_t row(const TensorView& t, int64_t start, int64_t h, int64_t n) const {
    return packed ? (start + n) * t.stride[0] + h * t.stride[1]
                  : batch * t.stride[0] + h * t.stride[1] + n * t.stride[2];
  }
  int64_t query_row(const TensorView& t, int64_t h, int64_t i) const { return row(t, query0, h, i); }
  int64_t key_row(const TensorView& t, int64_t h, int64_t j) const { return row(t, key0, h, j); }
};

int64_t entry(const TensorView& cu_seqlens, int64_t b) {
  return static_cast<const int32_t*>(cu_seqlens.data)[b * cu_seqlens.stride[0]];
}
bool packed(const AttentionProblem& p) { return p.query.rank == 3; }
int64_t batch(const AttentionProblem& p) { return packed(p) ? p.visit.cu_seqlens_q.shape[0] - 1 : p.query.shape[0]; }

Sequence sequence(const AttentionProblem& p, int64_t b) {
  const VisitSpec& v = p.visit;
  int64_t q0 = 0, k0 = 0, nq = p.query.shape[2], nk = p.key.shape[2];
  if (packed(p)) {
    q0 = entry(v.cu_seqlens_q, b), nq = entry(v.cu_seqlens_q, b + 1) - q0;
    k0 = entry(v.cu_seqlens_k, b), nk = entry(v.cu_seqlens_k, b + 1) - k0;
  }
  return {packed(p), b, q0, k0, math::Range::make(nq, nk, v.causal, v.window_left, v.window_right)};
}

/// What all pairs of one query share.
struct Row {
  const AttentionProblem& p;
  const Sequence& s;
  int64_t h, i, kv_head;
  double factor, slope, sink, gate, offset;  // offset: the score bias

  Row(const AttentionProblem& p, const Sequence& s, int64_t h, int64_t i)
      : p(p), s(s), h(h), i(i), kv_head(h / (p.query.shape[1] / p.key.shape[1])) {
    const ScoreSpec& c = p.score;
    factor = c.scale * (c.temperature ? load(c.temperature, s.query_row(c.temperature, h, i)) : 1);
    slope =
        c.alibi_slopes ? load(c.alibi_slopes, s.batch * c.alibi_slopes.stride[0] + h * c.alibi_slopes.stride[1]) : 0;
    sink = c.sinks ? load(c.sinks, h * c.sinks.stride[0]) : -kInf;
    gate = c.head_gate ? load(c.head_gate, s.query_row(c.head_gate, h, i)) : 1;
    offset = c.score_bias + (c.score_biases ? load(c.score_biases, h * c.score_biases.stride[0]) : 0);
  }

  /// The weight of a score against the row's maximum or lse; maps without a row sum have their bias instead.
  double weight(double score, double reference) const {
    return math::with_score(p.score.map, [&]<class Map>(Map) {
      return Map::weight(score * Map::kUnit, (Map::kRowState ? reference : -offset) * Map::kUnit);
    });
  }

  double distance(int64_t j) const { return static_cast<double>(s.range.position(i) - j); }
  int64_t relative_row(const TensorView& table, int64_t j) const {
    const int64_t reach = table.shape[1] / 2;
    return h * table.stride[0] + (reach + std::clamp(s.range.position(i) - j, -reach, reach)) * table.stride[1];
  }
  /// q_i·k_j with the relative term.
  double product(int64_t j) const {
    const TensorView &keys = p.score.relative_keys, &bias = p.score.relative_bias;
    double x = dot(p.query, s.query_row(p.query, h, i), p.key, s.key_row(p.key, kv_head, j));
    if (keys) x += dot(p.query, s.query_row(p.query, h, i), keys, relative_row(keys, j));
    return bias ? x + load(bias, relative_row(bias, j)) : x;
  }
  double capped(double qk) const {
    return p.score.softcap > 0 ? math::softcap(factor * qk, p.score.softcap) : factor * qk;
  }

  /// −inf: the query does not see the key.
  double score(double capped, int64_t j) const {
    const TensorView& bias = p.score.bias;
    double x = capped;
    if (bias) {
      const int64_t at = s.batch * bias.stride[0] + h * bias.stride[1] + i * bias.stride[2] + j * bias.stride[3];
      if (bias.dtype == DType::boolean)
        x = static_cast<const uint8_t*>(bias.data)[at] ? x : -kInf;
      else
        x += load(bias, at);
    }
    return p.score.alibi_slopes ? math::alibi(x, slope, distance(j)) : x;
  }

  /// Dropout's factor on the weight: 0 or 1/(1−p).
  double kept(int64_t j) const {
    const ScoreSpec& c = p.score;
    if (c.dropout_p == 0) return 1;
    const uint32_t n = static_cast<uint32_t>(s.batch * p.query.shape[1] + h);
    const bool keep = math::dropout_keep(c.seed, math::dropout_threshold(c.dropout_p), n, static_cast<uint32_t>(i),
                                         static_cast<uint32_t>(j));
    return keep ? 1 / (1 - c.dropout_p) : 0;
  }
};

/// f(u, scratch) for u in [0, n), `scratch` being one thread's `doubles` of the workspace.
template <class F>
void each_unit(const Context& context, int64_t n, void* workspace, int64_t doubles, F f) {
  const int64_t slots = std::min<int64_t>(context.threads, n);
  parallel_for(context, slots, [&](int64_t slot) {
    for (int64_t u = slot; u < n; u += slots) f(u, static_cast<double*>(workspace) + slot * doubles);
  });
}

int64_t forward_doubles(const AttentionProblem& p) {
  return p.value.shape[p.value.rank - 1] + p.key.shape[packed(p) ? 0 : 2];
}
int64_t backward_doubles(const AttentionProblem& p) {
  return p.value.shape[p.value.rank - 1] + p.query.shape[p.query.rank - 1];
}

void forward(const AttentionForward& p, const Context& context, void* workspace) {
  const int64_t heads = p.query.shape[1], dv = p.value.shape[p.value.rank - 1];
  each_unit(context, batch(p) * heads, workspace, forward_doubles(p), [&](int64_t u, double* scratch) {
    double *sum_v = scratch, *score = scratch + dv;
    const int64_t h = u % heads;
    const Sequence s = sequence(p, u / heads);
    for (int64_t i = 0; i < s.range.queries; ++i) {
      const Row row(p, s, h, i);
      const int64_t begin = s.range.key_begin(i), end = s.range.key_end(i);
      double top = row.sink;
      for (int64_t j = begin; j < end; ++j) {
        score[j] = row.score(row.capped(row.product(j)), j);
        if (score[j] > top || std::isnan(score[j])) top = score[j];  // NaN stays
      }
      std::fill_n(sum_v, dv, 0.0);
      const bool normalised = normalises(p.score.map);
      double sum = row.sink == -kInf ? 0 : row.weight(row.sink, top);
      for (int64_t j = begin; j < end; ++j) {
        if (score[j] == -kInf) continue;
        const double w = row.weight(score[j], top), kept = row.kept(j);
        sum += w;
        if (kept != 0) add(sum_v, kept * w, p.value, s.key_row(p.value, row.kv_head, j));
      }
      store_row(p.out, s.query_row(p.out, h, i), sum_v, !normalised ? row.gate : sum == 0 ? 0 : row.gate / sum);
      if (normalised) store(p.lse, s.query_row(p.lse, h, i), sum == 0 ? -kInf : top + std::log(sum));
    }
  });
}

struct BackwardRow : Row {
  const AttentionBackward& p;
  double lse, delta;  // delta: Σ_j w·∂L/∂w − ∂L/∂lse

  BackwardRow(const AttentionBackward& p, const Sequence& s, int64_t h, int64_t i) : Row(p, s, h, i), p(p) {
    lse = delta = 0;
    if (!normalises(p.score.map)) return;
    lse = load(p.lse, s.query_row(p.lse, h, i));
    delta = dot(p.dout, dout_row(), p.out, s.query_row(p.out, h, i)) -
            (p.dlse ? load(p.dlse, s.query_row(p.dlse, h, i)) : 0);
  }
  bool empty() const { return lse == -kInf; }
  int64_t dout_row() const { return s.query_row(p.dout, h, i); }
};

struct Pair {
  double qk, w, dp, ds,
      dx;  // qk: with the relative term; w: after dropout; dp: dout·v; s: the score; x: before the softcap
  bool visible;

  Pair(const BackwardRow& row, int64_t j) {
    qk = row.product(j);
    const double capped = row.capped(qk), score = row.score(capped, j);
    visible = score != -kInf;
    if (!visible) return;
    const double all = row.weight(score, row.lse), kept = row.kept(j);
    w = kept * all;
    dp = kept == 0 ? 0 : dot(row.p.dout, row.dout_row(), row.p.value, row.s.key_row(row.p.value, row.kv_head, j));
    ds = math::with_score(row.p.score.map, [&]<class Map>(Map) {
      return Map::grad((score + row.offset) * Map::kUnit, all, row.gate * kept * dp, row.delta);
    });
    dx = row.p.score.softcap > 0 ? ds * math::softcap_grad(capped, row.p.score.softcap) : ds;
  }
};

struct Span {
  int64_t begin = 0, end = INT64_MAX;
};

/// Indices that one gradient element sums over.
struct Spans {
  Span batch, head, query, key;
};

template <class F>
void each_row(const AttentionBackward& p, const Spans& in, F f) {
  for (int64_t b = in.batch.begin; b < std::min(in.batch.end, batch(p)); ++b) {
    const Sequence s = sequence(p, b);
    for (int64_t h = in.head.begin; h < std::min(in.head.end, p.query.shape[1]); ++h)
      for (int64_t i = in.query.begin; i < std::min(in.query.end, s.range.queries); ++i) {
        const BackwardRow row(p, s, h, i);
        if (!row.empty()) f(row);
      }
  }
}

/// What element `index` of a gradient sums over: (b, h, i, j), or (token, h) where `tokens`. An axis of size 1 was
/// broadcast.
Spans spans(const AttentionBackward& p, const TensorView& grad, const int64_t* index, bool tokens) {
  const auto span = [&](int axis) {
    return axis < grad.rank && grad.shape[axis] != 1 ? Span{index[axis], index[axis] + 1} : Span{};
  };
  if (!tokens) return {span(0), span(1), span(2), span(3)};
  if (grad.shape[0] == 1) return {{}, span(1), {}, {}};
  int64_t b = 0;
  while (entry(p.visit.cu_seqlens_q, b + 1) <= index[0]) ++b;
  const int64_t i = index[0] - entry(p.visit.cu_seqlens_q, b);
  return {{b, b + 1}, span(1), {i, i + 1}, {}};
}

/// Every element of `grad` becomes what `sum` makes of its spans.
template <class Sum>
void each_element(const AttentionBackward& p, const Context& context, const TensorView& grad, bool tokens, Sum sum) {
  if (!grad) return;
  parallel_for(context, grad.numel(), [&](int64_t e) {
    int64_t index[TensorView::kMaxRank], at = 0;
    for (int a = grad.rank - 1; a >= 0; e /= grad.shape[a--]) at += (index[a] = e % grad.shape[a]) * grad.stride[a];
    store(grad, at, sum(spans(p, grad, index, tokens)));
  });
}

/// Σ term(row, pair, j).
template <class Term>
auto over_pairs(const AttentionBackward& p, Term term) {
  return [&p, term](const Spans& in) {
    double sum = 0;
    each_row(p, in, [&](const BackwardRow& row) {
      const math::Range& r = row.s.range;
      for (int64_t j = std::max(in.key.begin, r.key_begin(row.i)); j < std::min(in.key.end, r.key_end(row.i)); ++j)
        if (const Pair pair(row, j); pair.visible) sum += term(row, pair, j);
    });
    return sum;
  };
}

void backward(const AttentionBackward& p, const Context& context, void* workspace) {
  const int64_t heads = p.query.shape[1], kv_heads = p.key.shape[1], group = kv_heads ? heads / kv_heads : 0;
  const int64_t d = p.query.shape[p.query.rank - 1], dv = p.value.shape[p.value.rank - 1];
  each_unit(context, batch(p) * heads, workspace, backward_doubles(p), [&](int64_t u, double* dq) {
    const int64_t h = u % heads;
    const Sequence s = sequence(p, u / heads);
    for (int64_t i = 0; i < s.range.queries; ++i) {
      const BackwardRow row(p, s, h, i);
      std::fill_n(dq, d, 0.0);
      for (int64_t j = s.range.key_begin(i); !row.empty() && j < s.range.key_end(i); ++j)
        if (const Pair pair(row, j); pair.visible) {
          add(dq, pair.dx * row.factor, p.key, s.key_row(p.key, row.kv_head, j));
          const TensorView& table = p.score.relative_keys;
          if (table) add(dq, pair.dx * row.factor, table, row.relative_row(table, j));
        }
      store_row(p.dquery, s.query_row(p.dquery, h, i), dq, 1);
    }
  });
  each_unit(context, batch(p) * kv_heads, workspace, backward_doubles(p), [&](int64_t u, double* scratch) {
    double *sum_k = scratch, *sum_v = scratch + d;
    const int64_t g = u % kv_heads;
    const Sequence s = sequence(p, u / kv_heads);
    for (int64_t j = 0; j < s.range.keys; ++j) {
      std::fill_n(scratch, d + dv, 0.0);
      for (int64_t h = g * group; h < (g + 1) * group; ++h)
        for (int64_t i = s.range.query_begin(j); i < s.range.query_end(j); ++i) {
          const BackwardRow row(p, s, h, i);
          if (row.empty()) continue;
          const Pair pair(row, j);
          if (!pair.visible) continue;
          add(sum_k, pair.dx * row.factor, p.query, s.query_row(p.query, h, i));
          add(sum_v, row.gate * pair.w, p.dout, row.dout_row());
        }
      store_row(p.dkey, s.key_row(p.dkey, g, j), sum_k, 1);
      store_row(p.dvalue, s.key_row(p.dvalue, g, j), sum_v, 1);
    }
  });
  const TensorView &keys = p.drelative_keys, &bias = p.drelative_bias;
  const auto tables = [&](auto f) { return std::max(keys ? f(keys) : 0, bias ? f(bias) : 0); };
  const int64_t size = tables([](const TensorView& t) { return t.shape[1]; });
  const int64_t table_heads = tables([](const TensorView& t) { return t.shape[0]; });
  each_unit(context, table_heads * size, workspace, backward_doubles(p), [&](int64_t u, double* dr) {
    const int64_t head = u / size, distance = u % size;  // one row of a table: the pairs at that distance
    for (const TensorView* to : {&keys, &bias}) {
      if (!*to || head >= to->shape[0]) continue;
      std::fill_n(dr, d, 0.0);
      each_row(p, {{}, to->shape[0] == 1 ? Span{} : Span{head, head + 1}, {}, {}}, [&](const BackwardRow& row) {
        const math::Range& r = row.s.range;
        const int64_t j = r.position(row.i) + size / 2 - distance;
        const int64_t begin = distance == size - 1 ? 0 : j, end = distance == 0 ? r.keys : j + 1;
        for (int64_t x = std::max(begin, r.key_begin(row.i)); x < std::min(end, r.key_end(row.i)); ++x) {
          const Pair pair(row, x);
          if (!pair.visible) continue;
          if (to == &keys)
            add(dr, pair.dx * row.factor, p.query, row.s.query_row(p.query, row.h, row.i));
          else
            dr[0] += pair.dx * row.factor;
        }
      });
      const int64_t at = head * to->stride[0] + distance * to->stride[1];
      if (to == &keys)
        store_row(keys, at, dr, 1);
      else
        store(bias, at, dr[0]);
    }
  });
  using R = const BackwardRow&;
  using P = const Pair&;
  const bool tokens = packed(p);
  each_element(p, context, p.dbias, false, over_pairs(p, [](R, P pair, int64_t) { return pair.ds; }));
  each_element(p, context, p.dalibi_slopes, false,
               over_pairs(p, [](R row, P pair, int64_t j) { return -pair.ds * std::abs(row.distance(j)); }));
  each_element(p, context, p.dtemperature, tokens,
               over_pairs(p, [](R row, P pair, int64_t) { return pair.dx * row.p.score.scale * pair.qk; }));
  each_element(p, context, p.dhead_gate, tokens, over_pairs(p, [](R, P pair, int64_t) { return pair.w * pair.dp; }));
  each_element(p, context, p.dscore_biases, false, [&](Spans in) {
    return over_pairs(p, [](R, P pair, int64_t) { return pair.ds; })({{}, in.batch, {}, {}});
  });
  each_element(p, context, p.dsinks, false, [&](Spans in) {
    double sum = 0;
    each_row(p, {{}, in.batch, {}, {}}, [&](R row) { sum -= row.weight(row.sink, row.lse) * row.delta; });
    return sum;
  });
}

template <class Problem>
std::string supports(const Problem&) {
  return "";
}

template <class Problem, int64_t (*doubles)(const AttentionProblem&)>
int64_t workspace_bytes(const Problem& p, int threads) {
  return threads * doubles(p) * 8;
}

}  // namespace

const Kernel<AttentionForward> reference_attention = {"cpu.reference.attention", supports<AttentionForward>,
                                                      workspace_bytes<AttentionForward, forward_doubles>, forward};
const Kernel<AttentionBackward> reference_attention_backward = {"cpu.reference.attention", supports<AttentionBackward>,
                                                                workspace_bytes<AttentionBackward, backward_doubles>,
                                                                backward};

}  // namespace saccade
