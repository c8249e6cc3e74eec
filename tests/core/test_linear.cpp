// Linear attention's kernel under SACCADE_CPU_ISA against the reference, on buffers of exactly the stated size and on
// several threads.
#include "linear.h"

namespace saccade::test {
namespace {

void run(const Linear& a, const Context& context) {
  const LinearForward p = a.forward();
  linear_forward(p, context, exact(workspace_bytes(p, context)).get());
}
void run_backward(const Linear& a, const Context& context) {
  const LinearBackward p = a.backward();
  linear_backward(p, context, exact(workspace_bytes(p, context)).get());
}

template <class Problem>
std::string chosen(const Problem& problem) {
  for (const Candidate& c : explain(problem, Context{}))
    if (c.chosen) return c.name;
  return "none";
}

void expect_forward(Linear a) {
  a.out.fill(kNaN);
  if (a.final_state) a.final_state.fill(kNaN);
  Linear wanted = a, serial = a;
  ASSERT_EQ(chosen(a.forward()), "cpu." + cpu_isa() + ".linear");
  run(wanted, plain()), run(a, pool_context(16)), run(serial, Context{});
  expect_near(a.out, wanted.out, tolerance_of(a.query.dtype()), "out");
  if (a.final_state) expect_near(a.final_state, wanted.final_state, 1e-5, "final_state");
  EXPECT_EQ(a.out.bytes(), serial.out.bytes()) << "depends on the threads";
  EXPECT_EQ(a.final_state.bytes(), serial.final_state.bytes()) << "depends on the threads";
}

void expect_backward(Linear a, std::mt19937& rng) {
  const auto like = [](const Tensor& t) {
    Tensor copy = t;
    if (copy) copy.fill(kNaN);
    return copy;
  };
  run(a, plain());
  a.dout = normal(a.query.dtype(), a.out.shape(), rng);
  if (a.final_state) a.dfinal_state = normal(DType::f32, a.final_state.shape(), rng);
  a.dquery = like(a.query), a.dkey = like(a.key), a.dvalue = like(a.value), a.dlog_decay = like(a.log_decay);
  a.dinitial_state = like(a.initial_state);
  Linear wanted = a, serial = a;
  ASSERT_EQ(chosen(a.backward()), "cpu." + cpu_isa() + ".linear");
  run_backward(wanted, plain()), run_backward(a, pool_context(16)), run_backward(serial, Context{});
  const double tolerance = tolerance_of(a.query.dtype());
  for (const auto& [name, gradient, t, noise] :
       {std::tuple{"dquery", &Linear::dquery, tolerance, 0.0},
        {"dkey", &Linear::dkey, tolerance, 0.0},
        {"dvalue", &Linear::dvalue, tolerance, 0.0},
        {"dlog_decay", &Linear::dlog_decay, 1e-5, a.log_decay ? decay_noise(wanted) : 0.0},
        {"dinitial_state", &Linear::dinitial_state, 1e-5, 0.0}}) {
    if (!(a.*gradient)) continue;
    expect_near(a.*gradient, wanted.*gradient, t, name, noise);
    EXPECT_EQ((a.*gradient).bytes(), (serial.*gradient).bytes()) << name << " depends on the threads";
  }
}

void expect_same_as_reference(const Linear& a, std::mt19937& rng) { expect_forward(a), expect_backward(a, rng); }

TEST(Tiled, LinearDecays) {
  std::mt19937 rng(11);
  for (Per per : kDecays)
    for (double decay : {0.01, 0.3, 50.0})
      for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        if (dtype != DType::f32 && decay != 0.3) continue;
        SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " per " << int(per) << " decay " << decay);
        Linear a = make(dtype, {2, 1, 2}, {2, 307, 33, 19}, per, decay, rng);
        add_states(a, 2, rng);
        expect_same_as_reference(a, rng);
        a.reverse = true;
        expect_same_as_reference(a, rng);
      }
}

TEST(Tiled, LinearSizes) {
  std::mt19937 rng(12);
  for (Sizes n : {Sizes{1, 1, 1, 1}, Sizes{1, 700, 64, 64}, Sizes{3, 95, 40, 24}, Sizes{1, 97, 256, 256},
                  Sizes{2, 5, 17, 130}, Sizes{2, 0, 8, 8}, Sizes{0, 4, 8, 8}})
    for (Per per : kDecays)
      for (bool normalize : {false, true}) {
        SCOPED_TRACE(testing::Message() << n.tokens << " x " << n.dim << " per " << int(per) << " " << normalize);
        Linear a = make(DType::f32, {2, 2, 2}, n, per, 0.05, rng, false, normalize);
        add_states(a, n.batch, rng);
        expect_same_as_reference(a, rng);
      }
}

TEST(Tiled, LinearForms) {
  std::mt19937 rng(13);
  for (Heads heads : {Heads{4, 2, 1}, Heads{1, 1, 4}, Heads{2, 4, 4}})
    for (bool normalize : {false, true})
      for (bool packed : {false, true}) {
        SCOPED_TRACE(testing::Message() << heads.q << " " << heads.k << " " << heads.v << " " << normalize << packed);
        for (Per per : kDecays) {
          Linear a = make(DType::f32, heads, {4, 130, 12, 20}, per, 0.1, rng, packed, normalize);
          if (packed) a.cu_seqlens = Tensor(DType::i32, {5}, {0, 33, 33, 34, 130});
          expect_same_as_reference(a, rng);
          add_states(a, 4, rng);
          expect_same_as_reference(a, rng);
          a.reverse = true;
          expect_same_as_reference(a, rng);
          a.reverse = false, a.global = true;
          if (per == Per::none) expect_same_as_reference(a, rng);
        }
      }
}

