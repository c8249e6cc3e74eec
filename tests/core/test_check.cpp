// Every rule of ops/check.cpp, each broken once: the whole message is asserted.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

#include "ops/check.h"
#include "problem.h"
#include "saccade/error.h"

namespace saccade::test {
namespace {

constexpr int64_t kHuge = int64_t{1} << 62;

Attention operands(DType dtype, std::vector<int64_t> q, std::vector<int64_t> k, std::vector<int64_t> v) {
  Attention a;
  a.query = Tensor(dtype, q), a.key = Tensor(dtype, k), a.value = Tensor(dtype, v);
  a.make_outputs();
  return a;
}

/// Every optional tensor is there.
Attention dense(DType dtype = DType::f32) {
  Attention a = operands(dtype, {2, 4, 7, 32}, {2, 2, 5, 32}, {2, 2, 5, 16});
  const DType statistic = dtype == DType::f64 ? DType::f64 : DType::f32;
  a.bias = Tensor(dtype, {4, 1, 5}), a.alibi_slopes = Tensor(statistic, {4}), a.temperature = Tensor(statistic, {4, 7});
  a.sinks = Tensor(statistic, {4}), a.head_gate = Tensor(statistic, {4});
  a.relative_keys = Tensor(dtype, {4, 5, 32}), a.relative_bias = Tensor(statistic, {1, 5});
  a.dout = Attention::like(a.out), a.dlse = Attention::like(a.lse);
  a.make_gradients();
  return a;
}

/// Sequences of 2, 0 and 5 queries, and of 3, 1 and 0 keys.
Attention packed() {
  Attention a = operands(DType::f32, {7, 4, 32}, {4, 2, 32}, {4, 2, 16});
  a.cu_seqlens_q = Tensor(DType::i32, {4}, {0, 2, 2, 7}), a.cu_seqlens_k = Tensor(DType::i32, {4}, {0, 3, 4, 4});
  a.bias = Tensor(DType::boolean, {3, 1, 5, 3}), a.alibi_slopes = Tensor(DType::f32, {3, 4});
  a.temperature = Tensor(DType::f32, {7, 1}), a.sinks = Tensor(DType::f32, {4}), a.head_gate = Tensor(DType::f32, {4});
  a.dout = Attention::like(a.out), a.dlse = Attention::like(a.lse);
  a.make_gradients();
  return a;
}

template <class Problem>
std::string message(const Problem& p) {
  try {
    check(p);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

template <class Problem>
struct Bad {
  std::function<void(Problem&)> edit;
  const char* text;  // after "op: "
};

void expect(const Attention& base, const std::vector<Bad<AttentionForward>>& table) {
  for (const auto& bad : table) {
    AttentionForward p = base.forward();
    bad.edit(p);
    EXPECT_EQ(message(p), std::string("attention: ") + bad.text);
  }
}

void expect(const Attention& base, const std::vector<Bad<AttentionBackward>>& table) {
  for (const auto& bad : table) {
    AttentionBackward p = base.backward();
    bad.edit(p);
    EXPECT_EQ(message(p), std::string("attention_backward: ") + bad.text);
  }
}

using F = AttentionForward;
using B = AttentionBackward;

TEST(Check, AcceptsWhatItShould) {
  for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    EXPECT_EQ(message(dense(t).forward()), "");
    EXPECT_EQ(message(dense(t).backward()), "");
  }
  EXPECT_EQ(message(packed().forward()), "");
  EXPECT_EQ(message(packed().backward()), "");
  EXPECT_EQ(message(operands(DType::f32, {0, 4, 7, 1}, {0, 4, 7, 1}, {0, 4, 7, 1}).forward()), "");
  EXPECT_EQ(message(operands(DType::f32, {2, 0, 7, 8}, {2, 3, 7, 8}, {2, 3, 7, 8}).forward()), "");
  EXPECT_EQ(message(operands(DType::f32, {2, 4, 0, 8}, {2, 4, 0, 8}, {2, 4, 0, 8}).forward()), "");

  B p = dense().backward();
  p.dlse = p.dbias = p.dalibi_slopes = p.dtemperature = p.dsinks = p.dhead_gate = TensorView{};
  EXPECT_EQ(message(p), "");
  p.query.stride[0] = p.query.stride[3] = 0;  // an expanded input
  p.key.stride[2] = -p.key.stride[2];
  std::swap(p.out.stride[1], p.out.stride[2]);  // (B, N, H, D) memory of sizes that leave no overlap
  p.out.stride[1] = 16, p.out.stride[2] = 64, p.out.stride[0] = 7 * 64;
  EXPECT_EQ(message(p), "");
}

TEST(Check, ExpandsBroadcastOperands) {
  const auto axes = [](const TensorView& t) {
    std::vector<int64_t> x(t.shape, t.shape + t.rank);
    x.insert(x.end(), t.stride, t.stride + t.rank);
    return x;
  };
  using V = std::vector<int64_t>;
  const B d = check(dense().backward());
  for (const TensorView& t : {d.score.bias, d.dbias}) EXPECT_EQ(axes(t), (V{1, 4, 1, 5, 0, 5, 0, 1}));
  for (const TensorView& t : {d.score.alibi_slopes, d.dalibi_slopes}) EXPECT_EQ(axes(t), (V{1, 4, 0, 1}));
  for (const TensorView& t : {d.score.temperature, d.dtemperature}) EXPECT_EQ(axes(t), (V{1, 4, 7, 0, 7, 1}));
  for (const TensorView& t : {d.score.head_gate, d.dhead_gate}) EXPECT_EQ(axes(t), (V{1, 4, 1, 0, 1, 0}));
  EXPECT_EQ(axes(d.score.relative_keys), (V{4, 5, 32, 160, 32, 1}));
  EXPECT_EQ(axes(d.score.relative_bias), (V{1, 5, 0, 1}));
  const B k = check(packed().backward());
  for (const TensorView& t : {k.score.alibi_slopes, k.dalibi_slopes}) EXPECT_EQ(axes(t), (V{3, 4, 4, 1}));
  for (const TensorView& t : {k.score.temperature, k.dtemperature}) EXPECT_EQ(axes(t), (V{7, 1, 1, 0}));
  for (const TensorView& t : {k.score.head_gate, k.dhead_gate}) EXPECT_EQ(axes(t), (V{1, 4, 0, 1}));
}

TEST(Check, Operands) {
  const auto reshape = [](TensorView& t, std::vector<int64_t> shape) {
    t = contiguous_view(t.data, t.dtype, static_cast<int>(shape.size()), shape.data());
  };
  expect(dense(),
         {
             {[](F& p) { p.query = TensorView{}; }, "query: got no tensor, wanted one; pass a TensorView with a dtype"},
             {[](F& p) { p.key = TensorView{}; }, "key: got no tensor, wanted one; pass a TensorView with a dtype"},
             {[](F& p) { p.query.dtype = DType::i32; },
              "query: got dtype int32, wanted float32, bfloat16, float16 or float64; cast query, key and value"},
             {[](F& p) { p.query.dtype = static_cast<DType>(77); },
              "query: got dtype number 77, wanted one of DType's; set TensorView::dtype"},
             {[](F& p) { p.query.rank = 9; }, "query: got rank 9, wanted 0 to 6; set TensorView::rank"},
             {[](F& p) { p.key.rank = -1; }, "key: got rank -1, wanted 0 to 6; set TensorView::rank"},
             {[](F& p) { p.key.dtype = DType::bf16; },
              "key: got dtype bfloat16, wanted float32 like query; cast it to float32"},
             {[](F& p) { p.value.dtype = DType::f64; },
              "value: got dtype float64, wanted float32 like query; cast it to float32"},
             {[](F& p) { p.key.device = DeviceType::cuda; },
              "key: got device cuda:0, wanted the query's cpu; move it there"},
             {[](F& p) { p.value.data = nullptr; },
              "value: got a null pointer for shape (2, 2, 5, 16), wanted the address of its first element; set "
              "TensorView::data"},
             {[](F& p) { p.key.shape[2] = -5; }, "key: got shape (2, 2, -5, 32), wanted sizes >= 0; fix the shape"},
             {[](F& p) { p.query.shape[0] = kHuge; },
              "query: got shape (4611686018427387904, 4, 7, 32) and strides (896, 224, 32, 1), wanted fewer than 2^63 "
              "bytes; split the problem"},
             {[](F& p) { p.query.stride[1] = kHuge; },
              "query: got shape (2, 4, 7, 32) and strides (896, 4611686018427387904, 32, 1), wanted fewer than 2^63 "
              "bytes; split the problem"},
             {[](F& p) { p.query.stride[1] = INT64_MIN; },
              "query: got shape (2, 4, 7, 32) and strides (896, -9223372036854775808, 32, 1), wanted fewer than 2^63 "
              "bytes; split the problem"},
             {[&](F& p) { reshape(p.query, {7, 32}); },
              "query: got shape (7, 32), wanted (B, Hq, Nq, D), or packed (Tq, Hq, D) with cu_seqlens; reshape query, "
              "key and value"},
             {[&](F& p) { reshape(p.query, {2, 4, 7, 0}); },
              "query: got shape (2, 4, 7, 0), wanted a head dim D >= 1; give every head at least one channel"},
             {[&](F& p) { reshape(p.key, {2, 3, 5, 64}); },
              "key: got shape (2, 3, 5, 64), wanted (2, Hk, Nk, 32) to match query (2, 4, 7, 32); give query, key and "
              "value the same batch and layout, and query and key the same head dim"},
             {[&](F& p) { reshape(p.key, {3, 2, 5, 32}); },
              "key: got shape (3, 2, 5, 32), wanted (2, Hk, Nk, 32) to match query (2, 4, 7, 32); give query, key and "
              "value the same batch and layout, and query and key the same head dim"},
             {[&](F& p) { reshape(p.key, {5, 2, 32}); },
              "key: got shape (5, 2, 32), wanted (2, Hk, Nk, 32) to match query (2, 4, 7, 32); give query, key and "
              "value the same batch and layout, and query and key the same head dim"},
             {[&](F& p) { reshape(p.value, {2, 2, 6, 16}); },
              "value: got shape (2, 2, 6, 16), wanted (2, 2, 5, Dv) to match key (2, 2, 5, 32); value has the key's "
              "batch, heads and tokens"},
             {[&](F& p) { reshape(p.value, {2, 4, 5, 16}); },
              "value: got shape (2, 4, 5, 16), wanted (2, 2, 5, Dv) to match key (2, 2, 5, 32); value has the key's "
              "batch, heads and tokens"},
             {[&](F& p) { reshape(p.value, {2, 2, 5, 0}); },
              "value: got shape (2, 2, 5, 0), wanted a head dim Dv >= 1; give every head at least one channel"},
             {[&](F& p) { reshape(p.key, {2, 3, 5, 32}), reshape(p.value, {2, 3, 5, 16}); },
              "query: got 4 heads, wanted a multiple of the key's 3 heads; every key head serves Hq / Hk query heads"},
             {[&](F& p) { reshape(p.key, {2, 0, 5, 32}), reshape(p.value, {2, 0, 5, 16}); },
              "query: got 4 heads, wanted a multiple of the key's 0 heads; every key head serves Hq / Hk query heads"},
         });
}

TEST(Check, Visits) {
  expect(
      dense(),
      {
          {[](F& p) { p.visit.window_left = -2; },
           "window: got (-2, -1), wanted sides >= -1; count the keys seen before and after the query; -1 is unbounded"},
          {[](F& p) { p.visit.window_right = -7; },
           "window: got (-1, -7), wanted sides >= -1; count the keys seen before and after the query; -1 is unbounded"},
          {[](F& p) { p.visit.cu_seqlens_q = p.score.sinks; },
           "cu_seqlens_q: got a tensor with dense query (2, 4, 7, 32), wanted none; pass packed (T, H, D) operands, or "
           "drop both cu_seqlens"},
          {[](F& p) { p.visit.cu_seqlens_k = p.score.sinks; },
           "cu_seqlens_k: got a tensor with dense query (2, 4, 7, 32), wanted none; pass packed (T, H, D) operands, or "
           "drop both cu_seqlens"},
      });
  expect(packed(),
         {
             {[](F& p) { p.visit.cu_seqlens_q = TensorView{}; },
              "cu_seqlens_q: got no tensor with packed query (7, 4, 32), wanted int32 (B+1,); pass both cu_seqlens, or "
              "a dense (B, H, N, D)"},
             {[](F& p) { p.visit.cu_seqlens_k = TensorView{}; },
              "cu_seqlens_k: got no tensor with packed query (7, 4, 32), wanted int32 (B+1,); pass both cu_seqlens, or "
              "a dense (B, H, N, D)"},
             {[](F& p) { p.visit.cu_seqlens_q.dtype = DType::f32; },
              "cu_seqlens_q: got dtype float32, wanted int32 for offsets; cast it to int32"},
             {[](F& p) { p.visit.cu_seqlens_k.rank = 0; },
              "cu_seqlens_k: got shape (), wanted (B+1,); pass the B+1 offsets of B sequences"},
             {[](F& p) { p.visit.cu_seqlens_k.shape[0] = 0; },
              "cu_seqlens_k: got shape (0,), wanted (B+1,); pass the B+1 offsets of B sequences, [0] for none"},
             {[](F& p) { p.visit.cu_seqlens_k.shape[0] = 3; },
              "cu_seqlens_k: got shape (3,), wanted (4,) to match cu_seqlens_q (4,); both count the same sequences"},
             {[](F& p) { p.visit.cu_seqlens_q.data = nullptr; },
              "cu_seqlens_q: got a null pointer for shape (4,), wanted the address of its first element; set "
              "TensorView::data"},
             {[](F& p) { p.key.rank = 4; },
              "key: got shape (4, 2, 32, 0), wanted (Tk, Hk, 32) to match query (7, 4, 32); give query, key and value "
              "the same batch and layout, and query and key the same head dim"},
             {[](F& p) { p.value.shape[0] = 3; },
              "value: got shape (3, 2, 16), wanted (4, 2, Dv) to match key (4, 2, 32); value has the key's tokens and "
              "heads"},
         });
}

TEST(Check, CuSeqlens) {
  const struct {
    std::vector<double> values;
    const char* text;
  } table[] = {
      {{1, 2, 2, 7}, "cu_seqlens_q: got 1 as first entry, wanted 0; start at token 0"},
      {{0, 5, 4, 7}, "cu_seqlens_q: got 4 after 5 at entry 2, wanted ascending entries; pass cumulative lengths"},
      {{0, -1, 4, 7}, "cu_seqlens_q: got -1 after 0 at entry 1, wanted ascending entries; pass cumulative lengths"},
      {{0, 2, 2, 6}, "cu_seqlens_q: got 6 as last entry, wanted 7, the tokens of query; cover every token"},
      {{0, 2, 2, 8}, "cu_seqlens_q: got 8 as last entry, wanted 7, the tokens of query; cover every token"}};
  for (const auto& bad : table) {
    Attention a = packed();
    for (size_t i = 0; i < 4; ++i) a.cu_seqlens_q.set(static_cast<int64_t>(i), bad.values[i]);
    EXPECT_EQ(message(a.forward()), std::string("attention: ") + bad.text);
  }
  Attention a = packed();
  a.cu_seqlens_q = Tensor(DType::i32, {7}, {0, 9, 2, 9, 2, 9, 7});
  F p = a.forward();
  p.visit.cu_seqlens_q.shape[0] = 4, p.visit.cu_seqlens_q.stride[0] = 2;
  EXPECT_EQ(message(p), "");
}

TEST(Check, Options) {
  expect(
      dense(),
      {
          {[](F& p) { p.score.map = static_cast<ScoreMap>(9); },
           "map: got 9, wanted one of ScoreMap's; choose a score map of this build"},
          {[](F& p) { p.score.scale = NAN; }, "scale: got nan, wanted a finite number; the usual scale is 1/sqrt(D)"},
          {[](F& p) { p.score.scale = -INFINITY; },
           "scale: got -inf, wanted a finite number; the usual scale is 1/sqrt(D)"},
          {[](F& p) { p.score.softcap = -1; }, "softcap: got -1, wanted a finite number >= 0; 0 means no cap"},
          {[](F& p) { p.score.softcap = INFINITY; }, "softcap: got inf, wanted a finite number >= 0; 0 means no cap"},
          {[](F& p) { p.score.dropout_p = 1; }, "dropout_p: got 1, wanted 0 <= dropout_p < 1; 0 means no dropout"},
          {[](F& p) { p.score.dropout_p = -0.1; },
           "dropout_p: got -0.1, wanted 0 <= dropout_p < 1; 0 means no dropout"},
          {[](F& p) { p.score.dropout_p = NAN; }, "dropout_p: got nan, wanted 0 <= dropout_p < 1; 0 means no dropout"},
          {[](F& p) { p.score.bias.dtype = DType::i32; },
           "bias: got dtype int32, wanted float32 or bool; cast it; true in a bool bias means visible"},
          {[](F& p) { p.score.bias.dtype = DType::bf16; },
           "bias: got dtype bfloat16, wanted float32 or bool; cast it; true in a bool bias means visible"},
          {[](F& p) { p.score.bias.shape[0] = 2; },
           "bias: got shape (2, 1, 5), wanted one that broadcasts to (2, 4, 7, 5) to match query (2, 4, 7, 32) and key "
           "(2, 2, 5, 32); give every axis its size or 1"},
          {[](F& p) { p.score.bias.rank = 5; },
           "bias: got shape (4, 1, 5, 0, 0), wanted one that broadcasts to (2, 4, 7, 5) to match query (2, 4, 7, 32) "
           "and key (2, 2, 5, 32); give every axis its size or 1"},
          {[](F& p) { p.score.bias.data = nullptr; },
           "bias: got a null pointer for shape (4, 1, 5), wanted the address of its first element; set "
           "TensorView::data"},
          {[](F& p) { p.score.alibi_slopes.shape[0] = 2; },
           "alibi_slopes: got shape (2,), wanted (4,) to match query (2, 4, 7, 32); pass a slope per head, (Hq,), or "
           "per batch and head, (B, Hq)"},
          {[](F& p) { p.score.alibi_slopes.rank = 2; },
           "alibi_slopes: got shape (4, 0), wanted (2, 4) to match query (2, 4, 7, 32); pass a slope per head, (Hq,), "
           "or per batch and head"},
          {[](F& p) { p.score.alibi_slopes.rank = 3; },
           "alibi_slopes: got shape (4, 0, 0), wanted (4,) to match query (2, 4, 7, 32); pass a slope per head, (Hq,), "
           "or per batch and head, (B, Hq)"},
          {[](F& p) { p.score.alibi_slopes.dtype = DType::f64; },
           "alibi_slopes: got dtype float64, wanted float32 for a parameter; cast it to float32"},
          {[](F& p) { p.score.sinks.shape[0] = 5; },
           "sinks: got shape (5,), wanted (4,) to match query (2, 4, 7, 32); pass a logit per query head"},
          {[](F& p) { p.score.sinks.dtype = DType::bf16; },
           "sinks: got dtype bfloat16, wanted float32 for a parameter; cast it to float32"},
          {[](F& p) { p.score.temperature.shape[1] = 5; },
           "temperature: got shape (4, 5), wanted one that broadcasts to (2, 4, 7) to match query (2, 4, 7, 32); give "
           "every axis its size or 1"},
          {[](F& p) { p.score.temperature.dtype = DType::f16; },
           "temperature: got dtype float16, wanted float32 for a parameter; cast it to float32"},
          {[](F& p) { p.score.temperature.device = DeviceType::cuda, p.score.temperature.device_index = 1; },
           "temperature: got device cuda:1, wanted the query's cpu; move it there"},
          {[](F& p) { p.score.head_gate.shape[0] = 7; },
           "head_gate: got shape (7,), wanted (4,) to match query (2, 4, 7, 32); pass a gate per head, or one that "
           "broadcasts to lse"},
          {[](F& p) { p.score.head_gate.rank = 2, p.score.head_gate.shape[1] = 3; },
           "head_gate: got shape (4, 3), wanted one that broadcasts to (2, 4, 7) to match query (2, 4, 7, 32); give "
           "every axis its size or 1"},
          {[](F& p) { p.score.relative_keys.shape[1] = 4; },
           "relative_keys: got shape (4, 4, 32), wanted (4 or 1, 2P+1, 32) to match query (2, 4, 7, 32); distances -P "
           "to P, an odd number of rows, for every query head or one for all"},
          {[](F& p) { p.score.relative_keys.shape[0] = 2; },
           "relative_keys: got shape (2, 5, 32), wanted (4 or 1, 2P+1, 32) to match query (2, 4, 7, 32); distances -P "
           "to P, an odd number of rows, for every query head or one for all"},
          {[](F& p) { p.score.relative_keys.dtype = DType::bf16; },
           "relative_keys: got dtype bfloat16, wanted float32 like query; cast it to float32"},
          {[](F& p) { p.score.relative_bias.rank = 1; },
           "relative_bias: got shape (1,), wanted (4 or 1, 2P+1) to match query (2, 4, 7, 32); distances -P to P, an "
           "odd number of rows, for every query head or one for all"},
          {[](F& p) { p.score.relative_bias.dtype = DType::f16; },
           "relative_bias: got dtype float16, wanted float32 for a parameter; cast it to float32"},
          {[](F& p) { p.score.relative_bias.shape[1] = 3; },
           "relative_bias: got 3 distances, wanted 5 to match relative_keys (4, 5, 32); give both tables the same "
           "distances"},
      });
  expect(packed(), {
                       {[](F& p) { p.score.bias.shape[3] = 4; },
                        "bias: got shape (3, 1, 5, 4), wanted one that broadcasts to (3, 4, 5, 3) to match query (7, "
                        "4, 32) and key (4, 2, 32); give every axis its size or 1"},
                       {[](F& p) { p.score.bias.shape[0] = 2; },
                        "bias: got shape (2, 1, 5, 3), wanted one that broadcasts to (3, 4, 5, 3) to match query (7, "
                        "4, 32) and key (4, 2, 32); give every axis its size or 1"},
                       {[](F& p) { p.score.alibi_slopes.shape[0] = 2; },
                        "alibi_slopes: got shape (2, 4), wanted (3, 4) to match query (7, 4, 32); pass a slope per "
                        "head, (Hq,), or per batch and head"},
                       {[](F& p) { p.score.temperature.shape[0] = 5; },
                        "temperature: got shape (5, 1), wanted one that broadcasts to (7, 4) to match query (7, 4, "
                        "32); give every axis its size or 1"},
                       {[](F& p) { p.score.head_gate.shape[0] = 7; },
                        "head_gate: got shape (7,), wanted (4,) to match query (7, 4, 32); pass a gate per head, or "
                        "one that broadcasts to lse"},
                   });
}

TEST(Check, Outputs) {
  expect(dense(),
         std::vector<Bad<F>>{
             {[](F& p) { p.out = TensorView{}; }, "out: got no tensor, wanted one; pass a TensorView with a dtype"},
             {[](F& p) { p.lse = TensorView{}; }, "lse: got no tensor, wanted one; pass a TensorView with a dtype"},
             {[](F& p) { p.out.dtype = DType::bf16; },
              "out: got dtype bfloat16, wanted float32 like query; cast it to float32"},
             {[](F& p) { p.lse.dtype = DType::f64; },
              "lse: got dtype float64, wanted float32 for statistics; cast it to float32"},
             {[](F& p) { p.out.shape[3] = 32; },
              "out: got shape (2, 4, 7, 32), wanted (2, 4, 7, 16) to match query (2, 4, 7, 32) and value (2, 2, 5, "
              "16); out has the query's shape with the value's head dim"},
             {[](F& p) { p.lse.shape[2] = 5; },
              "lse: got shape (2, 4, 5), wanted (2, 4, 7) to match query (2, 4, 7, 32); lse has the query's shape "
              "without head dim"},
             {[](F& p) { p.lse.rank = 2; },
              "lse: got shape (2, 4), wanted (2, 4, 7) to match query (2, 4, 7, 32); lse has the query's shape without "
              "head dim"},
             {[](F& p) { p.out.stride[2] = 0; },
              "out: got strides (448, 112, 0, 1) for shape (2, 4, 7, 16), wanted positive strides under which no two "
              "elements share memory; pass a tensor that is not expanded"},
             {[](F& p) { p.out.stride[3] = -1; },
              "out: got strides (448, 112, 16, -1) for shape (2, 4, 7, 16), wanted positive strides under which no two "
              "elements share memory; pass a tensor that is not expanded"},
             {[](F& p) { p.out.stride[2] = 15; },
              "out: got strides (448, 112, 15, 1) for shape (2, 4, 7, 16), wanted positive strides under which no two "
              "elements share memory; pass a tensor that is not expanded"},
             {[](F& p) { p.lse.stride[1] = 0; },
              "lse: got strides (28, 0, 1) for shape (2, 4, 7), wanted positive strides under which no two elements "
              "share memory; pass a tensor that is not expanded"},
             {[](F& p) { p.out.data = nullptr; },
              "out: got a null pointer for shape (2, 4, 7, 16), wanted the address of its first element; set "
              "TensorView::data"},
         });
  expect(
      dense(),
      std::vector<Bad<B>>{
          {[](B& p) { p.dout = TensorView{}; }, "dout: got no tensor, wanted one; pass a TensorView with a dtype"},
          {[](B& p) { p.dout.shape[2] = 8; },
           "dout: got shape (2, 4, 8, 16), wanted (2, 4, 7, 16) to match out (2, 4, 7, 16); give it the shape of out"},
          {[](B& p) { p.dout.dtype = DType::bf16; },
           "dout: got dtype bfloat16, wanted float32 like out; cast it to float32"},
          {[](B& p) { p.dlse.rank = 2; },
           "dlse: got shape (2, 4), wanted (2, 4, 7) to match lse (2, 4, 7); give it the shape of lse"},
          {[](B& p) { p.dquery = TensorView{}; }, "dquery: got no tensor, wanted one; pass a TensorView with a dtype"},
          {[](B& p) { p.dkey.stride[2] = 0; },
           "dkey: got strides (320, 160, 0, 1) for shape (2, 2, 5, 32), wanted positive strides under which no two "
           "elements share memory; pass a tensor that is not expanded"},
          {[](B& p) { p.dvalue.dtype = DType::bf16; },
           "dvalue: got dtype bfloat16, wanted float32 like value; cast it to float32"},
          {[](B& p) { p.dvalue.shape[0] = 1; },
           "dvalue: got shape (1, 2, 5, 16), wanted (2, 2, 5, 16) to match value (2, 2, 5, 16); give it the shape of "
           "value"},
          {[](B& p) { p.score.bias.dtype = DType::boolean; },
           "dbias: got a tensor with a bool bias, wanted none; drop it: a mask has no gradient"},
          {[](B& p) { p.score.bias = TensorView{}; },
           "dbias: got a tensor without bias, wanted none; drop it, or pass bias"},
          {[](B& p) { p.dbias.rank = 2; },
           "dbias: got shape (4, 1), wanted (4, 1, 5) to match bias (4, 1, 5); give it the shape of bias"},
          {[](B& p) { p.score.alibi_slopes = TensorView{}; },
           "dalibi_slopes: got a tensor without alibi_slopes, wanted none; drop it, or pass alibi_slopes"},
          {[](B& p) { p.score.temperature = TensorView{}; },
           "dtemperature: got a tensor without temperature, wanted none; drop it, or pass temperature"},
          {[](B& p) { p.score.sinks = TensorView{}; },
           "dsinks: got a tensor without sinks, wanted none; drop it, or pass sinks"},
          {[](B& p) { p.score.head_gate = TensorView{}; },
           "dhead_gate: got a tensor without head_gate, wanted none; drop it, or pass head_gate"},
          {[](B& p) { p.score.relative_keys = TensorView{}; },
           "drelative_keys: got a tensor without relative_keys, wanted none; drop it, or pass relative_keys"},
          {[](B& p) { p.drelative_bias.shape[0] = 4; },
           "drelative_bias: got shape (4, 5), wanted (1, 5) to match relative_bias (1, 5); give it the shape of "
           "relative_bias"},
          {[](B& p) { p.dhead_gate.stride[0] = 0; },
           "dhead_gate: got strides (0,) for shape (4,), wanted positive strides under which no two elements share "
           "memory; pass a tensor that is not expanded"},
      });
}

}  // namespace
}  // namespace saccade::test
