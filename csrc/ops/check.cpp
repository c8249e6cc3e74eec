#include "ops/check.h"

#include <cmath>

#include "ops/arguments.h"

namespace saccade {
namespace {

class Checker : Arguments {
 public:
  Checker(const char* op, AttentionProblem& p) : Arguments(op, p.query), p_(p) {}

  /// Everything but what the operation writes or reads back.
  void inputs() {
    operands();
    visit();
    options();
  }

  void forward(AttentionForward& p) {
    outputs_of_forward(p.out, p.lse);
    writable("out", p.out);
    if (p.lse) writable("lse", p.lse);
  }

  void backward(AttentionBackward& p) {
    if (normalises(p.score.map)) {
      outputs_of_forward(p.out, p.lse);
      same("dout", p.dout, "out", p.out);
      if (p.dlse) same("dlse", p.dlse, "lse", p.lse);
    } else {
      for (const auto& [name, t] :
           {std::pair<const char*, const TensorView&>{"out", p.out}, {"lse", p.lse}, {"dlse", p.dlse}})
        if (t) fail(name, "a tensor", "none with this score map", "drop it: its backward needs q, k, v and dout only");
      TensorView lse;
      outputs_of_forward(p.dout, lse, "dout");
    }
    gradient("dquery", p.dquery, "query", p.query);
    gradient("dkey", p.dkey, "key", p.key);
    gradient("dvalue", p.dvalue, "value", p.value);
    const ScoreSpec& s = p.score;
    if (p.dbias && s.bias.dtype == DType::boolean)
      fail("dbias", "a tensor with a bool bias", "none", "drop it: a mask has no gradient");
    if (p.dbias) gradient("dbias", p.dbias, "bias", s.bias);
    if (p.dalibi_slopes) gradient("dalibi_slopes", p.dalibi_slopes, "alibi_slopes", s.alibi_slopes);
    if (p.dtemperature) gradient("dtemperature", p.dtemperature, "temperature", s.temperature);
    if (p.dsinks) gradient("dsinks", p.dsinks, "sinks", s.sinks);
    if (p.dhead_gate) gradient("dhead_gate", p.dhead_gate, "head_gate", s.head_gate);
    if (p.dscore_biases) gradient("dscore_biases", p.dscore_biases, "score_biases", s.score_biases);
    if (p.drelative_keys) gradient("drelative_keys", p.drelative_keys, "relative_keys", s.relative_keys);
    if (p.drelative_bias) gradient("drelative_bias", p.drelative_bias, "relative_bias", s.relative_bias);
    expand_gradients(p);
  }

  /// Last of all, since gradients are compared with the shapes as given.
  void expand_inputs() {
    ScoreSpec& s = p_.score;
    per_head_gate(s.head_gate);
    if (s.bias) expand(s.bias, 4);
    if (s.alibi_slopes) expand(s.alibi_slopes, 2);
    if (s.temperature) expand(s.temperature, row_rank());
    if (s.head_gate) expand(s.head_gate, row_rank());
    if (s.relative_keys) expand(s.relative_keys, 3);
    if (s.relative_bias) expand(s.relative_bias, 2);
  }

