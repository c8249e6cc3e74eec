#include "test.h"

// Compiled for sm_80 and sm_90a: the device decides which PTX runs.
namespace {

__device__ int architecture_of_module;
__global__ void architecture(int* out) {
#ifdef __CUDA_ARCH__
  *out = __CUDA_ARCH__;
  architecture_of_module = __CUDA_ARCH__;
#endif
}

int run() {
  test::Buffer<int> out(std::vector<int>(1));
  architecture<<<1, 1>>>(out.data());
  EXPECT_TRUE(test::ok());
  int symbol = 0;
  EXPECT_EQ(cudaMemcpyFromSymbol(&symbol, architecture_of_module, 4), cudaSuccess);
  EXPECT_EQ(symbol, out.read()[0]);
  return symbol;
}

TEST(Architecture, TheBestThatRuns) {
  cudaDeviceProp p;
  ASSERT_CUDA(cudaGetDeviceProperties(&p, 0));
  EXPECT_EQ(run(), p.major == 9 ? 900 : 800);
}

#if SACCADE_EMULATED
TEST(Architecture, FollowsTheVirtualDevice) {
  for (const auto& [option, arch] :
       {std::pair{"arch=sm_80", 800}, {"arch=sm_86", 800}, {"arch=sm_90", 800}, {"arch=sm_90a", 900}}) {
    const test::Options options(option);
    EXPECT_EQ(run(), arch) << option;
  }
}
#endif

}  // namespace
