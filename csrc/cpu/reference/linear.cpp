#include "cpu/reference/linear.h"

#include <algorithm>
#include <cmath>

#include "cpu/parallel.h"
#include "cpu/reference/access.h"

// The recurrence itself, token by token. With `normalize` every value has one more component, 1, and the state one more
// column. With a feature, keys and queries are what it makes of them: rows of the state.
namespace saccade {
namespace {

using namespace reference;

bool packed(const LinearProblem& p) { return static_cast<bool>(p.cu_seqlens); }
int64_t batch(const LinearProblem& p) { return packed(p) ? p.cu_seqlens.shape[0] - 1 : p.query.shape[0]; }
int64_t heads(const LinearProblem& p) { return std::max({p.query.shape[1], p.key.shape[1], p.value.shape[1]}); }
int64_t key_dim(const LinearProblem& p) { return p.query.shape[p.query.rank - 1]; }
int64_t value_dim(const LinearProblem& p) { return p.value.shape[p.value.rank - 1]; }
int64_t columns(const LinearProblem& p) { return value_dim(p) + p.normalize; }
int64_t rows(const LinearProblem& p) { return packed(p) ? p.query.shape[0] : p.query.shape[0] * p.query.shape[2]; }

/// One head of one sequence, at one step of it.
struct Scan {
  const LinearProblem& p;
  int64_t b, h, heads, start, count, dim, rows, columns;  // dim: of the key; rows: of the state
  double *query, *key, *value, *decay;                    // of the step: [rows], [rows], [columns], [rows]

  static int64_t doubles(const LinearProblem& p) { return 3 * state_rows(p.feature, key_dim(p)) + saccade::columns(p); }

  Scan(const LinearProblem& p, int64_t unit, double* scratch)
      : p(p),
        b(unit / saccade::heads(p)),
        h(unit % saccade::heads(p)),
        heads(saccade::heads(p)),
        dim(key_dim(p)),
        rows(state_rows(p.feature, dim)),
        columns(saccade::columns(p)) {
    const auto entry = [&](int64_t i) {
      return int64_t{static_cast<const int32_t*>(p.cu_seqlens.data)[i * p.cu_seqlens.stride[0]]};
    };
    query = scratch, key = query + rows, decay = key + rows, value = decay + rows;
    start = packed(p) ? entry(b) : 0;
    count = packed(p) ? entry(b + 1) - start : p.query.shape[2];
  }

  /// Where step s of the recurrence finds its token.
  int64_t token(int64_t s) const { return p.reverse ? count - 1 - s : s; }
  /// Number of step s among the rows of one head.
  int64_t row(int64_t s) const { return (packed(p) ? start : b * count) + token(s); }
  /// Offset of step s in a tensor with any number of heads, or of a broadcast one.
  int64_t at(const TensorView& t, int64_t s) const {
    const int64_t head = t.shape[1] ? h / (heads / t.shape[1]) : 0;
    return packed(p) ? (start + token(s)) * t.stride[0] + head * t.stride[1]
                     : b * t.stride[0] + head * t.stride[1] + token(s) * t.stride[2];
  }
  double element(const TensorView& t, int64_t s, int64_t c) const {
    return load(t, at(t, s) + c * t.stride[t.rank - 1]);
  }
  /// Goes to step s.
  void load_step(int64_t s) const {
    for (int64_t c = 0; c < rows; ++c) {
      const Factors f = factors(c);
      key[c] = (f.m < 0 ? 1 : element(p.key, s, f.m)) * (f.n < 0 ? 1 : element(p.key, s, f.n));
      query[c] = weight(f) * (f.m < 0 ? 1 : element(p.query, s, f.m)) * (f.n < 0 ? 1 : element(p.query, s, f.n));
      decay[c] = p.log_decay ? std::exp(element(p.log_decay, s, c)) : 1.0;
    }
    for (int64_t e = 0; e < value_dim(p); ++e) value[e] = element(p.value, s, e);
    if (p.normalize) value[value_dim(p)] = 1;
  }
  /// The channels whose product is component c; −1: none.
  struct Factors {
    int64_t m, n;
  };
  Factors factors(int64_t c) const {
    if (p.feature == LinearFeature::none) return {c, -1};
    if (c <= dim) return {c - 1, -1};
    int64_t m = 0;
    for (c -= dim + 1; c >= dim - m; ++m) c -= dim - m;
    return {m, m + c};
  }
  /// scale to the power of the order, and ½ for a square.
  double weight(Factors f) const {
    if (f.n >= 0) return p.scale * p.scale * (f.m == f.n ? 0.5 : 1);
    return p.feature == LinearFeature::none || f.m >= 0 ? p.scale : 1;
  }
  /// Adds to `to`, the gradient of a row of `of`, what d, that of its component c, is worth.
  void add_component(double* to, const TensorView& of, int64_t s, int64_t c, double d) const {
    const Factors f = factors(c);
    if (f.m >= 0) to[f.m] += d * (f.n < 0 ? 1 : element(of, s, f.n));
    if (f.n >= 0) to[f.n] += d * element(of, s, f.m);
  }