 private:
  bool packed() const { return p_.query.rank == 3; }
  int row_rank() const { return packed() ? 2 : 3; }
  void operands() {
    const TensorView &q = p_.query, &k = p_.key, &v = p_.value;
    sane("query", q);
    sane("key", k);
    sane("value", v);
    if (q.dtype != DType::f64 && q.dtype != DType::f32 && q.dtype != DType::bf16 && q.dtype != DType::f16)
      fail("query", std::string("dtype ") + dtype_name(q.dtype), "float32, bfloat16, float16 or float64",
           "cast query, key and value");
    dtype("key", k, q.dtype, "like query");
    dtype("value", v, q.dtype, "like query");
    if (q.rank != 3 && q.rank != 4)
      fail("query", "shape " + shape_text(q), "(B, Hq, Nq, D), or packed (Tq, Hq, D) with cu_seqlens",
           "reshape query, key and value");
    const int last = q.rank - 1;
    if (q.shape[last] < 1)
      fail("query", "shape " + shape_text(q), "a head dim D >= 1", "give every head at least one channel");
    const char* todo = "give query, key and value the same batch and layout, and query and key the same head dim";
    const std::string to_query = to_match("query", q);
    if (packed()) {
      shape("key", k, {{-1, "Tk"}, {-1, "Hk"}, {q.shape[2], "D"}}, to_query, todo);
      shape("value", v, {{k.shape[0], "Tk"}, {k.shape[1], "Hk"}, {-1, "Dv"}}, to_match("key", k),
            "value has the key's tokens and heads");
    } else {
      shape("key", k, {{q.shape[0], "B"}, {-1, "Hk"}, {-1, "Nk"}, {q.shape[3], "D"}}, to_query, todo);
      shape("value", v, {{q.shape[0], "B"}, {k.shape[1], "Hk"}, {k.shape[2], "Nk"}, {-1, "Dv"}}, to_match("key", k),
            "value has the key's batch, heads and tokens");
    }
    if (v.shape[last] < 1)
      fail("value", "shape " + shape_text(v), "a head dim Dv >= 1", "give every head at least one channel");
    heads_ = q.shape[1];
    const int64_t key_heads = k.shape[1];
    if (heads_ > 0 && (key_heads == 0 || heads_ % key_heads))
      fail("query", std::to_string(heads_) + " heads",
           "a multiple of the key's " + std::to_string(key_heads) + " heads",
           "every key head serves Hq / Hk query heads");
  }

  void visit() {
    const VisitSpec& s = p_.visit;
    if (s.window_left < -1 || s.window_right < -1)
      fail("window", "(" + std::to_string(s.window_left) + ", " + std::to_string(s.window_right) + ")", "sides >= -1",
           "count the keys seen before and after the query; -1 is unbounded");
    batch_ = packed() ? 0 : p_.query.shape[0];
    queries_ = p_.query.shape[packed() ? 0 : 2];
    keys_ = p_.key.shape[packed() ? 0 : 2];
    const std::pair<const char*, const TensorView&> sides[] = {{"cu_seqlens_q", s.cu_seqlens_q},
                                                               {"cu_seqlens_k", s.cu_seqlens_k}};
    for (const auto& [name, t] : sides) {
      if (packed() && !t)
        fail(name, "no tensor with packed query " + shape_text(p_.query), "int32 (B+1,)",
             "pass both cu_seqlens, or a dense (B, H, N, D)");
      if (!packed() && t)
        fail(name, "a tensor with dense query " + shape_text(p_.query), "none",
             "pass packed (T, H, D) operands, or drop both cu_seqlens");
    }
    if (!packed()) return;
    queries_ = offsets("cu_seqlens_q", s.cu_seqlens_q, "query", queries_);
    keys_ = offsets("cu_seqlens_k", s.cu_seqlens_k, "key", keys_);
    batch_ = s.cu_seqlens_q.shape[0] - 1;
    shape("cu_seqlens_k", s.cu_seqlens_k, {{batch_ + 1, "B+1"}}, to_match("cu_seqlens_q", s.cu_seqlens_q),
          "both count the same sequences");
  }

  void options() {
    const ScoreSpec& s = p_.score;
    if (s.map > ScoreMap::identity)
      fail("map", std::to_string(int(s.map)), "one of ScoreMap's", "choose a score map of this build");
    score_bias();
    if (!std::isfinite(s.scale)) fail("scale", number(s.scale), "a finite number", "the usual scale is 1/sqrt(D)");
    if (!std::isfinite(s.softcap) || s.softcap < 0)
      fail("softcap", number(s.softcap), "a finite number >= 0", "0 means no cap");
    if (!(s.dropout_p >= 0 && s.dropout_p < 1))
      fail("dropout_p", number(s.dropout_p), "0 <= dropout_p < 1", "0 means no dropout");
    const Axis b{batch_, "B"}, h{heads_, "Hq"}, nq{queries_, "Nq"}, nk{keys_, "Nk"};
    const std::string to_query = to_match("query", p_.query);
    if (s.bias) {
      sane("bias", s.bias);
      if (s.bias.dtype != DType::boolean && s.bias.dtype != DType::f32 && s.bias.dtype != p_.query.dtype)
        fail("bias", std::string("dtype ") + dtype_name(s.bias.dtype),
             p_.query.dtype == DType::f32 ? "float32 or bool"
                                          : std::string("float32, bool or the query's ") + dtype_name(p_.query.dtype),
             "cast it; true in a bool bias means visible");
      broadcastable("bias", s.bias, {b, h, nq, nk}, to_query + " and key " + shape_text(p_.key));
    }
    if (s.alibi_slopes) {
      parameter("alibi_slopes", s.alibi_slopes);
      if (s.alibi_slopes.rank == 2)
        shape("alibi_slopes", s.alibi_slopes, {b, h}, to_query, "pass a slope per head, (Hq,), or per batch and head");
      else
        shape("alibi_slopes", s.alibi_slopes, {h}, to_query,
              "pass a slope per head, (Hq,), or per batch and head, (B, Hq)");
    }
    if (s.sinks) {
      if (!normalises(s.map)) fail("sinks", "a tensor", "none with this score map", "drop it: no row sum takes it in");
      parameter("sinks", s.sinks);
      shape("sinks", s.sinks, {h}, to_query, "pass a logit per query head");
    }
    relative();
    per_row("temperature", s.temperature, to_query);
    if (s.head_gate && s.head_gate.rank == 1) {
      parameter("head_gate", s.head_gate);
      shape("head_gate", s.head_gate, {h}, to_query, "pass a gate per head, or one that broadcasts to lse");
    } else {
      per_row("head_gate", s.head_gate, to_query);
    }
  }

