#include <array>

#include "test.h"

// The stand-in for the CUDA runtime: launches, memory, symbols, streams, graphs, attributes.
namespace {

__device__ int counter = 5;
__device__ int table[4];
__constant__ int constants[4] = {1, 2, 3, 4};

__global__ void add(int* out, const int* in, int n, int more) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = in[i] + more;
}

TEST(Runtime, LaunchSyntax) {
  std::vector<int> in(1000);
  for (int i = 0; i < 1000; ++i) in[i] = i * i;
  test::Buffer<int> from(in), to(1000);
  add<<<8, 128>>>(to, from, 1000, 7);
  ASSERT_TRUE(test::ok());
  const auto out = to.read();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(out[i], i * i + 7) << i;
}

}  // namespace
