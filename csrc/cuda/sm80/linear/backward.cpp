#include "cuda/sm80/linear/linear.h"
#include "cuda/sm80/linear/problem.h"

// The backward is three scans of the forward's form. With D_t = Σ_{r ≥ t} e^{G_r − G_t} q_rᵀ dout_r, which runs from
// the last step to the first and starts with the final state's gradient,
//   dq_t = S_t dout_t      keys v, values k, decay on the values' channels
//   dv_t = D_tᵀ k_t        keys q, values dout, backward
//   dk_t = D_t v_t         keys dout, values q, backward, decay on the values' channels
// so no state is saved. With `normalize`, v has one more channel, 1, and dout is f·(dout, −dout·out) with f = 1/(den +
// ε).
namespace saccade {
namespace {

using namespace cuda;

class Backward {
 public:
  Backward(const LinearBackward& p, void* workspace, Queue* queue)
      : p_(p),
        plan_(p, p.dlog_decay || p.dinitial_state, workspace, queue),
        queue_(queue),
        dout_(plan_.operand(p.dout)) {}

  /// Launches everything; without a queue only the workspace is measured.
  int64_t run() {
    const ScanParams& n = plan_.scan;
    if (p_.normalize) factor_ = plan_.numbers(), extra_ = plan_.numbers();
    if (p_.normalize && p_.dinitial_state) product_ = plan_.numbers();
    const bool decays = static_cast<bool>(p_.dlog_decay);  // whose gradient takes dq and dk unrounded
    const Output dquery = output(p_.dquery, n.dim, decays), dkey = output(p_.dkey, n.dim, decays),
                 dvalue = output(p_.dvalue, plan_.value_dim, false);
    float* dots = nullptr;
    if (p_.dlog_decay && n.decay_of == DecayOf::token) dots = plan_.numbers();
    States state{};
    if (p_.dlog_decay && p_.dfinal_state) {
      const int64_t columns = plan_.value_dim + p_.normalize, size = n.dim * columns;
      state.at = {reinterpret_cast<char*>(plan_.arena.take<float>(n.batch * n.heads * size)), n.heads * size, size,
                  columns, 1};
    }
    int64_t bytes = 0;
    {
      Scans scans(plan_.device, plan_.arena, plan_.type, queue_);
      if (p_.normalize) {
        ScanParams s = plan_.denominators(p_, factor_);
        if (p_.dlog_decay || p_.dinitial_state) s.rounding = Rounding::none;
        scans.run(s);
        normalize();
      }
      query_scan(scans, dquery, state);
      value_scan(scans, dvalue);
      key_scan(scans, dkey);
      bytes = scans.bytes();
    }
    if (!queue_) return bytes;
    sum(dquery, p_.dquery, n.dim), sum(dkey, p_.dkey, n.dim), sum(dvalue, p_.dvalue, plan_.value_dim);
    if (p_.dlog_decay) decay(dquery, dkey, state, dots);
    return bytes;
  }

 private:
  /// Rows that a scan writes: of the gradient itself, or of every head in fp32.
  struct Output {
    View rows;
    DType type;
    bool own, wide;
  };
  Output output(const TensorView& t, int64_t width, bool unrounded) {
    if (t.shape[1] == plan_.scan.heads && (t.dtype == DType::f32 || !unrounded))
      return {row_view(t, plan_.scan.packed), t.dtype, true, rows_aligned(t)};
    return {plan_.rows(plan_.numbers(width), width), DType::f32, false, width % 4 == 0};
  }
  ScanParams scan(const Output& to) const {
    ScanParams s = plan_.scan;
    s.out = to.rows, s.out_type = to.type, s.wide_out = to.wide;
    return s;
  }

