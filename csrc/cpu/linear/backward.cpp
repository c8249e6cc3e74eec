#include "cpu/linear/scan.h"

// The backward is three scans of the forward's form. With D_t = Σ_{r ≥ t} e^{G_r − G_t} q_rᵀ dout_r, which runs from
// the last step to the first and starts with the final state's gradient,
//   dq_t = S_t dout_t      keys v, values k, decay on the values' channels
//   dv_t = D_tᵀ k_t        keys q, values dout, backward
//   dk_t = D_t v_t         keys dout, values q, backward, decay on the values' channels
// so no state is saved. With `normalize`, v has one more column, 1, and dout is that of the numerator and denominator.
namespace saccade::cpu::SACCADE_ISA {
namespace {

enum Kind { kQuery, kValue, kKey, kKinds };

struct BackwardPlan {
  ScanPlan scans, denominators;
  TensorView dquery, dkey, dvalue;  // of every head in fp32: the gradient itself where it has that form
  TensorView factor, extra;         // normalize: 1/(den + ε) and −dout·out/(den + ε) of every row
  TensorView final_state;           // decay gradient with a gradient of the final state
  double *sums, *totals;            // [worker][D], [B·H]: of the decay gradient
  float* rows;                      // [worker][4][kStride]
  int64_t bytes;

  static BackwardPlan make(const LinearBackward& p, int threads, void* workspace) {
    Arena a{static_cast<char*>(workspace)};
    const Tokens n(p);
    const int64_t widest = n.features > n.columns ? n.features : n.columns;
    const int64_t by_rows = n.features * Scan::state_ld(n.columns), by_columns = n.columns * Scan::state_ld(n.features);
    BackwardPlan plan{ScanPlan::make(a, p, kKinds, widest, by_rows > by_columns ? by_rows : by_columns, threads),
                      ScanPlan{Tokens(p)}};
    const auto of_heads = [&](const TensorView& to, int64_t width) {
      return to.dtype == DType::f32 && to.shape[1] == n.heads
                 ? to
                 : n.view(a.take<float>(n.heads * n.rows_in_all() * width), width);
    };
    plan.dquery = of_heads(p.dquery, n.dim);
    plan.dkey = of_heads(p.dkey, n.dim);
    plan.dvalue = of_heads(p.dvalue, n.value_dim);
    if (p.normalize) {
      plan.denominators = ScanPlan::make(a, p, 1, n.features, n.features * Scan::state_ld(1), threads);
      plan.factor = n.view(a.take<float>(n.heads * n.rows_in_all()), 1);
      plan.extra = n.view(a.take<float>(n.heads * n.rows_in_all()), 1);
    }
    if (p.dlog_decay && p.dfinal_state) {
      const int64_t shape[4] = {n.batch, n.heads, n.dim, n.columns};
      plan.final_state = contiguous_view(a.take<float>(n.batch * n.heads * n.dim * n.columns), DType::f32, 4, shape);
    }
    plan.sums = a.take<double>(p.dlog_decay ? threads * n.dim : 0);
    plan.totals = a.take<double>(p.dlog_decay ? n.batch * n.heads : 0);
    plan.rows = a.take<float>(threads * 4 * kStride);
    plan.bytes = a.used;
    return plan;
  }
};

struct Backward {
  const LinearBackward& p;
  const BackwardPlan& plan;
  const Context& context;
  const Tokens& n;
  LoadRow load;
  StoreRow store_f32 = store_row<math::F32>;

  Operand operand(const TensorView& t, int64_t b, int64_t h, int64_t width, int64_t columns, float scale = 1) const {
    return {n.rows(t, b, h), width, columns, scale, load, dtype_size(t.dtype)};
  }
  Operand dout(int64_t b, int64_t h, int64_t columns, float scale) const {
    Operand d = operand(p.dout, b, h, n.value_dim, columns, scale);
    if (p.normalize) d.factor = n.rows(plan.factor, b, h), d.extra = n.rows(plan.extra, b, h);
    return d;
  }
  void flip(Operand& x, int64_t count) const {
    x.rows = flipped(x.rows, count, dtype_size(p.query.dtype));
    x.factor = flipped(x.factor, count, 4), x.extra = flipped(x.extra, count, 4);
  }

  bool features() const { return p.feature == LinearFeature::taylor2; }
  Operand query(int64_t b, int64_t h, float scale) const {
    Operand q = operand(p.query, b, h, n.dim, n.dim, scale);
    if (features()) q.expand(math::Taylor2::of_query(static_cast<float>(p.scale)));
    return q;
  }
  Operand key(int64_t b, int64_t h) const {
    Operand k = operand(p.key, b, h, n.dim, n.dim);
    if (features()) k.expand(math::Taylor2::of_key());
    return k;
  }