TEST(Tiled, LinearChunks) {
  std::mt19937 rng(14);
  for (Per per : kDecays)
    for (int64_t chunk : {1, 7, 64, 200, 5000}) {
      SCOPED_TRACE(testing::Message() << "per " << int(per) << " chunk " << chunk);
      Linear a = make(DType::f32, {2, 2, 2}, {1, 277, 20, 20}, per, 0.2, rng);
      a.chunk = chunk;
      expect_same_as_reference(a, rng);
    }
}

TEST(Tiled, LinearNonFinite) {
  std::mt19937 rng(15);
  for (Per per : kDecays)
    for (double bad : {kNaN, std::numeric_limits<double>::infinity()})
      for (int which = 0; which < 4; ++which) {
        Linear a = make(DType::f32, {1, 1, 1}, {1, 300, 16, 16}, per, 0.1, rng), clean = a;
        Tensor& t = which == 0 ? a.query : which == 1 ? a.key : which == 2 ? a.value : a.log_decay;
        if (!t || (which == 3 && per == Per::head)) continue;
        const int64_t token = 150, width = t.numel() / 300;
        t.set(token * width, which == 3 ? -bad : bad);
        for (bool reverse : {false, true}) {
          a.reverse = clean.reverse = reverse;
          run(a, pool_context(16)), run(clean, Context{});
          for (int64_t i = 0; i < 300; ++i)
            for (int64_t c = 0; c < 16; ++c) {
              const double got = a.out.get(i * 16 + c), was = clean.out.get(i * 16 + c);
              if (reverse ? i > token : i < token) {
                ASSERT_NEAR(got, was, 1e-5) << "per " << int(per) << " operand " << which << " token " << i;
              } else if (which < 3 && i == token && c == 0) {
                ASSERT_FALSE(std::isfinite(got)) << "per " << int(per) << " operand " << which;
              } else if (which == 0 && i != token) {
                ASSERT_EQ(got, was);
              }
            }
        }
      }
}

TEST(Tiled, LinearBatchDoesNotMatter) {
  std::mt19937 rng(16);
  for (Per per : kDecays) {
    Linear a = make(DType::f32, {2, 2, 2}, {3, 400, 32, 48}, per, 0.1, rng);
    run(a, pool_context(4));
    Linear one = a;
    for (Tensor Linear::* t : {&Linear::query, &Linear::key, &Linear::value, &Linear::log_decay, &Linear::out}) {
      if (!(a.*t) || (a.*t).shape().size() == 1) continue;
      std::vector<int64_t> shape = (a.*t).shape();
      shape[0] = 1;
      one.*t = Tensor(DType::f32, shape);
      const int64_t n = (one.*t).numel();
      for (int64_t i = 0; i < n; ++i) (one.*t).set(i, (a.*t).get(n + i));
    }
    const Tensor wanted = one.out;
    run(one, pool_context(8));
    EXPECT_EQ(one.out.bytes(), wanted.bytes()) << int(per);
  }
}

TEST(Tiled, LinearStep) {
  std::mt19937 rng(17);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (Per per : {Per::none, Per::head, Per::token, Per::channel})
      for (Heads heads : {Heads{2, 2, 2}, Heads{4, 1, 2}})
        for (bool normalize : {false, true})
          for (int64_t dv : {1, 19, 64, 150, 256}) {
            const int64_t batch = 3, d = 33, h = heads.most();
            Tensor q = normal(dtype, {batch, heads.q, d}, rng, normalize ? 2 : 0, 0.3),
                   k = normal(dtype, {batch, heads.k, d}, rng, normalize ? 2 : 0, 0.3);
            Tensor v = normal(dtype, {batch, heads.v, dv}, rng), out(dtype, {batch, h, dv}), g;
            if (per == Per::head) g = normal(DType::f32, {h}, rng, -1, 0.1);
            if (per == Per::token) g = normal(DType::f32, {batch, h}, rng, -1, 0.1);
            if (per == Per::channel) g = normal(DType::f32, {batch, h, d}, rng, -1, 0.1);
            // Rows of states further apart than they are long, and columns too.
            for (int64_t step : {1, 2}) {
              Tensor state = normal(DType::f32, {batch, h, d, (dv + normalize) * step}, rng, normalize ? 1 : 0);
              Tensor wanted_state = state, wanted_out = out;
              const auto problem = [&](const Tensor& s, const Tensor& o) {
                LinearStep p;
                p.query = q.view(), p.key = k.view(), p.value = v.view(), p.log_decay = g.view();
                p.state = s.view(), p.out = o.view();
                p.state.shape[3] = dv + normalize, p.state.stride[3] = step;
                p.scale = 0.4, p.normalize = normalize, p.epsilon = 0.1;
                return p;
              };
              ASSERT_EQ(chosen(problem(state, out)), "cpu." + cpu_isa() + ".linear");
              for (const auto& [p, c] : {std::pair{problem(state, out), pool_context(3)},
                                         std::pair{problem(wanted_state, wanted_out), plain()}})
                linear_step(p, c, exact(workspace_bytes(p, c)).get());
              SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " per " << int(per) << " Dv " << dv);
              expect_near(out, wanted_out, tolerance_of(dtype), "out");
              expect_near(state, wanted_state, 1e-6, "state");
            }
          }
}

}  // namespace
}  // namespace saccade::test