  double state_element(const TensorView& t, int64_t c, int64_t e) const {
    return load(t, b * t.stride[0] + h * t.stride[1] + c * t.stride[2] + e * t.stride[3]);
  }
  void read_state(const TensorView& t, double* state) const {
    for (int64_t c = 0; c < rows; ++c)
      for (int64_t e = 0; e < columns; ++e) state[c * columns + e] = t ? state_element(t, c, e) : 0;
  }
  void write_state(const TensorView& t, const double* state) const {
    for (int64_t c = 0; c < rows; ++c)
      for (int64_t e = 0; e < columns; ++e)
        store(t, b * t.stride[0] + h * t.stride[1] + c * t.stride[2] + e * t.stride[3], state[c * columns + e]);
  }

  void advance(double* state) const {
    for (int64_t c = 0; c < rows; ++c)
      for (int64_t e = 0; e < columns; ++e)
        state[c * columns + e] = decay[c] * state[c * columns + e] + key[c] * value[e];
  }
  /// scale·q·S, column by column.
  double read(const double* state, int64_t e) const {
    double sum = 0;
    for (int64_t c = 0; c < rows; ++c) sum += query[c] * state[c * columns + e];
    return sum;
  }
  /// f(s) for every step with `state` as that step's query sees it; leaves the final state.
  template <class F>
  void walk(double* state, F f) const {
    read_state(p.initial_state, state);
    for (int64_t s = 0; p.global && s < count; ++s) load_step(s), advance(state);
    for (int64_t s = 0; s < count; ++s) {
      load_step(s);
      if (!p.global) advance(state);
      f(s);
    }
  }
};

template <class F>
void each_unit(const LinearProblem& p, const Context& context, void* workspace, int64_t doubles, F f) {
  const int64_t n = batch(p) * heads(p), slots = std::min<int64_t>(context.threads, n);
  parallel_for(context, slots, [&](int64_t slot) {
    double* scratch = static_cast<double*>(workspace) + slot * (Scan::doubles(p) + doubles);
    for (int64_t u = slot; u < n; u += slots) f(Scan(p, u, scratch), scratch + Scan::doubles(p));
  });
}

int64_t state_doubles(const LinearProblem& p) { return state_rows(p.feature, key_dim(p)) * columns(p); }
int64_t slots_of(const LinearProblem& p, int threads) { return std::min<int64_t>(threads, batch(p) * heads(p)); }

int64_t forward_bytes(const LinearForward& p, int threads) {
  return slots_of(p, threads) * (Scan::doubles(p) + state_doubles(p)) * 8;
}

void forward(const LinearForward& p, const Context& context, void* workspace) {
  each_unit(p, context, workspace, state_doubles(p), [&](const Scan& scan, double* state) {
    scan.walk(state, [&](int64_t s) {
      const double den = p.normalize ? scan.read(state, value_dim(p)) + p.epsilon : 1;
      for (int64_t e = 0; e < value_dim(p); ++e)
        store(p.out, scan.at(p.out, s) + e * p.out.stride[p.out.rank - 1], scan.read(state, e) / den);
    });
    if (p.final_state) scan.write_state(p.final_state, state);
  });
}

/// Every head's own gradients of its rows, before heads that share an operand, or a decay, are summed.
struct Rows {
  double *query, *key, *value, *decay;  // [H][row][D], …, [Dv], [D]
  int64_t rows;

