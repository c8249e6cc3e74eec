#include <cmath>
#include <iterator>

#include "ops/arguments.h"
#include "ops/check.h"

namespace saccade {
namespace {

/// Sizes of a problem, and the rules that all three operations share. `step`: no axis of tokens.
class LinearChecker : Arguments {
 public:
  LinearChecker(const char* op, const TensorView& q, const TensorView& k, const TensorView& v, bool step)
      : Arguments(op, q), q_(q), k_(k), v_(v), step_(step) {}

  void operands(const TensorView& cu_seqlens) {
    sane("query", q_);
    sane("key", k_);
    sane("value", v_);
    if (q_.dtype != DType::f64 && q_.dtype != DType::f32 && q_.dtype != DType::bf16 && q_.dtype != DType::f16)
      fail("query", std::string("dtype ") + dtype_name(q_.dtype), "float32, bfloat16, float16 or float64",
           "cast query, key and value");
    dtype("key", k_, q_.dtype, "like query");
    dtype("value", v_, q_.dtype, "like query");
    packed_ = static_cast<bool>(cu_seqlens);
    const int rank = step_ || packed_ ? 3 : 4;
    if (q_.rank != rank)
      fail("query", "shape " + shape_text(q_),
           step_     ? "(B, Hq, D)"
           : packed_ ? "(T, Hq, D) with cu_seqlens"
                     : "(B, Hq, N, D), or packed (T, Hq, D) with cu_seqlens",
           "reshape query, key and value");
    const int last = rank - 1;
    const TensorView &q = q_, &k = k_, &v = v_;
    if (rank == 4) {
      shape("key", k, {{q.shape[0], "B"}, {-1, "Hk"}, {q.shape[2], "N"}, {q.shape[3], "D"}}, to_match("query", q),
            kTodo);
      shape("value", v, {{q.shape[0], "B"}, {-1, "Hv"}, {q.shape[2], "N"}, {-1, "Dv"}}, to_match("query", q), kTodo);
    } else {
      shape("key", k, {{q.shape[0], step_ ? "B" : "T"}, {-1, "Hk"}, {q.shape[2], "D"}}, to_match("query", q), kTodo);
      shape("value", v, {{q.shape[0], step_ ? "B" : "T"}, {-1, "Hv"}, {-1, "Dv"}}, to_match("query", q), kTodo);
    }
    if (q.shape[last] < 1) fail("query", "shape " + shape_text(q), "a head dim D >= 1", "give every head a channel");
    if (v.shape[last] < 1) fail("value", "shape " + shape_text(v), "a head dim Dv >= 1", "give every head a channel");
    heads = std::max({q.shape[1], k.shape[1], v.shape[1]});
    for (const auto& [name, t] : {std::pair<const char*, const TensorView&>{"query", q}, {"key", k}, {"value", v}})
      if (heads > 0 && (t.shape[1] == 0 || heads % t.shape[1]))
        fail(name, std::to_string(t.shape[1]) + " heads",
             "a divisor of " + std::to_string(heads) + ", the most heads among query, key and value",
             "every head of it serves an equal number of them");
    batch = q.shape[0];
    tokens = q.shape[packed_ ? 0 : 2];
    if (packed_) {
      offsets("cu_seqlens", cu_seqlens, "query", tokens);
      batch = cu_seqlens.shape[0] - 1;
    }
    dim = q.shape[last];
    value_dim = v.shape[last];
  }

  void numbers(double scale, bool normalize, double epsilon) const {
    if (!std::isfinite(scale)) fail("scale", number(scale), "a finite number", "the usual scales are 1 and 1/sqrt(D)");
    if (normalize && !(epsilon >= 0 && std::isfinite(epsilon)))
      fail("epsilon", number(epsilon), "a finite number >= 0", "the usual one is 1e-6");
  }

