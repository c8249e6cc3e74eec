// The kernel chosen under SACCADE_CPU_ISA against the reference, on buffers of exactly the stated size (for the address
// sanitizer) and on several threads (for the thread sanitizer).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>

#include "problem.h"

namespace saccade::test {
namespace {

struct Sizes {
  int64_t batch, query_heads, heads, queries, keys, head_dim, value_dim;
};

Attention dense(DType dtype, Sizes n, std::mt19937& rng) {
  Attention a;
  a.query = normal(dtype, {n.batch, n.query_heads, n.queries, n.head_dim}, rng);
  a.key = normal(dtype, {n.batch, n.heads, n.keys, n.head_dim}, rng);
  a.value = normal(dtype, {n.batch, n.heads, n.keys, n.value_dim}, rng);
  a.score.scale = 1 / std::sqrt(static_cast<double>(n.head_dim));
  a.make_outputs();
  return a;
}

using Buffer = std::unique_ptr<void, decltype(&std::free)>;
Buffer exact(int64_t bytes) {
  void* data = nullptr;
  if (bytes > 0 && posix_memalign(&data, 64, static_cast<size_t>(bytes)) != 0) std::abort();
  return {data, &std::free};
}

void run_forward(const Attention& a, const Context& context) {
  const AttentionForward p = a.forward();
  attention_forward(p, context, exact(workspace_bytes(p, context)).get());
}
void run_backward(const Attention& a, const Context& context) {
  const AttentionBackward p = a.backward();
  attention_backward(p, context, exact(workspace_bytes(p, context)).get());
}

template <class Problem>
std::string chosen(const Problem& problem) {
  for (const Candidate& c : explain(problem, Context{}))
    if (c.chosen) return c.name;
  return "none";
}

void expect_near(const Tensor& got, const Tensor& wanted, double tolerance, const char* name) {
  double largest = 0;
  for (int64_t i = 0; i < wanted.numel(); ++i)
    if (std::isfinite(wanted.get(i))) largest = std::max(largest, std::abs(wanted.get(i)));
  for (int64_t i = 0; i < wanted.numel(); ++i) {
    const double g = got.get(i), w = wanted.get(i);
    ASSERT_TRUE(g == w || std::abs(g - w) <= tolerance * (1 + largest)) << name << "[" << i << "]: " << g << ", " << w;
  }
}

std::vector<std::pair<const char*, Tensor Attention::*>> gradients() {
  return {{"dquery", &Attention::dquery},
          {"dkey", &Attention::dkey},
          {"dvalue", &Attention::dvalue},
          {"dbias", &Attention::dbias},
          {"dalibi_slopes", &Attention::dalibi_slopes},
          {"dtemperature", &Attention::dtemperature},
          {"dsinks", &Attention::dsinks},
          {"dhead_gate", &Attention::dhead_gate},
          {"drelative_keys", &Attention::drelative_keys},
          {"drelative_bias", &Attention::drelative_bias}};
}

void expect_same_as_reference(Attention a, std::mt19937& rng) {
  const std::string tiled = "cpu." + cpu_isa() + ".attention";
  const double tolerance = a.query.dtype() == DType::f32 ? 2e-5 : a.query.dtype() == DType::f16 ? 4e-3 : 3e-2;
  a.out.fill(std::numeric_limits<double>::quiet_NaN()), a.lse.fill(std::numeric_limits<double>::quiet_NaN());
  Attention wanted = a, serial = a;
  const Context pool = pool_context(3);
  ASSERT_EQ(chosen(a.forward()), tiled);
  run_forward(wanted, reference()), run_forward(a, pool), run_forward(serial, Context{});
  expect_near(a.out, wanted.out, tolerance, "out");
  expect_near(a.lse, wanted.lse, 2e-5, "lse");
  EXPECT_EQ(a.out.bytes(), serial.out.bytes()) << "depends on the threads";
  EXPECT_EQ(a.lse.bytes(), serial.lse.bytes()) << "depends on the threads";

  wanted.dout = normal(a.query.dtype(), wanted.out.shape(), rng);
  wanted.dlse = normal(wanted.lse.dtype(), wanted.lse.shape(), rng);
  wanted.make_gradients();
  a = serial = wanted;  // the same out and lse, so that only the backward pass is compared
  ASSERT_EQ(chosen(a.backward()), tiled);
  run_backward(wanted, reference()), run_backward(a, pool), run_backward(serial, Context{});
  for (auto [name, gradient] : gradients()) {
    if (!(a.*gradient)) continue;
    expect_near(a.*gradient, wanted.*gradient, 5 * tolerance, name);
    EXPECT_EQ((a.*gradient).bytes(), (serial.*gradient).bytes()) << name << " depends on the threads";
  }
}

constexpr Sizes kOdd = {2, 4, 2, 67, 131, 33, 19};

TEST(Tiled, Sizes) {
  std::mt19937 rng(1);
  for (Sizes n : {kOdd, Sizes{1, 1, 1, 1, 1, 1, 1}, Sizes{1, 2, 1, 64, 64, 64, 64}, Sizes{1, 8, 2, 3, 700, 40, 24},
                  Sizes{1, 1, 1, 5, 3, 256, 256}, Sizes{1, 2, 2, 0, 4, 8, 8}, Sizes{1, 2, 2, 4, 0, 8, 8}})
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " Nq " << n.queries << " Nk " << n.keys);
      expect_same_as_reference(dense(dtype, n, rng), rng);
    }
}

