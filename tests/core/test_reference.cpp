// The reference kernel: hand-computed values, the Philox known answer, and its gradients against finite differences.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <list>
#include <string>

#include "math/philox.h"
#include "problem.h"

namespace saccade::test {
namespace {

using F = AttentionForward;
using B = AttentionBackward;

constexpr double kInf = std::numeric_limits<double>::infinity();

/// One head, scores are the products of one-channel queries and keys.
Attention one_channel(std::initializer_list<double> q, std::initializer_list<double> k,
                      std::initializer_list<double> v) {
  Attention a;
  a.query = Tensor(DType::f64, {1, 1, static_cast<int64_t>(q.size()), 1}, q);
  a.key = Tensor(DType::f64, {1, 1, static_cast<int64_t>(k.size()), 1}, k);
  a.value = Tensor(DType::f64, {1, 1, static_cast<int64_t>(v.size()), 1}, v);
  a.make_outputs();
  return a;
}

TEST(Reference, TwoKeys) {
  Attention a = one_channel({1}, {0, std::log(3.0)}, {10, 20});  // weights 1/4, 3/4
  a.run_forward(reference());
  EXPECT_DOUBLE_EQ(a.out.get(0), 17.5);
  EXPECT_DOUBLE_EQ(a.lse.get(0), std::log(4.0));
}

TEST(Reference, EveryScoreTerm) {
  Attention a = one_channel({1}, {0, 2}, {10, 20});
  a.score.scale = 0.5, a.score.softcap = 2;
  a.temperature = Tensor(DType::f64, {1}, {3});
  a.bias = Tensor(DType::f64, {1, 2}, {0.25, -0.5});
  a.alibi_slopes = Tensor(DType::f64, {1}, {0.125});
  a.sinks = Tensor(DType::f64, {1}, {0.7});
  a.head_gate = Tensor(DType::f64, {1}, {1.5});
  a.run_forward(reference());
  const double s0 = 0.25 - 0.125, s1 = 2 * std::tanh(0.5 * 3 * 2 / 2.0) - 0.5;  // the query stands at place 1
  const double sum = std::exp(s0) + std::exp(s1) + std::exp(0.7);
  EXPECT_NEAR(a.lse.get(0), std::log(sum), 1e-14);
  EXPECT_NEAR(a.out.get(0), 1.5 * (10 * std::exp(s0) + 20 * std::exp(s1)) / sum, 1e-13);
}

TEST(Reference, BottomRightAlignment) {
  // Two queries, four keys of equal score: query 0 stands at key 2.
  const struct {
    bool causal;
    int64_t left, right;
    double out[2];
  } cases[] = {
      {true, -1, -1, {6, 8}}, {false, 0, -1, {12, 14}}, {false, 1, 0, {8, 12}},  {true, 1, 5, {8, 12}},
      {false, -1, 0, {6, 8}}, {false, -1, -1, {8, 8}},  {false, 0, 0, {10, 14}}, {false, INT64_MAX, INT64_MAX, {8, 8}}};
  for (const auto& c : cases) {
    SCOPED_TRACE(std::to_string(c.causal) + " " + std::to_string(c.left) + " " + std::to_string(c.right));
    Attention a = one_channel({0, 0}, {0, 0, 0, 0}, {2, 6, 10, 14});
    a.visit.causal = c.causal, a.visit.window_left = c.left, a.visit.window_right = c.right;
    a.run_forward(reference());
    EXPECT_DOUBLE_EQ(a.out.get(0), c.out[0]);
    EXPECT_DOUBLE_EQ(a.out.get(1), c.out[1]);
  }
}

TEST(Reference, RowsThatSeeNoKey) {
  Attention a = one_channel({1, 1, 1}, {5}, {7});
  a.visit.causal = true;  // queries 0 and 1 stand before the key
  a.run_forward(reference());
  for (int i : {0, 1}) {
    EXPECT_EQ(a.out.get(i), 0);
    EXPECT_EQ(a.lse.get(i), -kInf);
  }
  EXPECT_EQ(a.out.get(2), 7);
  EXPECT_EQ(a.lse.get(2), 5);

  a.sinks = Tensor(DType::f64, {1}, {2.5});
  a.run_forward(reference());
  EXPECT_EQ(a.out.get(0), 0);
  EXPECT_EQ(a.lse.get(0), 2.5);

  Attention masked = one_channel({1, 1}, {5, 6}, {7, 8});
  masked.bias = Tensor(DType::boolean, {2, 2}, {0, 0, 1, 0});
  masked.run_forward(reference());
  EXPECT_EQ(masked.out.get(0), 0);
  EXPECT_EQ(masked.lse.get(0), -kInf);
  EXPECT_EQ(masked.out.get(1), 7);
  masked.bias = Tensor(DType::f32, {2, 2}, {-kInf, -kInf, 0, -kInf});
  masked.run_forward(reference());
  EXPECT_EQ(masked.lse.get(0), -kInf);
  EXPECT_EQ(masked.out.get(1), 7);
}

TEST(Reference, NanStaysWithWhatDependsOnIt) {
  Attention a = one_channel({1, 1, 1}, {1, 2, NAN}, {1, 2, kInf});
  a.visit.causal = true;
  a.dout = Tensor(DType::f64, {1, 1, 3, 1}, {1, 1, 0});
  a.make_gradients();
  a.run_forward(reference());
  for (int i : {0, 1}) EXPECT_TRUE(std::isfinite(a.out.get(i)) && std::isfinite(a.lse.get(i)));
  EXPECT_TRUE(std::isnan(a.out.get(2)) && std::isnan(a.lse.get(2)));
  a.run_backward(reference());
  for (int i : {0, 1}) EXPECT_TRUE(std::isfinite(a.dquery.get(i)));
  EXPECT_TRUE(std::isnan(a.dquery.get(2)));
}

TEST(Reference, DroppedValuesAndEmptyRowsGiveNothing) {
  Attention a = one_channel({1, 1}, {1, 2, 3, 4}, {kInf, kInf, kInf, kInf});
  a.dout = Tensor(DType::f64, {1, 1, 2, 1}, {1, 1});
  a.make_gradients();
  a.score.dropout_p = 0.5, a.score.seed = 2;
  const uint32_t threshold = math::dropout_threshold(0.5);
  for (uint32_t j = 0; j < 4; ++j)  // what either query keeps is finite
    if (math::dropout_keep(2, threshold, 0, 0, j) || math::dropout_keep(2, threshold, 0, 1, j)) a.value.set(j, 1);
  int dropped = 0;
  for (int j = 0; j < 4; ++j) dropped += a.value.get(j) == kInf;
  ASSERT_TRUE(dropped > 0 && dropped < 4);
  a.run_forward(reference());
  a.run_backward(reference());
  for (int i : {0, 1}) EXPECT_TRUE(std::isfinite(a.out.get(i)) && std::isfinite(a.dquery.get(i)));

  a.value.fill(1);
  a.lse.fill(-kInf);  // as float32 rounds a row of scores below -3.4e38
  a.run_backward(reference());
  for (const Tensor* t : {&a.dquery, &a.dkey, &a.dvalue})
    for (int64_t i = 0; i < t->numel(); ++i) EXPECT_EQ(t->get(i), 0);
}

TEST(Reference, ZeroSizes) {
  for (int zero = 0; zero < 4; ++zero) {
    SCOPED_TRACE(zero);
    int64_t b = 2, h = 2, nq = 3, nk = 3;
    *(std::array{&b, &h, &nq, &nk}[static_cast<size_t>(zero)]) = 0;
    std::mt19937 rng(1);
    Attention a;
    a.query = normal(DType::f32, {b, h, nq, 4}, rng), a.key = normal(DType::f32, {b, h, nk, 4}, rng);
    a.value = normal(DType::f32, {b, h, nk, 5}, rng);
    a.temperature = normal(DType::f32, {1, 1, 1}, rng);
    a.make_outputs();
    a.dout = Attention::like(a.out);
    a.make_gradients();
    for (Tensor* t : {&a.out, &a.lse, &a.dquery, &a.dkey, &a.dvalue, &a.dtemperature}) t->fill(NAN);
    a.run_forward(reference());
    a.run_backward(reference());
    for (int64_t i = 0; i < a.out.numel(); ++i) EXPECT_EQ(a.out.get(i), 0);
    for (int64_t i = 0; i < a.lse.numel(); ++i) EXPECT_EQ(a.lse.get(i), -kInf);
    for (const Tensor* t : {&a.dquery, &a.dkey, &a.dvalue, &a.dtemperature})
      for (int64_t i = 0; i < t->numel(); ++i) EXPECT_EQ(t->get(i), 0);
  }
}

/// Any combination of the options, from the bits of `options`; sizes from `seed`.
enum Option {
  kCausal = 1,
  kWindow = 2,
  kSoftcap = 4,
  kBias = 8,
  kMask = 16,
  kAlibi = 32,
  kTemperature = 64,
  kSinks = 128,
  kGate = 256,
  kDropout = 512,
  kPacked = 1024,
  kDlse = 2048,
  kOptions = 4096
};

int64_t draw(std::mt19937& rng, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(rng);
}

Tensor offsets(const std::vector<int64_t>& lengths) {
  Tensor t(DType::i32, {static_cast<int64_t>(lengths.size()) + 1});
  double sum = 0;
  for (size_t i = 0; i < lengths.size(); ++i)
    t.set(static_cast<int64_t>(i) + 1, sum += static_cast<double>(lengths[i]));
  return t;
}

Attention make(int options, uint32_t seed, DType dtype = DType::f64) {
  std::mt19937 rng(seed);
  const DType statistic = dtype == DType::f64 ? DType::f64 : DType::f32;
  const int64_t b = draw(rng, 1, 3), hk = draw(rng, 1, 2), h = hk * draw(rng, 1, 3), d = draw(rng, 1, 3),
                dv = draw(rng, 1, 3);
  const auto some = [&](int64_t size) { return draw(rng, 0, 1) ? size : 1; };
  int64_t nq = draw(rng, 1, 5), nk = draw(rng, 1, 5);
  Attention a;
  std::vector<int64_t> rows;
  if (options & kPacked) {
    std::vector<int64_t> lq, lk;
    int64_t tq = 0, tk = 0;
    nq = nk = 0;
    for (int64_t i = 0; i < b; ++i) {
      lq.push_back(draw(rng, 0, 5)), lk.push_back(draw(rng, 0, 5));
      tq += lq.back(), tk += lk.back(), nq = std::max(nq, lq.back()), nk = std::max(nk, lk.back());
    }
    a.cu_seqlens_q = offsets(lq), a.cu_seqlens_k = offsets(lk);
    a.query = normal(dtype, {tq, h, d}, rng), a.key = normal(dtype, {tk, hk, d}, rng),
    a.value = normal(dtype, {tk, hk, dv}, rng);
    rows = {some(tq), some(h)};
  } else {
    a.query = normal(dtype, {b, h, nq, d}, rng), a.key = normal(dtype, {b, hk, nk, d}, rng),
    a.value = normal(dtype, {b, hk, nk, dv}, rng);
    rows = {some(b), some(h), some(nq)};
    if (draw(rng, 0, 1)) rows.erase(rows.begin());
  }
  a.score.scale = 0.8;
  a.visit.causal = options & kCausal;
  if (options & kWindow) a.visit.window_left = draw(rng, -1, 3), a.visit.window_right = draw(rng, 0, 3);
  if (options & kSoftcap) a.score.softcap = 1.5;
  if (options & kMask) {
    a.bias = Tensor(DType::boolean, {some(b), some(h), nq, nk});
    for (int64_t i = 0; i < a.bias.numel(); ++i) a.bias.set(i, draw(rng, 0, 3) > 0);
  } else if (options & kBias) {
    a.bias = normal(dtype, {some(b), some(h), some(nq), some(nk)}, rng);
    if (draw(rng, 0, 1)) a.bias = normal(dtype, {some(nq), nk}, rng);
  }
  if (options & kAlibi) a.alibi_slopes = draw(rng, 0, 1) ? normal(statistic, {h}, rng) : normal(statistic, {b, h}, rng);
  if (options & kTemperature) a.temperature = normal(statistic, rows, rng, 1, 0.3);
  if (options & kSinks) a.sinks = normal(statistic, {h}, rng);
  if (options & kGate) a.head_gate = draw(rng, 0, 1) ? normal(statistic, {h}, rng) : normal(statistic, rows, rng);
  if (options & kDropout) a.score.dropout_p = 0.4, a.score.seed = 0x123456789abcdefu + seed;
  a.make_outputs();
  a.dout = normal(dtype, a.out.shape(), rng);
  if (options & kDlse) a.dlse = normal(statistic, a.lse.shape(), rng);
  a.make_gradients();
  return a;
}

/// Σ dout·out + Σ dlse·lse
double loss(Attention& a) {
  a.run_forward(reference());
  double sum = 0;
  for (int64_t i = 0; i < a.out.numel(); ++i) sum += a.dout.get(i) * a.out.get(i);
  if (a.dlse)
    for (int64_t i = 0; i < a.lse.numel(); ++i)
      if (a.lse.get(i) != -kInf) sum += a.dlse.get(i) * a.lse.get(i);
  return sum;
}

void expect_gradients(int options, uint32_t seed) {
  SCOPED_TRACE("options " + std::to_string(options) + ", seed " + std::to_string(seed));
  Attention a = make(options, seed);
  const struct {
    const char* name;
    Tensor &input, &gradient;
  } pairs[] = {{"query", a.query, a.dquery},
               {"key", a.key, a.dkey},
               {"value", a.value, a.dvalue},
               {"bias", a.bias, a.dbias},
               {"alibi_slopes", a.alibi_slopes, a.dalibi_slopes},
               {"temperature", a.temperature, a.dtemperature},
               {"sinks", a.sinks, a.dsinks},
               {"head_gate", a.head_gate, a.dhead_gate}};
  for (const auto& p : pairs)
    if (p.gradient) p.gradient.fill(NAN);
  loss(a);
  a.run_backward(reference());
  constexpr double kStep = 1e-5;
  for (const auto& p : pairs) {
    if (!p.gradient) continue;
    for (int64_t i = 0; i < p.input.numel(); ++i) {
      const double x = p.input.get(i);
      p.input.set(i, x + kStep);
      const double above = loss(a);
      p.input.set(i, x - kStep);
      const double below = loss(a);
      p.input.set(i, x);
      const double expected = (above - below) / (2 * kStep);
      ASSERT_NEAR(p.gradient.get(i), expected, 1e-7 * (1 + std::abs(expected))) << p.name << "[" << i << "]";
    }
  }
}

TEST(ReferenceGradients, EachOptionAlone) {
  expect_gradients(0, 1);
  for (int option = 1; option < kOptions; option *= 2)
    for (uint32_t seed = 0; seed < 12; ++seed) expect_gradients(option, seed);
}

TEST(ReferenceGradients, Combinations) {
  std::mt19937 rng(7);
  for (uint32_t seed = 0; seed < 400; ++seed) expect_gradients(static_cast<int>(draw(rng, 0, kOptions - 1)), seed);
}

TEST(Reference, PackedEqualsEachSequence) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Attention all = make(kPacked | kCausal | kAlibi | kSinks | kDlse, seed);
    all.alibi_slopes = Tensor(DType::f64, {all.query.shape()[1]}), all.dalibi_slopes = Tensor();
    all.alibi_slopes.fill(0.3);
    all.run_forward(reference());
    all.run_backward(reference());
    for (int64_t b = 0; b + 1 < all.cu_seqlens_q.numel(); ++b) {
      Attention one = all;
      const auto cut = [&](Tensor& t, const Tensor& cu) {
        std::vector<int64_t> shape = t.shape();
        int64_t row = 1;
        for (size_t i = 1; i < shape.size(); ++i) row *= shape[i];
        const int64_t begin = static_cast<int64_t>(cu.get(b));
        shape[0] = static_cast<int64_t>(cu.get(b + 1)) - begin;
        Tensor part(t.dtype(), shape);
        for (int64_t i = 0; i < part.numel(); ++i) part.set(i, t.get(begin * row + i));
        t = part;
      };
      for (Tensor* t : {&one.query, &one.out, &one.lse, &one.dout, &one.dlse, &one.dquery}) cut(*t, all.cu_seqlens_q);
      for (Tensor* t : {&one.key, &one.value, &one.dkey, &one.dvalue}) cut(*t, all.cu_seqlens_k);
      const Attention expected = one;
      one.cu_seqlens_q = offsets({one.query.shape()[0]}), one.cu_seqlens_k = offsets({one.key.shape()[0]});
      one.run_forward(reference());
      one.run_backward(reference());
      EXPECT_EQ(one.out.bytes(), expected.out.bytes());
      EXPECT_EQ(one.lse.bytes(), expected.lse.bytes());
      EXPECT_EQ(one.dquery.bytes(), expected.dquery.bytes());
      EXPECT_EQ(one.dkey.bytes(), expected.dkey.bytes());
      EXPECT_EQ(one.dvalue.bytes(), expected.dvalue.bytes());
    }
  }
}

