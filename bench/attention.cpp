// Softmax attention through the public C++ interface alone: forward, backward and decode on the library's own thread
// pool.
#include "saccade/attention.h"

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

namespace {

constexpr int kThreads = 2;

struct Buffer {
  std::unique_ptr<void, decltype(&std::free)> data{nullptr, &std::free};
  saccade::TensorView view;

  Buffer(saccade::DType dtype, std::initializer_list<int64_t> shape) {
    int64_t count = 1;
    for (int64_t n : shape) count *= n;
    const int64_t bytes = (count * saccade::dtype_size(dtype) + 63) / 64 * 64;
    data.reset(std::aligned_alloc(64, static_cast<size_t>(bytes ? bytes : 64)));
    view = saccade::contiguous_view(data.get(), dtype, static_cast<int>(shape.size()), shape.begin());
  }

  void fill(unsigned seed) {
    std::minstd_rand random(seed);
    for (int64_t i = 0; i < view.numel(); ++i) {
      const float x = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
      if (view.dtype == saccade::DType::f32)
        static_cast<float*>(view.data)[i] = x;
      else {  // bf16: the upper half
        uint32_t bits;
        __builtin_memcpy(&bits, &x, 4);
        static_cast<uint16_t*>(view.data)[i] = static_cast<uint16_t>(bits >> 16);
      }
    }
  }
};

struct Workspace {
  std::unique_ptr<void, decltype(&std::free)> data{nullptr, &std::free};
  explicit Workspace(int64_t bytes)
      : data(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64 + 64)), &std::free) {}
};

/// heads: query heads, key heads; sizes: Nq, Nk, D.
struct Operands {
  Buffer query, key, value, out, lse;
  Operands(saccade::DType t, int64_t hq, int64_t hk, int64_t nq, int64_t nk, int64_t d)
      : query(t, {1, hq, nq, d}),
        key(t, {1, hk, nk, d}),
        value(t, {1, hk, nk, d}),
        out(t, {1, hq, nq, d}),
        lse(saccade::DType::f32, {1, hq, nq}) {
    query.fill(1), key.fill(2), value.fill(3);
  }
  void describe(saccade::AttentionProblem& p, int64_t d, bool causal) const {
    p.query = query.view, p.key = key.view, p.value = value.view;
    p.score.scale = 1.0 / __builtin_sqrt(static_cast<double>(d));
    p.visit.causal = causal;
  }
};

double flops(int64_t heads, int64_t nq, int64_t nk, int64_t d, bool causal, double per_pair) {
  const double pairs =
      causal ? static_cast<double>(nq) * (nk - nq) + 0.5 * nq * (nq + 1.0) : static_cast<double>(nq) * nk;
  return per_pair * static_cast<double>(heads) * pairs * static_cast<double>(d);
}

using benchmark::Counter;

void forward(benchmark::State& state, saccade::DType dtype, int64_t hq, int64_t hk, int64_t nq, int64_t nk, int64_t d,
             bool causal) {
  Operands x(dtype, hq, hk, nq, nk, d);
  saccade::AttentionForward p;
  x.describe(p, d, causal);
  p.out = x.out.view, p.lse = x.lse.view;
  const saccade::Context context = saccade::pool_context(kThreads);
  Workspace workspace(saccade::workspace_bytes(p, context));
  for (auto _ : state) saccade::attention_forward(p, context, workspace.data.get());
  state.counters["FLOP/s"] = Counter(flops(hq, nq, nk, d, causal, 4), Counter::kIsIterationInvariantRate);
  state.counters["cache B/s"] = Counter(2.0 * static_cast<double>(x.key.view.numel() * saccade::dtype_size(dtype)),
                                        Counter::kIsIterationInvariantRate);
}

void backward(benchmark::State& state, saccade::DType dtype, int64_t heads, int64_t n, int64_t d, bool causal) {
  Operands x(dtype, heads, heads, n, n, d);
  Buffer dout(dtype, {1, heads, n, d}), dq(dtype, {1, heads, n, d}), dk(dtype, {1, heads, n, d}),
      dv(dtype, {1, heads, n, d});
  dout.fill(4);
  saccade::AttentionForward f;
  x.describe(f, d, causal);
  f.out = x.out.view, f.lse = x.lse.view;
  saccade::AttentionBackward b;
  x.describe(b, d, causal);
  b.out = x.out.view, b.lse = x.lse.view, b.dout = dout.view;
  b.dquery = dq.view, b.dkey = dk.view, b.dvalue = dv.view;
  const saccade::Context context = saccade::pool_context(kThreads);
  Workspace first(saccade::workspace_bytes(f, context)), second(saccade::workspace_bytes(b, context));
  saccade::attention_forward(f, context, first.data.get());
  for (auto _ : state) saccade::attention_backward(b, context, second.data.get());
  state.counters["FLOP/s"] = Counter(flops(heads, n, n, d, causal, 10), Counter::kIsIterationInvariantRate);
}

constexpr auto f32 = saccade::DType::f32, bf16 = saccade::DType::bf16;
#define SACCADE_TIMED(...) BENCHMARK_CAPTURE(__VA_ARGS__)->UseRealTime()->Unit(benchmark::kMillisecond)
SACCADE_TIMED(forward, f32_8x512x64, f32, 8, 8, 512, 512, 64, false);
SACCADE_TIMED(forward, f32_8x2048x64, f32, 8, 8, 2048, 2048, 64, false);
SACCADE_TIMED(forward, f32_8x2048x64_causal, f32, 8, 8, 2048, 2048, 64, true);
SACCADE_TIMED(forward, f32_8x2048x128, f32, 8, 8, 2048, 2048, 128, false);
SACCADE_TIMED(forward, bf16_8x2048x64, bf16, 8, 8, 2048, 2048, 64, false);
SACCADE_TIMED(forward, f32_decode_32k, f32, 32, 8, 1, 32768, 128, true);
SACCADE_TIMED(forward, bf16_decode_32k, bf16, 32, 8, 1, 32768, 128, true);
SACCADE_TIMED(backward, f32_8x2048x64, f32, 8, 2048, 64, false);
SACCADE_TIMED(backward, f32_8x2048x64_causal, f32, 8, 2048, 64, true);
SACCADE_TIMED(backward, bf16_8x2048x64, bf16, 8, 2048, 64, false);

}  // namespace

BENCHMARK_MAIN();
