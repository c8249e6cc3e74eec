#undef NDEBUG  // of the build: assert is what is tested
#include <cassert>
#include <cstdio>

#include "test.h"

// The functions that a device brings: printf and assert.
namespace {

__global__ void say(int n, const char* name) {
  printf("%s %d: %5.2f|%-4d|%llx %c%%\n", name, threadIdx.x, 1.5 * n, n, 0x123456789abull, 'x');
  assert(n < 5);
}

#if SACCADE_EMULATED
TEST(System, Printf) {
  const char name[] = "lane";
  test::Buffer<char> device(std::vector<char>(name, name + sizeof name));
  testing::internal::CaptureStdout();
  say<<<1, 2>>>(3, device);
  ASSERT_TRUE(test::ok());
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            "lane 0:  4.50|3   |123456789ab x%\nlane 1:  4.50|3   |123456789ab x%\n");
}

TEST(System, Assert) {
  const char name[] = "lane";
  test::Buffer<char> device(std::vector<char>(name, name + sizeof name));
  testing::internal::CaptureStdout();
  say<<<1, 1>>>(5, device);
  EXPECT_TRUE(test::found({"assertion failed: n < 5", "test_system.cu:12"}));
  testing::internal::GetCapturedStdout();
}
#endif

}  // namespace
