#include "core/parallel.h"

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/support/test_support.h"

namespace camo {
namespace {

/// Restores the number of threads.
class Parallel : public ::testing::Test {
 protected:
  ~Parallel() override { set_num_threads(threads_); }

 private:
  int threads_ = num_threads();
};

TEST_F(Parallel, CoversTheRangeOnce) {
  for (int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    for (int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<int> hits(static_cast<size_t>(n), 0);
      parallel_for(n, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (int hit : hits) ASSERT_EQ(hit, 1) << n << " elements on " << threads << " threads";
    }
  }
}

TEST_F(Parallel, SmallRangesStayOnTheCaller) {
  set_num_threads(4);
  const auto caller = std::this_thread::get_id();
  int calls = 0;
  parallel_for(100, 100, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(end - begin, 100);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

TEST_F(Parallel, NestedLoopsRunOnTheirThread) {
  set_num_threads(4);
  std::atomic<int> sum{0};
  parallel_for(4, 1, [&](int64_t begin, int64_t end) {
    const auto outer = std::this_thread::get_id();
    for (int64_t i = begin; i < end; ++i) {
      parallel_for(10, 1, [&](int64_t b, int64_t e) {
        EXPECT_EQ(std::this_thread::get_id(), outer);
        sum += static_cast<int>(e - b);
      });
    }
  });
  EXPECT_EQ(sum, 40);
}

TEST_F(Parallel, BlocksDoNotDependOnTheThreads) {
  const std::vector<float> values(10007, 0.1f);
  std::vector<float> results;
  for (int threads : {1, 2, 5}) {
    set_num_threads(threads);
    std::vector<float> partial(11, 0.0f);
    parallel_blocks(10007, 1000, [&](int64_t index, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) partial[static_cast<size_t>(index)] += values[static_cast<size_t>(i)];
    });
    results.push_back(std::accumulate(partial.begin(), partial.end(), 0.0f));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_F(Parallel, RethrowsTheFirstException) {
  set_num_threads(3);
  EXPECT_ERROR(
      parallel_for(3, 1, [](int64_t begin, int64_t) { CAMO_CHECK(begin != 1, "loop: body ", begin, " failed"); }),
      "body 1 failed");
}

TEST_F(Parallel, NeedsAThread) { EXPECT_ERROR(set_num_threads(0), "at least 1; got 0"); }

}  // namespace
}  // namespace camo