TEST(Reference, SameBitsOnAnyNumberOfThreads) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    Attention serial = make(kOptions - 1 - kMask - (seed % 2 ? kPacked : 0), seed, seed % 3 ? DType::f32 : DType::bf16),
              pooled = serial;
    Context four = pool_context(4);
    four.kernel = reference().kernel;
    serial.run_forward(reference()), pooled.run_forward(four);
    serial.run_backward(reference()), pooled.run_backward(four);
    EXPECT_EQ(serial.out.bytes(), pooled.out.bytes());
    EXPECT_EQ(serial.lse.bytes(), pooled.lse.bytes());
    EXPECT_EQ(serial.dquery.bytes(), pooled.dquery.bytes());
    EXPECT_EQ(serial.dkey.bytes(), pooled.dkey.bytes());
    EXPECT_EQ(serial.dvalue.bytes(), pooled.dvalue.bytes());
    EXPECT_EQ(serial.dbias.bytes(), pooled.dbias.bytes());
    EXPECT_EQ(serial.dtemperature.bytes(), pooled.dtemperature.bytes());
    EXPECT_EQ(serial.dsinks.bytes(), pooled.dsinks.bytes());
  }
}

/// `t` in memory with axes reversed, gaps, and (inputs) the last axis backwards.
struct Scattered {
  Scattered(const TensorView& t, bool backwards) : view(t) {
    int64_t step = 3;
    for (int i = 0; i < t.rank; ++i) {
      view.stride[i] = step;
      step = step * t.shape[i] + 5;
    }
    memory.assign(static_cast<size_t>(step), -77);
    view.data = memory.data();
    if (backwards) {
      const int last = t.rank - 1;
      view.data = memory.data() + view.stride[last] * (t.shape[last] - 1);
      view.stride[last] *= -1;
    }
  }
  double& at(int64_t e) {
    int64_t offset = 0;
    for (int i = view.rank - 1; i >= 0; e /= view.shape[i--]) offset += e % view.shape[i] * view.stride[i];
    return static_cast<double*>(view.data)[offset];
  }
  TensorView view;
  std::vector<double> memory;
};