  void log_decay(TensorView& g, TensorView* gradient_of) const {
    if (g) {
      sane("log_decay", g);
      dtype("log_decay", g, statistic(), "for decays");
      const bool channels = g.rank == full_rank();
      const char* todo = "pass one per head, per head and token, or per head, token and channel";
      if (g.rank == 1)
        shape("log_decay", g, {{heads, "H"}}, to_match("query", q_), todo);
      else if (step_)
        channels ? shape("log_decay", g, {{batch, "B"}, {heads, "H"}, {dim, "D"}}, to_match("query", q_), todo)
                 : shape("log_decay", g, {{batch, "B"}, {heads, "H"}}, to_match("query", q_), todo);
      else if (packed_)
        channels ? shape("log_decay", g, {{tokens, "T"}, {heads, "H"}, {dim, "D"}}, to_match("query", q_), todo)
                 : shape("log_decay", g, {{tokens, "T"}, {heads, "H"}}, to_match("query", q_), todo);
      else
        channels ? shape("log_decay", g, {{batch, "B"}, {heads, "H"}, {tokens, "N"}, {dim, "D"}}, to_match("query", q_),
                         todo)
                 : shape("log_decay", g, {{batch, "B"}, {heads, "H"}, {tokens, "N"}}, to_match("query", q_), todo);
    }
    if (gradient_of && *gradient_of) gradient("dlog_decay", *gradient_of, "log_decay", g);
    if (gradient_of && *gradient_of) full(*gradient_of);
    if (g) full(g);
  }

  template <class Problem>
  void state(const char* arg, const TensorView& t, const Problem& p, bool written) const {
    sane(arg, t);
    dtype(arg, t, statistic(), "for states");
    shape(arg, t, {{batch, "B"}, {heads, "H"}, {state_rows(p.feature, dim), "D"}, {value_dim + p.normalize, "Dv"}},
          to_match("query", q_) + " and value " + shape_text(v_),
          "a state has a row per channel or feature of the key");
    if (written) writable(arg, t);
  }

  void output(const char* arg, const TensorView& t, bool written) const {
    sane(arg, t);
    dtype(arg, t, q_.dtype, "like query");
    const char* todo = "it has the tokens of query, all heads, and the value's head dim";
    if (t.rank == 4 || (!packed_ && !step_))
      shape(arg, t, {{batch, "B"}, {heads, "H"}, {tokens, "N"}, {value_dim, "Dv"}}, to_match("query", q_), todo);
    else
      shape(arg, t, {{q_.shape[0], "T"}, {heads, "H"}, {value_dim, "Dv"}}, to_match("query", q_), todo);
    if (written) writable(arg, t);
  }

  void input_gradient(const char* arg, const TensorView& t, const char* of, const TensorView& like) const {
    gradient(arg, t, of, like);
  }

  void feature(LinearFeature f, const TensorView& log_decay) const {
    if (size_t(f) >= std::size(kLinearFeatureNames))
      fail("feature", "number " + std::to_string(int(f)), "one of LinearFeature's", "set none or taylor2");
    if (f != LinearFeature::none && log_decay)
      fail("feature", std::string(kLinearFeatureNames[size_t(f)]) + " with log_decay", "one of them",
           "drop the decay: features do not decay");
    if (f != LinearFeature::none && dim > kMaxFeatureDim)
      fail("feature", "a head dim of " + std::to_string(dim), "at most " + std::to_string(kMaxFeatureDim),
           "features grow with its square; project query and key to fewer channels");
  }
  static constexpr int64_t kMaxFeatureDim = 1024;  // what 64-bit sizes of states hold with room to spare

  void forms(const LinearProblem& p) const {
    if (p.global && p.log_decay)
      fail("global", "true with log_decay", "one of them", "drop it: without an order of tokens nothing decays");
    if (p.global && p.reverse) fail("reverse", "true with global", "one of them", "drop it: there is no order to turn");
    if (p.chunk < 0) fail("chunk", std::to_string(p.chunk), "0, or tokens >= 1", "0 lets the kernel choose");
  }
  [[noreturn]] void refuse(const char* arg, const std::string& got, const std::string& wanted,
                           const std::string& todo) const {
    fail(arg, got, wanted, todo);
  }

