#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cpu/parallel.h"

namespace saccade {
namespace {

/// How often each of n bodies ran.
std::vector<int> counts(const Context& context, int64_t n) {
  std::vector<int> ran(static_cast<size_t>(n));
  parallel_for(context, n, [&](int64_t i) { ++ran[static_cast<size_t>(i)]; });
  return ran;
}

TEST(Parallel, EveryIndexOnce) {
  for (int threads : {1, 2, 4})
    for (int64_t n : {0, 1, 2, 3, 1000})
      EXPECT_EQ(counts(pool_context(threads), n), std::vector<int>(static_cast<size_t>(n), 1));
  EXPECT_EQ(counts(Context{}, 10), std::vector<int>(10, 1));
}

TEST(Parallel, DefaultIsTheHardware) {
  EXPECT_EQ(pool_context().threads, std::max(1u, std::thread::hardware_concurrency()));
  EXPECT_EQ(pool_context(3).threads, 3);
}

TEST(Parallel, BodiesRunAtOnce) {
  std::atomic<int> arrived{0};
  parallel_for(pool_context(3), 3, [&](int64_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();  // never returns unless three threads are here together
  });
  EXPECT_EQ(arrived, 3);
}

TEST(Parallel, NestedCallsRunInPlace) {
  const Context c = pool_context(4);
  std::atomic<int> total{0};
  parallel_for(c, 8, [&](int64_t) {
    const std::thread::id here = std::this_thread::get_id();
    parallel_for(c, 16, [&](int64_t) { total += here == std::this_thread::get_id(); });
  });
  EXPECT_EQ(total, 8 * 16);
}

TEST(Parallel, ConcurrentCallers) {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) wrong += counts(pool_context(3), 37) != std::vector<int>(37, 1);
    });
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Parallel, ExceptionReachesTheCallerAndThePoolGoesOn) {
  const Context c = pool_context(4);
  for (int round = 0; round < 20; ++round)
    EXPECT_THROW(parallel_for(c, 100,
                              [](int64_t i) {
                                if (i % 10 == 3) throw std::runtime_error("body");
                              }),
                 std::runtime_error);
  EXPECT_EQ(counts(c, 100), std::vector<int>(100, 1));
}

#ifndef __SANITIZE_THREAD__  // which refuses threads after a fork
TEST(Parallel, ForkedChildHasAPoolOfItsOwn) {
  const Context c = pool_context(3);
  counts(c, 10);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::atomic<int> arrived{0};
    alarm(20);
    parallel_for(c, 3, [&](int64_t) {
      ++arrived;
      while (arrived < 3) std::this_thread::yield();
    });
    _exit(arrived == 3 ? 0 : 1);
  }
  int status = 1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}
#endif

}  // namespace
}  // namespace saccade