  void relative() const {
    const TensorView &keys = p_.score.relative_keys, &bias = p_.score.relative_bias;
    const auto table = [&](const char* arg, const TensorView& t, bool with_dim) {
      const int64_t d = p_.query.shape[p_.query.rank - 1];
      const bool heads = t.rank > 0 && (t.shape[0] == 1 || t.shape[0] == heads_);
      if (t.rank != 2 + with_dim || !heads || t.shape[1] % 2 == 0 || (with_dim && t.shape[2] != d))
        fail(arg, "shape " + shape_text(t),
             "(" + std::to_string(heads_) + " or 1, 2P+1" + (with_dim ? ", " + std::to_string(d) : "") + ")" +
                 to_match("query", p_.query),
             "distances -P to P, an odd number of rows, for every query head or one for all");
    };
    if (keys) {
      sane("relative_keys", keys);
      dtype("relative_keys", keys, p_.query.dtype, "like query");
      table("relative_keys", keys, true);
    }
    if (!bias) return;
    parameter("relative_bias", bias);
    table("relative_bias", bias, false);
    if (keys && keys.shape[1] != bias.shape[1])
      fail("relative_bias", std::to_string(bias.shape[1]) + " distances",
           std::to_string(keys.shape[1]) + to_match("relative_keys", keys), "give both tables the same distances");
  }

  void score_bias() {
    ScoreSpec& s = p_.score;
    if (s.score_bias != s.score_bias) {  // kNegLogN
      if (keys_ < 0)
        fail("score_bias", "-ln(n) with cu_seqlens on the device", "a number",
             "pass -log of the longest sequence of keys; reading it there would wait for the device");
      s.score_bias = keys_ > 0 ? -std::log(static_cast<double>(keys_)) : 0;
    }
    if (!std::isfinite(s.score_bias))
      fail("score_bias", number(s.score_bias), "a finite number", "the usual one is -ln(Nk)");
    if (normalises(s.map) && (s.score_bias != 0 || s.score_biases))
      fail("score_bias", s.score_biases ? "a tensor" : number(s.score_bias), "none with softmax",
           "drop it: softmax does not change with a constant");
    if (!s.score_biases) return;
    parameter("score_biases", s.score_biases);
    shape("score_biases", s.score_biases, {{heads_, "Hq"}}, to_match("query", p_.query),
          "pass a number per query head");
  }

  void parameter(const char* arg, const TensorView& t) const {
    sane(arg, t);
    dtype(arg, t, statistic(), "for a parameter");
  }

  void per_row(const char* arg, const TensorView& t, const std::string& to_query) const {
    if (!t) return;
    parameter(arg, t);
    const Axis h{heads_, "Hq"}, n{p_.query.shape[packed() ? 0 : 2], ""};
    if (packed())
      broadcastable(arg, t, {n, h}, to_query);
    else
      broadcastable(arg, t, {{batch_, "B"}, h, n}, to_query);
  }