TEST(Reference, AnyStrides) {
  for (int options : {kOptions - 1 - kMask, kOptions - 1 - kMask - kPacked})
    for (uint32_t seed = 0; seed < 10; ++seed) {
      SCOPED_TRACE(seed);
      Attention a = make(options, seed);
      a.run_forward(reference());
      a.run_backward(reference());
      B p = a.backward();
      TensorView* const inputs[] = {&p.query,
                                    &p.key,
                                    &p.value,
                                    &p.out,
                                    &p.dout,
                                    &p.lse,
                                    &p.dlse,
                                    &p.score.bias,
                                    &p.score.alibi_slopes,
                                    &p.score.temperature,
                                    &p.score.sinks,
                                    &p.score.head_gate};
      TensorView* const outputs[] = {&p.dquery,        &p.dkey,         &p.dvalue, &p.dbias,
                                     &p.dalibi_slopes, &p.dtemperature, &p.dsinks, &p.dhead_gate};
      std::list<Scattered> alive;
      std::vector<std::pair<Scattered*, TensorView>> compare;
      for (TensorView* t : inputs) {
        Scattered& s = alive.emplace_back(*t, true);
        for (int64_t e = 0; e < t->numel(); ++e) s.at(e) = static_cast<const double*>(t->data)[e];
        *t = s.view;
      }
      for (TensorView* t : outputs) {
        compare.emplace_back(&alive.emplace_back(*t, false), *t);
        *t = compare.back().first->view;
      }
      F f;
      static_cast<AttentionProblem&>(f) = p;
      compare.emplace_back(&alive.emplace_back(a.out.view(), false), a.out.view());
      f.out = compare.back().first->view;
      compare.emplace_back(&alive.emplace_back(a.lse.view(), false), a.lse.view());
      f.lse = compare.back().first->view;
      Workspace w(std::max(workspace_bytes(f, reference()), workspace_bytes(p, reference())));
      attention_forward(f, reference(), w.data());
      attention_backward(p, reference(), w.data());
      for (auto& [scattered, expected] : compare)
        for (int64_t e = 0; e < expected.numel(); ++e)
          ASSERT_EQ(scattered->at(e), static_cast<const double*>(expected.data)[e]);
    }
}

