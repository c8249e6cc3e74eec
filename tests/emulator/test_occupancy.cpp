#include <cuda_occupancy.h>
#include <gtest/gtest.h>

#include "cudart.h"

// Against NVIDIA's own calculator, which the toolkit brings as a header.
namespace {

TEST(Occupancy, IsThatOfTheCalculator) {
  for (const char* arch : {"arch=sm_80", "arch=sm_86", "arch=sm_89", "arch=sm_90a"}) {
    emu::set_options(arch);
    cudaDeviceProp p;
    ASSERT_EQ(cudaGetDeviceProperties(&p, 0), cudaSuccess);
    const cudaOccDeviceProp properties(p);
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    int compared = 0;
    for (int threads : {1, 32, 96, 128, 160, 256, 384, 512, 1000, 1024}) {
      for (int shared : {0, 100, 1024, 16 * 1024, 33 * 1000, 48 * 1024, 70000, 99 * 1024, 113 * 1024, 163 * 1024}) {
        for (int registers : {8, 24, 32, 33, 64, 80, 96, 128, 168, 200, 255}) {
          if (shared > emu::limits().shared_cta) continue;
          cudaOccFuncAttributes attributes;
          attributes.maxThreadsPerBlock = 1024;
          attributes.numRegs = registers;
          attributes.sharedSizeBytes = 0;
          attributes.partitionedGCConfig = PARTITIONED_GC_OFF;
          attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
          attributes.maxDynamicSharedSizeBytes = shared;
          attributes.numBlockBarriers = 1;
          cudaOccResult result;
          ASSERT_EQ(cudaOccMaxActiveBlocksPerMultiprocessor(&result, &properties, &attributes, &state, threads, shared),
                    CUDA_OCC_SUCCESS);
          ASSERT_EQ(emu::occupancy(threads, shared, registers), result.activeBlocksPerMultiprocessor)
              << arch << ", " << threads << " threads, " << shared << " bytes, " << registers << " registers";
          ++compared;
        }
      }
    }
    EXPECT_GT(compared, 700);
  }
  emu::set_options("arch=sm_90a");
}

}  // namespace