  DType statistic() const { return p_.query.dtype == DType::f64 ? DType::f64 : DType::f32; }

  void outputs_of_forward(const TensorView& out, const TensorView& lse, const char* name = "out") const {
    const TensorView &q = p_.query, &v = p_.value;
    const std::string match = to_match("query", q) + " and value " + shape_text(v);
    const bool statistics = normalises(p_.score.map);
    sane(name, out);
    dtype(name, out, q.dtype, "like query");
    if (!statistics && lse) fail("lse", "a tensor", "none with this score map", "drop it: there is no row sum");
    if (statistics) {
      sane("lse", lse);
      dtype("lse", lse, statistic(), "for statistics");
    }
    const char *out_todo = "out has the query's shape with the value's head dim",
               *lse_todo = "lse has the query's shape without head dim";
    if (packed()) {
      shape(name, out, {{q.shape[0], ""}, {q.shape[1], ""}, {v.shape[2], ""}}, match, out_todo);
      if (statistics) shape("lse", lse, {{q.shape[0], ""}, {q.shape[1], ""}}, to_match("query", q), lse_todo);
    } else {
      shape(name, out, {{q.shape[0], ""}, {q.shape[1], ""}, {q.shape[2], ""}, {v.shape[3], ""}}, match, out_todo);
      if (statistics)
        shape("lse", lse, {{q.shape[0], ""}, {q.shape[1], ""}, {q.shape[2], ""}}, to_match("query", q), lse_todo);
    }
  }

  /// A dense gate (Hq) is per head, where broadcasting would align it with the rows.
  void per_head_gate(TensorView& t) const {
    if (!t || t.rank != 1 || packed()) return;
    t.rank = 2;
    t.shape[1] = 1;
    t.stride[1] = 0;
  }

  void expand_gradients(AttentionBackward& p) const {
    per_head_gate(p.dhead_gate);
    if (p.dbias) expand(p.dbias, 4);
    if (p.dalibi_slopes) expand(p.dalibi_slopes, 2);
    if (p.dtemperature) expand(p.dtemperature, row_rank());
    if (p.dhead_gate) expand(p.dhead_gate, row_rank());
  }

  AttentionProblem& p_;
  int64_t batch_ = 0, heads_ = 0;
  int64_t queries_ = 0, keys_ = 0;  // of the longest sequence; −1 where the host cannot know
};

}  // namespace

AttentionForward check(AttentionForward p) {
  Checker c("attention", p);
  c.inputs();
  c.forward(p);
  c.expand_inputs();
  return p;
}

AttentionBackward check(AttentionBackward p) {
  Checker c("attention_backward", p);
  c.inputs();
  c.backward(p);
  c.expand_inputs();
  return p;
}

std::string describe(const AttentionProblem& p) {
  const auto tensor = [](const char* name, const TensorView& t) {
    return t ? std::string(", ") + name + " " + shape_text(t) + " " + dtype_name(t.dtype) : "";
  };
  const ScoreSpec& s = p.score;
  const VisitSpec& v = p.visit;
  std::string text = "query " + shape_text(p.query) + " " + dtype_name(p.query.dtype) + " on " + device_text(p.query) +
                     tensor("key", p.key) + tensor("value", p.value) + ", score " +
                     kScoreMapNames[static_cast<int>(s.map)] + ", scale " + number(s.scale);
  if (s.softcap != 0) text += ", softcap " + number(s.softcap);
  text += tensor("bias", s.bias) + tensor("alibi_slopes", s.alibi_slopes) + tensor("temperature", s.temperature) +
          tensor("sinks", s.sinks) + tensor("head_gate", s.head_gate) + tensor("score_biases", s.score_biases) +
          tensor("relative_keys", s.relative_keys) + tensor("relative_bias", s.relative_bias);
  if (s.score_bias != 0) text += ", score_bias " + number(s.score_bias);
  if (s.dropout_p != 0) text += ", dropout_p " + number(s.dropout_p);
  if (v.causal) text += ", causal";
  if (v.window_left >= 0 || v.window_right >= 0)
    text += ", window (" + std::to_string(v.window_left) + ", " + std::to_string(v.window_right) + ")";
  return text + tensor("cu_seqlens_q", v.cu_seqlens_q) + tensor("cu_seqlens_k", v.cu_seqlens_k);
}

}  // namespace saccade
