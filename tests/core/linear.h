#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>

#include "problem.h"
#include "saccade/linear.h"

// Linear attention's problems, and how near two results of one must be.
namespace saccade::test {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Owns every tensor of a problem; an unset tensor is absent.
struct Linear {
  Tensor query, key, value, log_decay, initial_state, cu_seqlens, out, final_state;
  Tensor dout, dfinal_state, dquery, dkey, dvalue, dlog_decay, dinitial_state;
  double scale = 0.3, epsilon = 0.5;
  bool normalize = false, global = false, reverse = false;
  int64_t chunk = 0;

  template <class Problem>
  Problem base() const {
    Problem p;
    p.query = query.view(), p.key = key.view(), p.value = value.view(), p.log_decay = log_decay.view();
    p.initial_state = initial_state.view(), p.cu_seqlens = cu_seqlens.view();
    p.scale = scale, p.epsilon = epsilon, p.normalize = normalize, p.global = global, p.reverse = reverse;
    p.chunk = chunk;
    return p;
  }
  LinearForward forward() const {
    auto p = base<LinearForward>();
    p.out = out.view(), p.final_state = final_state.view();
    return p;
  }
  LinearBackward backward() const {
    auto p = base<LinearBackward>();
    if (normalize) p.out = out.view();
    p.dout = dout.view(), p.dfinal_state = dfinal_state.view();
    p.dquery = dquery.view(), p.dkey = dkey.view(), p.dvalue = dvalue.view();
    p.dlog_decay = dlog_decay.view(), p.dinitial_state = dinitial_state.view();
    return p;
  }
};

struct Heads {
  int64_t q, k, v;
  int64_t most() const { return std::max({q, k, v}); }
};
struct Sizes {
  int64_t batch, tokens, dim, value_dim;
};

enum class Per { none, head, token, channel };
constexpr Per kDecays[] = {Per::none, Per::head, Per::token, Per::channel};

using Buffer = std::unique_ptr<void, decltype(&std::free)>;
inline Buffer exact(int64_t bytes) {
  void* data = nullptr;
  if (bytes > 0 && posix_memalign(&data, 64, static_cast<size_t>(bytes)) != 0) std::abort();
  return {data, &std::free};
}

inline Context plain() {
  Context c;
  c.kernel = "cpu.reference.linear";
  return c;
}

/// `positive`: queries and keys, for a denominator that does not vanish.
inline Linear make(DType dtype, Heads heads, Sizes n, Per per, double decay, std::mt19937& rng, bool packed = false,
                   bool positive = false) {
  Linear a;
  const auto shape = [&](int64_t h, int64_t width) {
    return packed ? std::vector<int64_t>{n.tokens, h, width} : std::vector<int64_t>{n.batch, h, n.tokens, width};
  };
  a.query = normal(dtype, shape(heads.q, n.dim), rng), a.key = normal(dtype, shape(heads.k, n.dim), rng);
  a.value = normal(dtype, shape(heads.v, n.value_dim), rng);
  if (positive)
    for (Tensor* t : {&a.query, &a.key})
      for (int64_t i = 0; i < t->numel(); ++i) t->set(i, std::abs(t->get(i)));
  std::vector<int64_t> g = shape(heads.most(), n.dim);
  if (per == Per::token) g.pop_back();
  if (per == Per::head) g = {heads.most()};
  if (per != Per::none) {
    a.log_decay = Tensor(DType::f32, g);
    std::exponential_distribution<double> draw(1 / decay);
    for (int64_t i = 0; i < a.log_decay.numel(); ++i) a.log_decay.set(i, -draw(rng));
  }
  a.normalize = positive;
  a.out = Tensor(dtype, shape(heads.most(), n.value_dim));
  return a;
}

inline void add_states(Linear& a, int64_t batch, std::mt19937& rng) {
  const LinearForward p = a.forward();
  const std::vector<int64_t> shape = {batch, p.out.shape[1], p.query.shape[p.query.rank - 1],
                                      p.value.shape[p.value.rank - 1] + a.normalize};
  a.initial_state = normal(DType::f32, shape, rng, a.normalize ? 1 : 0, 0.3);
  a.final_state = Tensor(DType::f32, shape);
}

inline void expect_near(const Tensor& got, const Tensor& wanted, double tolerance, const char* name, double noise = 0) {
  double largest = 0;
  for (int64_t i = 0; i < wanted.numel(); ++i)
    if (std::isfinite(wanted.get(i))) largest = std::max(largest, std::abs(wanted.get(i)));
  for (int64_t i = 0; i < wanted.numel(); ++i) {
    const double g = got.get(i), w = wanted.get(i);
    ASSERT_TRUE(g == w || std::abs(g - w) <= noise + tolerance * (0.1 + largest))
        << name << "[" << i << "]: " << g << ", " << w;
  }
}

inline double tolerance_of(DType t) { return t == DType::f32 ? 1e-5 : t == DType::f16 ? 1e-3 : 8e-3; }

inline double root_mean_square(const Tensor& t) {
  double sum = 0;
  for (int64_t i = 0; i < t.numel(); ++i) sum += t.get(i) * t.get(i);
  return t.numel() ? std::sqrt(sum / static_cast<double>(t.numel())) : 0;
}

/// Of a decay's gradient: a sum of q·dq − k·dk over later tokens, whose roundings stay when the terms cancel; summed
/// over the tokens once more for a decay per head.
inline double decay_noise(const Linear& a) {
  const auto terms = static_cast<double>(a.query.numel());
  const double n = a.log_decay.shape().size() == 1 ? terms / (a.query.shape().back() * a.query.shape()[1]) : 1;
  return 0x1p-23 * n * std::sqrt(terms) * root_mean_square(a.query) * root_mean_square(a.dquery);
}

}  // namespace saccade::test
