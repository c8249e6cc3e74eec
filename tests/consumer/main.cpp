#include <cstdio>
#include <vector>

#include "saccade/attention.h"
#include "saccade/error.h"

int main() {  // one query of zeros against two keys: out is the mean of the values 1 and 3, lse = ln 2
  float query[4] = {}, key[8] = {}, value[2] = {1, 3}, out = 0, lse = 0;
  auto view = [](float* data, int64_t n, int64_t d) {
    return saccade::contiguous_view(data, saccade::DType::f32, 4, std::vector<int64_t>{1, 1, n, d}.data());
  };
  saccade::AttentionForward problem;
  problem.query = view(query, 1, 4), problem.key = view(key, 2, 4), problem.value = view(value, 2, 1),
  problem.out = view(&out, 1, 1);
  problem.lse = saccade::contiguous_view(&lse, saccade::DType::f32, 3, std::vector<int64_t>{1, 1, 1}.data());
  saccade::Context context = saccade::pool_context(2);
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<Line> workspace(saccade::workspace_bytes(problem, context) / 64 + 1);
  saccade::attention_forward(problem, context, workspace.data());
  std::printf("saccade %s out %.4f lse %.4f\n", saccade::version(), out, lse);
  try {
    context.kernel = "no.such.kernel";
    saccade::attention_forward(problem, context, workspace.data());
  } catch (const saccade::Error& error) {  // the exception crosses the library's border with its type
    std::printf("error: %s\n", error.what());
    return 0;
  }
  return 1;
}