  Scan denominator(int64_t b, int64_t h) const {
    Scan s{};
    s.d = n.features, s.e = 1;
    s.query = query(b, h, static_cast<float>(p.scale));
    s.key = key(b, h);
    s.value = operand(p.value, b, h, 0, 1);
    s.out = {n.rows(plan.factor, b, h), 1, store_f32, 4};
    s.decay = decay_of(n, p.log_decay, b, h);
    s.initial = p.initial_state;  // its last column
    if (s.initial) s.initial.data = static_cast<float*>(s.initial.data) + n.value_dim * s.initial.stride[3];
    return s;
  }

  Scan scan(int kind, int64_t b, int64_t h) const {
    const float scale = features() ? 1 : static_cast<float>(p.scale);  // features of the query have it
    const int64_t d = n.features, c = n.columns;
    Scan s{};
    s.decay = decay_of(n, p.log_decay, b, h);
    s.decay.on_values = kind != kValue;
    if (kind == kQuery) {
      s.d = c, s.e = d;
      s.query = dout(b, h, c, scale);
      s.key = operand(p.value, b, h, n.value_dim, c);
      s.value = key(b, h);
      s.out = {n.rows(plan.dquery, b, h), n.dim, store_f32, 4};
      s.source = query(b, h, 1);
      s.out.contracts = features();
      s.initial = p.initial_state, s.final = plan.final_state;
      s.transposed = true;
      return s;
    }
    const int64_t count = n.count(b);
    if (kind == kValue) {
      s.d = d, s.e = c;
      s.query = key(b, h);
      s.key = query(b, h, 1);
      s.value = dout(b, h, c, scale);
      s.out = {n.rows(plan.dvalue, b, h), n.value_dim, store_f32, 4};
      s.initial = p.dfinal_state, s.final = p.dinitial_state;
    } else {
      s.d = c, s.e = d;
      s.query = operand(p.value, b, h, n.value_dim, c);
      s.key = dout(b, h, c, scale);
      s.value = query(b, h, 1);
      s.out = {n.rows(plan.dkey, b, h), n.dim, store_f32, 4};
      s.source = key(b, h);
      s.out.contracts = features();
      s.initial = p.dfinal_state;
      s.transposed = true;
    }
    for (Operand* x : {&s.query, &s.key, &s.value, &s.source}) flip(*x, count);
    s.out.rows = flipped(s.out.rows, count, 4);
    s.decay.rows = flipped(s.decay.rows, count, 4);
    s.decay.shifted = s.decay.per != DecayPer::none;
    return s;
  }

  float* row(int64_t worker, int i) const { return plan.rows + (worker * 4 + i) * kStride; }
  static float dot(const float* x, const float* y, int64_t n) {
    Vec sum(0.0f);
    for (int64_t c = 0; c < n; c += kWidth) sum = fma(Vec::load(x + c), Vec::load(y + c), sum);
    return cpu::SACCADE_ISA::sum(sum);
  }

  /// f(worker, b, h, first, end) for blocks of the steps of every head of a tensor.
  template <class F>
  void each_block(int64_t heads, const F& f) const {
    const Pieces blocks = plan.scans.chunks;
    for_units(context, blocks.total(n.batch) * heads, [&](int64_t worker, int64_t unit) {
      const int64_t b = blocks.sequence(n.batch, unit / heads), t = (unit / heads - blocks.first[b]) * plan.scans.chunk;
      f(worker, b, unit % heads, t, t + plan.scans.chunk < n.count(b) ? t + plan.scans.chunk : n.count(b));
    });
  }

  void prepare_normalize() const {
    run_scans(plan.denominators, context, [&](int, int64_t b, int64_t h) { return denominator(b, h); });
    each_block(n.heads, [&](int64_t worker, int64_t b, int64_t h, int64_t t, int64_t end) {
      const Rows factor = n.rows(plan.factor, b, h), extra = n.rows(plan.extra, b, h);
      const Operand dout = operand(p.dout, b, h, n.value_dim, n.value_dim),
                    out = operand(p.out, b, h, n.value_dim, n.value_dim);
      for (; t < end; ++t) {
        dout.load(t, row(worker, 0)), out.load(t, row(worker, 1));
        float& f = *factor.at<float>(t);
        f = 1 / (f + static_cast<float>(p.epsilon));
        *extra.at<float>(t) = -f * dot(row(worker, 0), row(worker, 1), n.value_dim);
      }
    });
  }

