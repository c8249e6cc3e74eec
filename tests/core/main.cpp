#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "saccade/error.h"
#include "saccade/kernels.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (const char* forced = std::getenv("SACCADE_CPU_ISA")) {
    try {
      saccade::cpu_isa();
    } catch (const saccade::Error& error) {
      std::printf("skipped: SACCADE_CPU_ISA=%s: %s\n", forced, error.what());
      return 77;
    }
  }
  return RUN_ALL_TESTS();
}