  int64_t batch = 0, heads = 0, tokens = 0, dim = 0, value_dim = 0;

 private:
  static constexpr const char* kTodo =
      "give query, key and value the same batch and tokens, query and key one head dim";

  DType statistic() const { return q_.dtype == DType::f64 ? DType::f64 : DType::f32; }
  int full_rank() const { return step_ || packed_ ? 3 : 4; }

  /// (H) becomes (1, H, 1, 1); per token, an axis of channels is added.
  void full(TensorView& g) const {
    const int rank = full_rank();
    if (g.rank == 1) {
      const int64_t size = g.shape[0], stride = g.stride[0];
      for (int i = 0; i < rank; ++i) g.shape[i] = 1, g.stride[i] = 0;
      g.shape[1] = size, g.stride[1] = size == 1 ? 0 : stride;
    } else if (g.rank < rank) {
      g.shape[rank - 1] = 1, g.stride[rank - 1] = 0;
    }
    g.rank = rank;
  }

  const TensorView &q_, &k_, &v_;
  bool step_, packed_ = false;
};

LinearChecker inputs(const char* op, LinearProblem& p, TensorView* dlog_decay) {
  LinearChecker c(op, p.query, p.key, p.value, false);
  c.operands(p.cu_seqlens);
  c.numbers(p.scale, p.normalize, p.epsilon);
  c.forms(p);
  c.feature(p.feature, p.log_decay);
  c.log_decay(p.log_decay, dlog_decay);
  if (p.initial_state) c.state("initial_state", p.initial_state, p, false);
  return c;
}

template <class Problem>
std::string text(const Problem& p) {
  const auto tensor = [](const char* name, const TensorView& t) {
    return t ? std::string(", ") + name + " " + shape_text(t) + " " + dtype_name(t.dtype) : "";
  };
  std::string s = "query " + shape_text(p.query) + " " + dtype_name(p.query.dtype) + " on " + device_text(p.query) +
                  tensor("key", p.key) + tensor("value", p.value) + tensor("log_decay", p.log_decay) + ", scale " +
                  number(p.scale);
  if (p.feature != LinearFeature::none) s += std::string(", feature ") + kLinearFeatureNames[size_t(p.feature)];
  return p.normalize ? s + ", normalize" : s;
}

}  // namespace

LinearForward check(LinearForward p) {
  const LinearChecker c = inputs("linear_attention", p, nullptr);
  c.output("out", p.out, true);
  if (p.final_state) c.state("final_state", p.final_state, p, true);
  return p;
}

LinearBackward check(LinearBackward p) {
  const LinearChecker c = inputs("linear_attention_backward", p, &p.dlog_decay);
  c.output("dout", p.dout, false);
  if (p.normalize) c.output("out", p.out, false);
  if (p.dfinal_state) c.state("dfinal_state", p.dfinal_state, p, false);
  c.input_gradient("dquery", p.dquery, "query", p.query);
  c.input_gradient("dkey", p.dkey, "key", p.key);
  c.input_gradient("dvalue", p.dvalue, "value", p.value);
  if (p.dinitial_state) {
    if (!p.initial_state)
      c.refuse("dinitial_state", "a tensor without initial_state", "none", "drop it, or pass initial_state");
    c.state("dinitial_state", p.dinitial_state, p, true);
  }
  return p;
}

LinearStep check(LinearStep p) {
  LinearChecker c("linear_attention_step", p.query, p.key, p.value, true);
  c.operands({});
  c.numbers(p.scale, p.normalize, p.epsilon);
  c.feature(p.feature, p.log_decay);
  c.log_decay(p.log_decay, nullptr);
  c.state("state", p.state, p, true);
  c.output("out", p.out, true);
  return p;
}

std::string describe(const LinearProblem& p) {
  return text(p) + (p.global ? ", global" : "") + (p.reverse ? ", reverse" : "");
}
std::string describe(const LinearStep& p) { return text(p); }

}  // namespace saccade