  /// to = the sum over the heads that share one of its heads, in ascending order.
  void sum_heads(const TensorView& to, const TensorView& from, int64_t width) const {
    if (to.data == from.data) return;
    const StoreRow store = storer(to.dtype);
    const int64_t own = to.shape[1], group = own ? n.heads / own : 0;
    each_block(own, [&](int64_t worker, int64_t b, int64_t h, int64_t t, int64_t end) {
      float *sum = row(worker, 0), *x = row(worker, 1);
      // A head of `to` stands for its whole group.
      const Rows rows = n.rows(to, b, h * group);
      for (; t < end; ++t) {
        for (int64_t g = 0; g < group; ++g) {
          load_row<math::F32>(n.rows(from, b, h * group + g), t, width, 1, g ? x : sum);
          for (int64_t c = 0; g && c < width; c += kWidth) (Vec::load(sum + c) + Vec::load(x + c)).store(sum + c);
        }
        store(rows, t, width, 1, sum);
      }
    });
  }

  /// dg_t = Σ_{r ≥ t} (q_r·dq_r − k_r·dk_r) + S_T·dS_T, channel by channel.
  void decay_gradient() const {
    const TensorView& to = p.dlog_decay;
    const bool channels = to.shape[to.rank - 1] > 1;
    const bool per_head = n.packed ? to.shape[0] == 1 : to.shape[0] == 1 && to.shape[2] == 1;
    for_units(context, n.batch * n.heads, [&](int64_t worker, int64_t unit) {
      const int64_t b = unit / n.heads, h = unit % n.heads;
      double* later = plan.sums + worker * n.dim;
      for (int64_t c = 0; c < n.dim; ++c) later[c] = 0;
      if (plan.final_state) {
        const auto at = [&](const TensorView& s, int64_t c, int64_t e) {
          return static_cast<const float*>(
              s.data)[b * s.stride[0] + h * s.stride[1] + c * s.stride[2] + e * s.stride[3]];
        };
        for (int64_t c = 0; c < n.dim; ++c)
          for (int64_t e = 0; e < n.columns; ++e)
            later[c] += static_cast<double>(at(plan.final_state, c, e)) * at(p.dfinal_state, c, e);
      }
      double all = 0, total = 0;
      for (int64_t c = 0; c < n.dim; ++c) all += later[c];
      const Operand q = operand(p.query, b, h, n.dim, n.dim), k = operand(p.key, b, h, n.dim, n.dim);
      const Rows dq = n.rows(plan.dquery, b, h), dk = n.rows(plan.dkey, b, h), dg = n.rows(to, b, h);
      float *qr = row(worker, 0), *kr = row(worker, 1), *dqr = row(worker, 2), *dkr = row(worker, 3);
      for (int64_t t = n.count(b) - 1; t >= 0; --t) {
        q.load(t, qr), k.load(t, kr);
        load_row<math::F32>(dq, t, n.dim, 1, dqr);
        load_row<math::F32>(dk, t, n.dim, 1, dkr);
        if (channels) {
          float* row = dg.at<float>(t);
          for (int64_t c = 0; c < n.dim; ++c)
            later[c] += static_cast<double>(qr[c]) * dqr[c] - static_cast<double>(kr[c]) * dkr[c];
          for (int64_t c = 0; c < n.dim; ++c) row[c * dg.col] = static_cast<float>(later[c]);
          continue;
        }
        for (int64_t c = 0; c < n.dim; ++c)
          all += static_cast<double>(qr[c]) * dqr[c] - static_cast<double>(kr[c]) * dkr[c];
        total += all;
        if (!per_head) *dg.at<float>(t) = static_cast<float>(all);
      }
      plan.totals[unit] = total;
    });
    if (channels || !per_head) return;
    for (int64_t h = 0; h < n.heads; ++h) {
      double total = 0;
      for (int64_t b = 0; b < n.batch; ++b) total += plan.totals[b * n.heads + h];
      static_cast<float*>(to.data)[h * to.stride[1]] = static_cast<float>(total);
    }
  }
};

}  // namespace

int64_t linear_workspace(const LinearBackward& p, int threads) { return BackwardPlan::make(p, threads, nullptr).bytes; }

void linear(const LinearBackward& p, const Context& context, void* workspace) {
  const BackwardPlan plan = BackwardPlan::make(p, context.threads, workspace);
  const Backward run{p, plan, context, plan.scans.tokens, loader(p.query.dtype)};
  if (p.normalize) run.prepare_normalize();
  run_scans(plan.scans, context, [&](int kind, int64_t b, int64_t h) { return run.scan(kind, b, h); });
  run.sum_heads(p.dquery, plan.dquery, plan.scans.tokens.dim);
  run.sum_heads(p.dkey, plan.dkey, plan.scans.tokens.dim);
  run.sum_heads(p.dvalue, plan.dvalue, plan.scans.tokens.value_dim);
  if (p.dlog_decay) run.decay_gradient();
}

}  // namespace saccade::cpu::SACCADE_ISA