  static int64_t doubles(const LinearBackward& p) {
    return heads(p) * saccade::rows(p) * (3 * key_dim(p) + value_dim(p));
  }
  Rows(const LinearBackward& p, double* base) : rows(saccade::rows(p)) {
    const int64_t n = heads(p) * rows * key_dim(p);
    query = base, key = query + n, decay = key + n, value = decay + n;
  }
  double* at(double* of, const Scan& scan, int64_t s, int64_t width) const {
    return of + (scan.h * rows + scan.row(s)) * width;
  }
};

int64_t slot_doubles(const LinearBackward& p) {
  return 3 * state_doubles(p) + columns(p) + (packed(p) ? p.query.shape[0] : p.query.shape[2]);
}
int64_t backward_bytes(const LinearBackward& p, int threads) {
  return (Rows::doubles(p) + slots_of(p, threads) * (Scan::doubles(p) + slot_doubles(p))) * 8;
}

/// d = the gradient of (numerator, denominator) at step s.
void load_gradient(const LinearBackward& p, const Scan& scan, int64_t s, double den, double* d) {
  for (int64_t e = 0; e < value_dim(p); ++e) d[e] = scan.element(p.dout, s, e) / den;
  if (p.normalize) d[value_dim(p)] = -dot(p.dout, scan.at(p.dout, s), p.out, scan.at(p.out, s)) / den;
}

void scan_gradients(const LinearBackward& p, const Scan& scan, const Rows& rows, double* scratch) {
  const int64_t dim = scan.dim, size = state_doubles(p), columns = scan.columns, dv = value_dim(p);
  double *state = scratch, *dstate = state + size, *later = dstate + size, *d = later + size, *den = d + columns;
  scan.walk(state, [&](int64_t s) {
    den[s] = p.normalize ? scan.read(state, dv) + p.epsilon : 1;
    load_gradient(p, scan, s, den[s], d);
    double* dq = rows.at(rows.query, scan, s, dim);
    std::fill_n(dq, dim, 0.0);
    for (int64_t c = 0; c < scan.rows; ++c) {
      double sum = 0;
      for (int64_t e = 0; e < columns; ++e) sum += state[c * columns + e] * d[e];
      scan.add_component(dq, p.query, s, c, sum * scan.weight(scan.factors(c)));
    }
  });
  // From the last step to the first: ∂L/∂S, to which every later query and the final state contribute.
  scan.read_state(p.dfinal_state, dstate);
  const auto add_query = [&](int64_t s) {
    load_gradient(p, scan, s, den[s], d);
    for (int64_t c = 0; c < scan.rows; ++c)
      for (int64_t e = 0; e < columns; ++e) dstate[c * columns + e] += scan.query[c] * d[e];
  };
  for (int64_t s = 0; p.global && s < scan.count; ++s) scan.load_step(s), add_query(s);
  // dg_t = Σ_{r ≥ t} (q_r·dq_r − k_r·dk_r) + S_T·dS_T, channel by channel. Features have no decay.
  for (int64_t c = 0; c < dim; ++c) {
    later[c] = 0;
    for (int64_t e = 0; p.dfinal_state && e < columns; ++e)
      later[c] += state[c * columns + e] * dstate[c * columns + e];
  }
  for (int64_t s = scan.count - 1; s >= 0; --s) {
    scan.load_step(s);
    if (!p.global) add_query(s);
    double *dk = rows.at(rows.key, scan, s, dim), *dg = rows.at(rows.decay, scan, s, dim);
    double* dvalue = rows.at(rows.value, scan, s, dv);
    const double* dq = rows.at(rows.query, scan, s, dim);
    std::fill_n(dvalue, dv, 0.0);
    std::fill_n(dk, dim, 0.0);
    for (int64_t c = 0; c < scan.rows; ++c) {
      double sum = 0;
      for (int64_t e = 0; e < columns; ++e) sum += dstate[c * columns + e] * scan.value[e];
      for (int64_t e = 0; e < dv; ++e) dvalue[e] += scan.key[c] * dstate[c * columns + e];
      scan.add_component(dk, p.key, s, c, sum);
      for (int64_t e = 0; e < columns; ++e) dstate[c * columns + e] *= scan.decay[c];
    }
    for (int64_t c = 0; c < dim; ++c)
      dg[c] = later[c] += scan.element(p.query, s, c) * dq[c] - scan.element(p.key, s, c) * dk[c];
  }
  if (p.dinitial_state) scan.write_state(p.dinitial_state, dstate);
}

/// to[…] = the sum over the heads that share an operand's head.
void sum_heads(const LinearBackward& p, const Context& context, const TensorView& to, const double* from, int64_t rows,
               int64_t width) {
  const int64_t all = heads(p), own = to.shape[1], group = own ? all / own : 0;
  const int64_t tokens = packed(p) ? rows : p.query.shape[2];
  parallel_for(context, rows * own, [&](int64_t i) {
    const int64_t row = i / own, h = i % own;
    const int64_t at = packed(p) ? row * to.stride[0] + h * to.stride[1]
                                 : row / tokens * to.stride[0] + h * to.stride[1] + row % tokens * to.stride[2];
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0;
      for (int64_t g = h * group; g < (h + 1) * group; ++g) sum += from[(g * rows + row) * width + c];
      store(to, at + c * to.stride[to.rank - 1], sum);
    }
  });
}

void decay_gradient(const LinearBackward& p, const Context& context, const Rows& rows) {
  const TensorView& to = p.dlog_decay;
  const int64_t dim = key_dim(p), all = heads(p), last = to.rank - 1;
  const int64_t tokens = packed(p) ? rows.rows : p.query.shape[2];
  const bool per_token = packed(p) ? to.shape[0] != 1 : to.shape[0] != 1 || to.shape[2] != 1;
  const bool per_channel = to.shape[last] != 1;
  parallel_for(context, all, [&](int64_t h) {
    double total = 0;
    for (int64_t row = 0; row < rows.rows; ++row) {
      const double* from = rows.decay + (h * rows.rows + row) * dim;
      const int64_t at = packed(p) ? row * to.stride[0] + h * to.stride[1]
                                   : row / tokens * to.stride[0] + h * to.stride[1] + row % tokens * to.stride[2];
      double sum = 0;
      for (int64_t c = 0; c < dim; ++c) {
        sum += from[c];
        if (per_channel) store(to, at + c * to.stride[last], from[c]);
      }
      total += sum;
      if (per_token && !per_channel) store(to, at, sum);
    }
    if (!per_token && !per_channel) store(to, h * to.stride[1], total);
  });
}

void backward(const LinearBackward& p, const Context& context, void* workspace) {
  auto* base = static_cast<double*>(workspace);
  const Rows rows(p, base);
  each_unit(p, context, base + Rows::doubles(p), slot_doubles(p),
            [&](const Scan& scan, double* scratch) { scan_gradients(p, scan, rows, scratch); });
  sum_heads(p, context, p.dquery, rows.query, rows.rows, key_dim(p));
  sum_heads(p, context, p.dkey, rows.key, rows.rows, key_dim(p));
  sum_heads(p, context, p.dvalue, rows.value, rows.rows, value_dim(p));
  if (p.dlog_decay) decay_gradient(p, context, rows);
}

/// A step is a forward of one token with the state as initial and final one.
LinearForward as_forward(const LinearStep& p) {
  const auto with_token = [](TensorView t) {
    if (!t) return t;
    t.shape[3] = t.shape[2], t.stride[3] = t.stride[2];
    t.shape[2] = 1, t.stride[2] = 0, t.rank = 4;
    return t;
  };
  LinearForward f;
  f.query = with_token(p.query), f.key = with_token(p.key), f.value = with_token(p.value);
  f.log_decay = with_token(p.log_decay), f.out = with_token(p.out);
  f.initial_state = f.final_state = p.state;
  f.scale = p.scale, f.normalize = p.normalize, f.epsilon = p.epsilon, f.feature = p.feature;
  return f;
}

template <class Problem>
std::string supports(const Problem&) {
  return "";
}

}  // namespace

const Kernel<LinearForward> reference_linear = {"cpu.reference.linear", supports<LinearForward>, forward_bytes,
                                                forward};
const Kernel<LinearBackward> reference_linear_backward = {"cpu.reference.linear", supports<LinearBackward>,
                                                          backward_bytes, backward};
const Kernel<LinearStep> reference_linear_step = {
    "cpu.reference.linear", supports<LinearStep>,
    [](const LinearStep& p, int threads) { return forward_bytes(as_forward(p), threads); },
    [](const LinearStep& p, const Context& c, void* w) { forward(as_forward(p), c, w); }};

}  // namespace saccade