  void query_scan(Scans& scans, const Output& to, const States& final) const {
    ScanParams s = scan(to);
    s.query = dout_, s.key = plan_.value, s.value = plan_.key;
    s.query_scale = static_cast<float>(p_.scale), s.query_factor = factor_;
    s.extra = p_.normalize, s.query_extra = extra_;
    s.initial = transposed(states(p_.initial_state)), s.final = transposed(final);
    transpose(s);
    if (p_.dlog_decay) s.rounding = Rounding::none;
    scans.run(s);
  }
  void key_scan(Scans& scans, const Output& to) const {
    ScanParams s = scan(to);
    s.query = plan_.value, s.key = dout_, s.value = plan_.query;
    s.key_scale = static_cast<float>(p_.scale), s.key_factor = factor_;
    s.extra = p_.normalize, s.key_extra = extra_;
    s.initial = transposed(states(p_.dfinal_state));
    transpose(s), turn(s);
    if (p_.dlog_decay) s.rounding = Rounding::none;
    scans.run(s);
  }
  void value_scan(Scans& scans, const Output& to) const {
    ScanParams s = scan(to);
    s.query = plan_.key, s.key = plan_.query, s.value = dout_;
    s.key_scale = static_cast<float>(p_.scale), s.key_factor = factor_;
    s.initial = states(p_.dfinal_state), s.final = states(p_.dinitial_state);
    turn(s);
    if (p_.dinitial_state) s.rounding = Rounding::not_state;
    scans.run(s);
    if (!p_.normalize || !p_.dinitial_state) return;
    // The last column of the states, without an output.
    s.value = {}, s.columns = 1, s.key_factor = product_, s.outputs = false;
    s.initial = from_column(s.initial, plan_.value_dim), s.final = from_column(s.final, plan_.value_dim);
    scans.run(s);
  }
  void transpose(ScanParams& s) const {
    s.dim = static_cast<int32_t>(plan_.value_dim), s.columns = plan_.scan.dim;
    if (s.decay_of == DecayOf::key) s.decay_of = DecayOf::value;
  }
  static void turn(ScanParams& s) { s.flip = !s.flip, s.shifted = true; }

  void normalize() const {
    if (!queue_) return;
    auto r = plan_.sizes<NormalizeParams>();
    r.dout = row_view(p_.dout, r.packed), r.out = row_view(p_.out, r.packed);
    r.factor = factor_, r.extra = extra_, r.product = product_, r.epsilon = static_cast<float>(p_.epsilon);
    with_operand(p_.query.dtype, [&]<class T>(T) { RowKernels<T>::normalize(*queue_, r); });
  }
  void sum(const Output& from, const TensorView& to, int64_t width) const {
    if (from.own || to.shape[1] == 0) return;
    auto r = plan_.sizes<SumParams>();
    r.from = from.rows, r.to = row_view(to, r.packed);
    r.group = static_cast<int32_t>(r.heads / to.shape[1]), r.width = static_cast<int32_t>(width);
    with_operand(p_.query.dtype, [&]<class T>(T) { RowKernels<T>::sum(*queue_, r); });
  }
  void decay(const Output& dquery, const Output& dkey, const States& state, float* dots) const {
    const TensorView& to = p_.dlog_decay;
    auto r = plan_.sizes<DecayParams>();
    r.query = plan_.query, r.key = plan_.key, r.dquery = dquery.rows, r.dkey = dkey.rows;
    r.to = row_view(to, r.packed);
    if (state.at) r.state = state.at, r.dstate = states(p_.dfinal_state).at;
    r.columns += p_.normalize;
    r.dots = dots;
    r.per_head = r.packed ? to.shape[0] == 1 : to.shape[0] == 1 && to.shape[2] == 1;
    with_operand(plan_.type, [&]<class T>(T) { RowKernels<T>::decay(*queue_, r); });
  }

  const LinearBackward& p_;
  LinearPlan plan_;
  Queue* queue_;
  Operand dout_;
  float *factor_ = nullptr, *extra_ = nullptr, *product_ = nullptr;  // f, −dout·out, their product, of every row
};

}  // namespace

const Kernel<LinearBackward> sm80_linear_backward = {
    "cuda.sm80.linear",
    [](const LinearBackward& p) {
      return linear_refusal(p, std::max(p.query.shape[p.query.rank - 1], p.value.shape[p.value.rank - 1]));
    },
    [](const LinearBackward& p, int) { return Backward(p, nullptr, nullptr).run(); },
    [](const LinearBackward& p, const Context& context, void* workspace) {
      Queue queue("linear_attention_backward", p.query, context);
      Backward(p, workspace, &queue).run();
      queue.finish();
    }};

}  // namespace saccade
