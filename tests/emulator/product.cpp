#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "runtime.h"
#include "saccade/attention.h"
#include "saccade/error.h"

// The product's own library on CUDA tensors, as a C++ program uses it: streams, graphs, index data nobody may trust.
namespace {

using namespace saccade;

/// Device memory as a tensor.
struct Tensor {
  TensorView view;
  Tensor(std::vector<int64_t> shape, DType dtype = DType::f32)
      : view(contiguous_view(nullptr, dtype, static_cast<int>(shape.size()), shape.data())) {
    view.device = DeviceType::cuda;
    EXPECT_EQ(cudaMalloc(&view.data, view.numel() * dtype_size(dtype) + 1), cudaSuccess);
  }
  ~Tensor() { cudaFree(view.data); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  template <class T>
  void set(const std::vector<T>& x) {
    EXPECT_EQ(cudaMemcpy(view.data, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  void randomise(int seed) {
    std::mt19937 g(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(view.numel());
    for (float& e : x) e = normal(g);
    set(x);
  }
  std::vector<float> get() const {
    std::vector<float> x(view.numel());
    EXPECT_EQ(cudaMemcpy(x.data(), view.data, x.size() * 4, cudaMemcpyDeviceToHost), cudaSuccess);
    return x;
  }
};

struct Buffer {
  void* data = nullptr;
  explicit Buffer(int64_t bytes) { EXPECT_EQ(cudaMalloc(&data, bytes + 64), cudaSuccess); }
  ~Buffer() { cudaFree(data); }
};

TEST(Product, LaunchesAreCapturable) {
  Tensor q({1, 2, 70, 64}), k({1, 1, 90, 64}), v({1, 1, 90, 64}), out({1, 2, 70, 64}), lse({1, 2, 70});
  for (int i = 0; Tensor * t : {&q, &k, &v}) t->randomise(++i);
  AttentionForward p;
  p.query = q.view, p.key = k.view, p.value = v.view, p.out = out.view, p.lse = lse.view;
  p.score.scale = 0.125;
  p.visit.causal = true;
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  Context context;
  context.stream = stream;
  Buffer workspace(workspace_bytes(p, context));

  // Whatever waits or allocates would end the capture with an error.
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  attention_forward(p, context, workspace.data);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);

  q.randomise(7);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  const auto replayed = out.get();
  ASSERT_EQ(cudaMemset(out.view.data, 0, out.view.numel() * 4), cudaSuccess);
  attention_forward(p, context, workspace.data);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(replayed, out.get());
  EXPECT_GT(std::abs(replayed[5]), 0);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  EXPECT_TRUE(emu::take_findings().empty());
}

struct Packed {
  Tensor q{{40, 2, 32}}, k{{50, 1, 32}}, v{{50, 1, 32}}, out{{40, 2, 32}}, lse{{40, 2}};
  Tensor cu_q{{4}, DType::i32}, cu_k{{4}, DType::i32};
  AttentionForward p;
  Packed(std::vector<int32_t> offsets_q, std::vector<int32_t> offsets_k) {
    for (int i = 0; Tensor * t : {&q, &k, &v}) t->randomise(++i);
    cu_q.set(offsets_q), cu_k.set(offsets_k);
    p.query = q.view, p.key = k.view, p.value = v.view, p.out = out.view, p.lse = lse.view;
    p.visit.cu_seqlens_q = cu_q.view, p.visit.cu_seqlens_k = cu_k.view;
  }
  void run() {
    const Context context;
    Buffer workspace(workspace_bytes(p, context));
    attention_forward(p, context, workspace.data);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
};

TEST(Product, BadOffsetsOnTheDeviceStayInBounds) {
  // Not monotonic, negative, far beyond the end; sequences do not overlap, which would be two writers of one row.
  for (auto offsets : {std::vector<int32_t>{0, 60, 60, 60}, {40, 0, 0, -7}, {0, 17, 17, 1 << 30}, {-5, 0, 40, 40}}) {
    Packed(offsets, {0, 20, 30, 50}).run();
    Packed({0, 10, 20, 40}, offsets).run();
  }
  for (const std::string& finding : emu::take_findings()) ADD_FAILURE() << finding;
}

TEST(Product, CheckingOffsetsOnTheDeviceCanBeAskedFor) {
  setenv("SACCADE_CHECK", "1", 1);
  EXPECT_THROW(Packed({0, 10, 5, 40}, {0, 20, 30, 50}).run(), Error);
  Packed({0, 10, 20, 40}, {0, 20, 30, 50}).run();
  unsetenv("SACCADE_CHECK");
}

TEST(Product, HostTensorsOnlyByName) {
  Tensor q({1, 1, 4, 8});
  q.randomise(1);
  Tensor lse({1, 1, 4});
  AttentionForward p;
  p.query = p.key = p.value = q.view;
  Tensor out({1, 1, 4, 8});
  p.out = out.view, p.lse = lse.view;
  for (TensorView* t : {&p.query, &p.key, &p.value, &p.out, &p.lse}) t->device = DeviceType::cpu;
  for (const Candidate& c : explain(p, Context{}))
    if (c.name.starts_with("cuda.")) EXPECT_FALSE(c.reason.empty());
  Context named;
  named.kernel = "cuda.sm80.attention";
  bool chosen = false;
  for (const Candidate& c : explain(p, named)) chosen |= c.chosen && c.name == named.kernel;
  EXPECT_TRUE(chosen);
}

}  // namespace