/// A low-precision call is the fp64 call on the rounded inputs, rounded once.
TEST(Reference, LowPrecisionRoundsOnlyItsOutputs) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(dtype_name(dtype));
    Attention low = make(kCausal | kBias, 3, dtype), high = low;
    for (Tensor* t : {&high.query, &high.key, &high.value, &high.bias, &high.dout}) {
      Tensor wide(DType::f64, t->shape());
      for (int64_t i = 0; i < wide.numel(); ++i) wide.set(i, t->get(i));
      *t = wide;
    }
    high.make_outputs();
    high.make_gradients();
    low.run_forward(reference()), high.run_forward(reference());
    for (int64_t i = 0; i < low.out.numel(); ++i) {
      Tensor rounded(dtype, {1}, {high.out.get(i)});
      EXPECT_EQ(low.out.get(i), rounded.get(0));
    }
    for (int64_t i = 0; i < low.lse.numel(); ++i) EXPECT_EQ(low.lse.get(i), static_cast<float>(high.lse.get(i)));
  }
}

TEST(Reference, PhiloxKnownAnswer) {  // of the Random123 distribution, kat_vectors
  uint32_t zero[4] = {0, 0, 0, 0};
  math::philox(zero, 0, 0);
  EXPECT_EQ(zero[0], 0x6627e8d5u);
  EXPECT_EQ(zero[1], 0xe169c58du);
  EXPECT_EQ(zero[2], 0xbc57ac4cu);
  EXPECT_EQ(zero[3], 0x9b00dbd8u);
  uint32_t pi[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
  math::philox(pi, 0xa4093822, 0x299f31d0);
  EXPECT_EQ(pi[0], 0xd16cfe09u);
  EXPECT_EQ(pi[3], 0x24126ea1u);
}

}  // namespace
}  // namespace saccade::test