TEST(Tiled, EachOption) {
  std::mt19937 rng(2);
  const std::vector<std::pair<const char*, std::function<void(Attention&)>>> options = {
      {"causal", [](Attention& a) { a.visit.causal = true; }},
      {"window", [](Attention& a) { a.visit.window_left = 20, a.visit.window_right = 7; }},
      {"softcap", [](Attention& a) { a.score.softcap = 2.5; }},
      {"bias", [&](Attention& a) { a.bias = normal(DType::f32, {2, 4, 67, 131}, rng); }},
      {"bias of keys", [&](Attention& a) { a.bias = normal(DType::f32, {1, 1, 1, 131}, rng); }},
      {"mask",
       [](Attention& a) {
         a.bias = Tensor(DType::boolean, {2, 1, 67, 131});
         for (int64_t i = 0; i < a.bias.numel(); ++i) a.bias.set(i, i / 131 != 5 && i % 7 > 2);  // row 5 sees no key
       }},
      {"alibi", [&](Attention& a) { a.alibi_slopes = normal(DType::f32, {4}, rng, 0.1, 0.02); }},
      {"temperature", [&](Attention& a) { a.temperature = normal(DType::f32, {2, 4, 67}, rng, 1, 0.1); }},
      {"sinks", [&](Attention& a) { a.sinks = normal(DType::f32, {4}, rng); }},
      {"head_gate", [&](Attention& a) { a.head_gate = normal(DType::f32, {2, 4, 67}, rng); }},
      {"relative_keys", [&](Attention& a) { a.relative_keys = normal(a.query.dtype(), {4, 41, 33}, rng); }},
      {"relative_bias", [&](Attention& a) { a.relative_bias = normal(DType::f32, {1, 41}, rng); }},
      {"dropout", [](Attention& a) { a.score.dropout_p = 0.3, a.score.seed = 0x123456789abcdef0; }},
  };
  for (const auto& [name, set] : options) {
    SCOPED_TRACE(name);
    Attention a = dense(DType::f32, kOdd, rng);
    set(a);
    expect_same_as_reference(a, rng);
  }
  SCOPED_TRACE("all but the mask");
  Attention a = dense(DType::bf16, kOdd, rng);
  for (const auto& [name, set] : options)
    if (name != std::string("mask") && name != std::string("bias of keys")) set(a);
  expect_same_as_reference(a, rng);
}

// Chunks of keys outnumber the partial tables that their gradients share, tables end within and beyond the distances.
TEST(Tiled, RelativeTables) {
  std::mt19937 rng(4);
  for (int64_t reach : {0, 5, 100, 900})
    for (bool causal : {false, true}) {
      SCOPED_TRACE(testing::Message() << "P " << reach << (causal ? " causal" : ""));
      Attention a = dense(DType::f32, {1, 8, 8, 24, 700, 16, 8}, rng);
      a.relative_keys = normal(DType::f32, {8, 2 * reach + 1, 16}, rng);
      a.relative_bias = normal(DType::f32, {1, 2 * reach + 1}, rng);
      a.visit.causal = causal;
      expect_same_as_reference(a, rng);
    }
}

TEST(Tiled, Packed) {
  std::mt19937 rng(3);
  for (bool causal : {false, true}) {
    Attention a;
    a.cu_seqlens_q = Tensor(DType::i32, {5}, {0, 33, 33, 34, 110});
    a.cu_seqlens_k = Tensor(DType::i32, {5}, {0, 20, 50, 200, 290});
    a.query = normal(DType::f32, {110, 4, 24}, rng);
    a.key = normal(DType::f32, {290, 2, 24}, rng);
    a.value = normal(DType::f32, {290, 2, 9}, rng);
    a.visit.causal = causal;
    a.score.scale = 0.2;
    a.make_outputs();
    expect_same_as_reference(a, rng);
    a.relative_keys = normal(DType::f32, {4, 61, 24}, rng);
    expect_same_as_reference(a, rng);
  }
}

}  // namespace
}  // namespace saccade::test
