#include <cuda_runtime_api.h>

#include <map>

#include "../core/linear.h"
#include "runtime.h"
#include "saccade/error.h"

// Linear attention's CUDA kernels from C++, on memory of exactly the stated size: against the reference, and what must
// hold to the bit.
namespace saccade::test {
namespace {

/// Device copies of a problem's tensors, and the way back.
class Upload {
 public:
  ~Upload() {
    for (const auto& [host, copy] : copies_) cudaFree(copy.device);
  }
  void operator()(TensorView& t) {
    t.device = DeviceType::cuda;
    if (!t.data) return;
    Copy& copy = copies_[t.data];
    if (!copy.device) {
      copy.bytes = t.numel() * dtype_size(t.dtype);
      EXPECT_EQ(cudaMalloc(&copy.device, copy.bytes ? copy.bytes : 1), cudaSuccess);
      EXPECT_EQ(cudaMemcpy(copy.device, t.data, copy.bytes, cudaMemcpyHostToDevice), cudaSuccess);
    }
    t.data = copy.device;
  }
  void back() {
    for (const auto& [host, copy] : copies_)
      EXPECT_EQ(cudaMemcpy(host, copy.device, copy.bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  }

 private:
  struct Copy {
    void* device = nullptr;
    int64_t bytes = 0;
  };
  std::map<void*, Copy> copies_;
};

/// Runs `f` of a problem whose `tensors` are on the device.
template <class Problem, class F>
void on_device(Problem p, std::initializer_list<TensorView Problem::*> tensors, const F& f, cudaStream_t stream = {}) {
  Upload upload;
  for (TensorView Problem::* t : tensors) upload(p.*t);
  Context c;
  c.kernel = "cuda.sm80.linear";
  c.stream = stream;
  void* workspace = nullptr;
  if (const int64_t bytes = workspace_bytes(p, c)) {
    EXPECT_EQ(cudaMalloc(&workspace, bytes), cudaSuccess);
  }
  f(p, c, workspace);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  upload.back();
  cudaFree(workspace);
  for (const std::string& finding : emu::take_findings()) ADD_FAILURE() << finding;
}
template <class P, TensorView P::*... kMore>
constexpr std::initializer_list<TensorView P::*> kTensors = {
    &P::query, &P::key, &P::value, &P::log_decay, &P::initial_state, &P::cu_seqlens, &P::out, kMore...};

void run(const Linear& a) {
  using P = LinearForward;
  on_device(a.forward(), kTensors<P, &P::final_state>, linear_forward);
}
void run_backward(const Linear& a) {
  using P = LinearBackward;
  on_device(
      a.backward(),
      kTensors<P, &P::dout, &P::dfinal_state, &P::dquery, &P::dkey, &P::dvalue, &P::dlog_decay, &P::dinitial_state>,
      linear_backward);
}
template <class Problem>
void reference(const Problem& p) {
  const Buffer workspace = exact(workspace_bytes(p, plain()));
  if constexpr (std::is_same_v<Problem, LinearForward>)
    linear_forward(p, plain(), workspace.get());
  else if constexpr (std::is_same_v<Problem, LinearBackward>)
    linear_backward(p, plain(), workspace.get());
  else
    linear_step(p, plain(), workspace.get());
}

/// With gradients to be written, and what they come from.
Linear with_gradients(Linear a, std::mt19937& rng) {
  const auto like = [](const Tensor& t) { return t ? Tensor(t.dtype(), t.shape()) : Tensor(); };
  a.dout = normal(a.query.dtype(), a.out.shape(), rng);
  if (a.final_state) a.dfinal_state = normal(DType::f32, a.final_state.shape(), rng);
  a.dquery = like(a.query), a.dkey = like(a.key), a.dvalue = like(a.value), a.dlog_decay = like(a.log_decay);
  a.dinitial_state = like(a.initial_state);
  return a;
}

void expect_same_as_reference(Linear a, std::mt19937& rng) {
  a = with_gradients(std::move(a), rng);
  Linear wanted = a;
  reference(wanted.forward());
  run(a);
  const double low = tolerance_of(a.query.dtype());
  expect_near(a.out, wanted.out, low, "out");
  if (a.final_state) expect_near(a.final_state, wanted.final_state, 1e-5, "final_state");
  a.out = wanted.out;
  reference(wanted.backward());
  run_backward(a);
  for (const auto& [name, gradient, t, noise] :
       {std::tuple{"dquery", &Linear::dquery, low, 0.0},
        {"dkey", &Linear::dkey, low, 0.0},
        {"dvalue", &Linear::dvalue, low, 0.0},
        {"dlog_decay", &Linear::dlog_decay, 1e-5, a.log_decay ? 4 * decay_noise(wanted) : 0.0},
        {"dinitial_state", &Linear::dinitial_state, 1e-5, 0.0}})
    if (a.*gradient) expect_near(a.*gradient, wanted.*gradient, t, name, noise);
}

TEST(ProductLinear, Segments) {
  std::mt19937 rng(21);
  for (Per per : kDecays)
    for (DType dtype : {DType::f32, DType::bf16})
      for (bool normalize : {false, true}) {
        SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " per " << int(per) << " " << normalize);
        Linear a = make(dtype, {2, 1, 2}, {4, 700, 24, 40}, per, 0.05, rng, true, normalize);
        a.cu_seqlens = Tensor(DType::i32, {5}, {0, 300, 300, 301, 700});
        add_states(a, 4, rng);
        a.reverse = normalize;
        expect_same_as_reference(a, rng);
      }
}

TEST(ProductLinear, Global) {
  std::mt19937 rng(22);
  for (bool normalize : {false, true}) {
    Linear a = make(DType::f32, {1, 1, 2}, {2, 300, 20, 70}, Per::none, 0, rng, false, normalize);
    a.global = true;
    add_states(a, 2, rng);
    expect_same_as_reference(a, rng);
  }
}

TEST(ProductLinear, Sizes) {
  std::mt19937 rng(23);
  for (Sizes n : {Sizes{1, 65, 256, 256}, Sizes{2, 33, 130, 17}, Sizes{2, 0, 8, 8}, Sizes{0, 4, 8, 8}})
    for (DType dtype : {DType::f32, DType::f16})
      for (Per per : {Per::token, Per::channel}) {
        SCOPED_TRACE(testing::Message() << n.tokens << " x " << n.dim << " " << dtype_name(dtype) << " " << int(per));
        Linear a = make(dtype, {2, 2, 2}, n, per, 0.05, rng);
        add_states(a, n.batch, rng);
        expect_same_as_reference(a, rng);
      }
}

/// The one sequence of `a` that starts at row `first` of the batch's.
Linear sequence(const Linear& a, int64_t b) {
  Linear one = a;
  for (Tensor Linear::* t : {&Linear::query, &Linear::key, &Linear::value, &Linear::log_decay, &Linear::initial_state,
                             &Linear::out, &Linear::final_state, &Linear::dout, &Linear::dfinal_state, &Linear::dquery,
                             &Linear::dkey, &Linear::dvalue, &Linear::dlog_decay, &Linear::dinitial_state}) {
    if (!(a.*t) || (a.*t).shape().size() == 1) continue;
    std::vector<int64_t> shape = (a.*t).shape();
    shape[0] = 1;
    one.*t = Tensor((a.*t).dtype(), shape);
    const int64_t n = (one.*t).numel();
    for (int64_t i = 0; i < n; ++i) (one.*t).set(i, (a.*t).get(b * n + i));
  }
  return one;
}

TEST(ProductLinear, TheFormOfTheLaunchDoesNotMatter) {
  std::mt19937 rng(24);
  for (Per per : kDecays)
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " per " << int(per));
      // Eight heads fill the virtual device, one does not.
      Linear all = make(dtype, {1, 1, 1}, {8, 330, 16, 24}, per, 0.1, rng);
      if (per == Per::head) all.log_decay.set(0, -0.05);
      add_states(all, 8, rng);
      all = with_gradients(std::move(all), rng);
      if (per == Per::head) all.dlog_decay = {};  // a sum over the batch
      run(all), run_backward(all);
      const Linear wanted = sequence(all, 5);
      Linear one = wanted;
      for (Tensor Linear::* t : {&Linear::out, &Linear::final_state, &Linear::dquery, &Linear::dkey, &Linear::dvalue,
                                 &Linear::dlog_decay, &Linear::dinitial_state})
        if (one.*t) (one.*t).fill(7);
      run(one), run_backward(one);
      for (Tensor Linear::* t : {&Linear::out, &Linear::final_state, &Linear::dquery, &Linear::dkey, &Linear::dvalue,
                                 &Linear::dlog_decay, &Linear::dinitial_state})
        EXPECT_EQ((one.*t).bytes(), (wanted.*t).bytes());
    }
}

TEST(ProductLinear, NonFinite) {
  std::mt19937 rng(25);
  for (Per per : kDecays)
    for (double bad : {kNaN, std::numeric_limits<double>::infinity()})
      for (int which = 0; which < 4; ++which) {
        Linear a = make(DType::bf16, {1, 1, 1}, {1, 140, 16, 16}, per, 0.1, rng), clean = a;
        Tensor& t = which == 0 ? a.query : which == 1 ? a.key : which == 2 ? a.value : a.log_decay;
        if (!t || (which == 3 && per == Per::head)) continue;
        const int64_t token = 75, width = t.numel() / 140;
        t.set(token * width, which == 3 ? -bad : bad);
        run(a), run(clean);
        for (int64_t i = 0; i < 140; ++i)
          for (int64_t c = 0; c < 16; ++c) {
            const double got = a.out.get(i * 16 + c), was = clean.out.get(i * 16 + c);
            if (i < token && !(which == 3 && per == Per::channel)) {  // whose tiles end before it
              ASSERT_EQ(got, was) << "per " << int(per) << " operand " << which << " token " << i;
            } else if (i < token) {
              ASSERT_NEAR(got, was, 3e-2 * (1 + std::abs(was))) << "token " << i;
            } else if (which < 3 && i == token && c == 0) {
              ASSERT_FALSE(std::isfinite(got)) << "per " << int(per) << " operand " << which;
            } else if (which == 0 && i != token) {
              ASSERT_EQ(got, was);
            }
          }
      }
}

TEST(ProductLinear, LargeStatesDoNotOverflow) {
  Linear a;
  const int64_t n = 400;
  a.query = Tensor(DType::f16, {1, 1, n, 8}), a.key = a.query, a.value = a.query, a.out = a.query;
  a.query.fill(0.125), a.key.fill(200), a.value.fill(2);
  a.scale = 1.0 / 4096;
  run(a);
  for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(a.out.get(i * 8), 400.0 * (i + 1) / 4096, 0.01 * (i + 1) / 10);
}

TEST(ProductLinear, BadOffsetsOnTheDeviceStayInBounds) {
  std::mt19937 rng(26);
  // Not monotonic, negative, far beyond the end; sequences do not overlap, which would be two writers of one row.
  for (auto offsets : {std::vector<double>{0, 600, 600, 600}, {400, 0, 0, -7}, {0, 17, 17, 1 << 30}, {-5, 0, 400, 400}})
    for (Per per : kDecays) {
      Linear a = make(DType::bf16, {2, 1, 1}, {3, 400, 24, 40}, per, 0.1, rng, true);
      a.cu_seqlens = Tensor(DType::i32, {4}, {0, 0, 0, 0});
      for (int i = 0; i < 4; ++i) a.cu_seqlens.set(i, offsets[i]);
      add_states(a, 3, rng);
      run(a);
    }
}

TEST(ProductLinear, LaunchesAreCapturable) {
  std::mt19937 rng(27);
  Linear a = make(DType::f32, {1, 1, 1}, {1, 330, 16, 16}, Per::channel, 0.1, rng);
  add_states(a, 1, rng);
  a = with_gradients(std::move(a), rng);
  const Linear wanted = a;
  run(wanted), run_backward(wanted);
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  // Whatever waits or allocates would end the capture with an error.
  const auto captured = [&](const auto& run) {
    return [&](const auto& p, const Context& c, void* workspace) {
      cudaGraph_t graph;
      cudaGraphExec_t exec;
      ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
      run(p, c, workspace);
      ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
      ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
      ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
    };
  };
  using F = LinearForward;
  on_device(a.forward(), kTensors<F, &F::final_state>, captured(linear_forward), stream);
  using B = LinearBackward;
  on_device(
      a.backward(),
      kTensors<B, &B::dout, &B::dfinal_state, &B::dquery, &B::dkey, &B::dvalue, &B::dlog_decay, &B::dinitial_state>,
      captured(linear_backward), stream);
  cudaStreamDestroy(stream);
  for (Tensor Linear::* t : {&Linear::out, &Linear::final_state, &Linear::dquery, &Linear::dkey, &Linear::dvalue,
                             &Linear::dlog_decay, &Linear::dinitial_state})
    EXPECT_EQ((a.*t).bytes(), (wanted.*t).bytes());
}

TEST(ProductLinear, Step) {
  std::mt19937 rng(28);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (Per per : kDecays)
      for (bool normalize : {false, true})
        for (int64_t dv : {1, 19, 64, 150}) {
          const int64_t batch = 3, d = 40, h = 4;
          Tensor q = normal(dtype, {batch, 4, d}, rng, normalize ? 2 : 0, 0.3),
                 k = normal(dtype, {batch, 1, d}, rng, normalize ? 2 : 0, 0.3);
          Tensor v = normal(dtype, {batch, 2, dv}, rng), out(dtype, {batch, h, dv}), g;
          if (per == Per::head) g = normal(DType::f32, {h}, rng, -1, 0.1);
          if (per == Per::token) g = normal(DType::f32, {batch, h}, rng, -1, 0.1);
          if (per == Per::channel) g = normal(DType::f32, {batch, h, d}, rng, -1, 0.1);
          Tensor state = normal(DType::f32, {batch, h, d, dv + normalize}, rng, normalize ? 1 : 0);
          const auto problem = [&](const Tensor& s, const Tensor& o) {
            LinearStep p;
            p.query = q.view(), p.key = k.view(), p.value = v.view(), p.log_decay = g.view();
            p.state = s.view(), p.out = o.view();
            p.scale = 0.4, p.normalize = normalize, p.epsilon = 0.1;
            return p;
          };
          Tensor wanted_state = state, wanted_out = out;
          reference(problem(wanted_state, wanted_out));
          using P = LinearStep;
          on_device(problem(state, out), {&P::query, &P::key, &P::value, &P::log_decay, &P::state, &P::out},
                    linear_step);
          SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " per " << int(per) << " Dv " << dv);
          expect_near(out, wanted_out, tolerance_of(dtype), "out");
          expect_near(state, wanted_state, 1e-6, "state");
        }
}

}  // namespace
}  // namespace saccade::test
