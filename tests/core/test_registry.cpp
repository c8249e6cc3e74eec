#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "problem.h"
#include "saccade/error.h"
#include "saccade/kernels.h"

namespace saccade::test {
namespace {

Attention small(DType dtype) {
  std::mt19937 rng(1);
  Attention a;
  a.query = normal(dtype, {1, 4, 3, 8}, rng), a.key = normal(dtype, {1, 2, 5, 8}, rng),
  a.value = normal(dtype, {1, 2, 5, 6}, rng);
  a.make_outputs();
  a.dout = Attention::like(a.out);
  a.make_gradients();
  return a;
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

class Registry : public testing::Test {
 protected:
  void SetUp() override { unsetenv("SACCADE_KERNEL"); }
  void TearDown() override { unsetenv("SACCADE_KERNEL"); }
};

TEST_F(Registry, ReferenceIsLastAndAlwaysThere) {
  for (const char* op : {"attention", "attention_backward"}) {
    std::vector<KernelInfo> of_op;
    for (const KernelInfo& k : list_kernels())
      if (k.op == op) of_op.push_back(k);
    ASSERT_FALSE(of_op.empty());
    EXPECT_EQ(of_op.back().name, "cpu.reference.attention");
    EXPECT_EQ(of_op.back().reason, "");
  }
}

TEST_F(Registry, FirstThatCanRunIsChosen) {
  for (DType dtype : {DType::f32, DType::f64}) {
    const std::vector<Candidate> list = explain(small(dtype).forward(), Context{});
    bool before = false;
    for (const Candidate& c : list) {
      EXPECT_EQ(c.chosen, !before && c.reason.empty()) << c.name;
      before |= c.chosen;
    }
    EXPECT_TRUE(before);
  }
  EXPECT_FALSE(explain(small(DType::f32).backward(), Context{}).back().chosen);  // a tiled kernel is faster
  EXPECT_TRUE(explain(small(DType::f64).forward(), Context{}).back().chosen);
}

TEST_F(Registry, ForcedByContextOverEnvironment) {
  setenv("SACCADE_KERNEL", "cpu.base.attention", 1);
  const auto chosen = [](const Context& c) {
    for (const Candidate& k : explain(small(DType::f32).forward(), c))
      if (k.chosen) return k.name;
    return std::string();
  };
  EXPECT_EQ(chosen(Context{}), "cpu.base.attention");
  EXPECT_EQ(chosen(reference()), "cpu.reference.attention");
  setenv("SACCADE_KERNEL", "", 1);
  EXPECT_NE(chosen(Context{}), "");
}

TEST_F(Registry, UnknownNameListsTheNames) {
  Context c;
  c.kernel = "cpu.fast.attention";
  const Attention a = small(DType::f32);
  for (const std::string& text : {error_of([&] { a.run_forward(c); }), error_of([&] { a.run_backward(c); }),
                                  error_of([&] { explain(a.forward(), c); })}) {
    EXPECT_HAS(text, "kernel: got \"cpu.fast.attention\", wanted one of ");
    EXPECT_HAS(text, "cpu.base.attention, cpu.reference.attention");
  }
}

TEST_F(Registry, ForcedButUnsupportedPrintsProblemAndReasons) {
  setenv("SACCADE_KERNEL", "cpu.base.attention", 1);
  Attention a = small(DType::f64);
  a.visit.causal = true;
  const std::string text = error_of([&] { a.run_forward(Context{}); });
  EXPECT_HAS(text, "attention: kernel: got \"cpu.base.attention\" forced, which cannot run this problem");
  EXPECT_HAS(text, "query (1, 4, 3, 8) float64 on cpu, key (1, 2, 5, 8) float64");
  EXPECT_HAS(text, "causal");
  for (const KernelInfo& k : list_kernels()) {
    if (k.op == "attention") EXPECT_HAS(text, "\n  " + k.name + ": ");
  }
  EXPECT_HAS(text, "cpu.reference.attention: can run");
  for (const Candidate& c : explain(a.forward(), Context{})) EXPECT_FALSE(c.chosen);
}

TEST_F(Registry, CudaTensorsHaveNoKernelHere) {
  AttentionForward p = small(DType::f32).forward();
  for (TensorView* t : {&p.query, &p.key, &p.value, &p.out, &p.lse}) t->device = DeviceType::cuda;
  const std::string text = error_of([&] { workspace_bytes(p, Context{}); });
  EXPECT_HAS(text, "cpu.reference.attention: runs on cpu tensors, got cuda:0");
}

TEST_F(Registry, WorkspaceAndThreadsAreChecked) {
  const Attention a = small(DType::f32);
  const AttentionForward p = a.forward();
  const Context c = reference();
  ASSERT_GT(workspace_bytes(p, c), 0);
  EXPECT_HAS(error_of([&] { attention_forward(p, c, nullptr); }), "attention: workspace: got null, wanted ");
  Workspace w(workspace_bytes(p, c) + 64);
  EXPECT_HAS(error_of([&] { attention_forward(p, c, static_cast<char*>(w.data()) + 8); }), "got an unaligned pointer");
  Context none;
  none.threads = 0;
  EXPECT_HAS(error_of([&] { workspace_bytes(p, none); }), "attention: threads: got 0, wanted at least 1");
}

TEST(Version, HasThreeNumbers) {
  int major = -1, minor = -1, patch = -1;
  EXPECT_EQ(std::sscanf(version(), "%d.%d.%d", &major, &minor, &patch), 3) << version();
}

}  // namespace
}  // namespace saccade::test
