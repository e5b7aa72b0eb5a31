// A tiny data set, tiny runs on it, and comparisons of what they leave.
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <string>

#include "apps/camoxpert/training/trainer.h"
#include "tests/support/test_support.h"

namespace camo::app::test {

using namespace camo::test;  // NOLINT: the helpers of all tests

std::string read_text(const std::filesystem::path& path);

class TinyRun : public ::testing::Test {
 protected:
  static void SetUpTestSuite();
  static void TearDownTestSuite();

  static std::filesystem::path path(const std::string& name);
  /// 12 pictures of 32 px; 2 epochs of 3 steps of 2 batches of 2 pictures, the first with a frozen backbone. Dropout
  /// and averages are on: all state that there is.
  static TrainOptions options(const std::string& run);

  struct Result {
    bool complete = false;  // false: stopped as if by a signal
    std::string output;
  };
  /// Trains to the end, or until `stop` steps are done. `prepare` sees the trainer first.
  static Result train(const TrainOptions& options, int64_t stop = -1,
                      const std::function<void(Trainer&)>& prepare = {});
  static CheckpointContents last(const std::string& run);
  /// Tensors and run state (but for times and settings) have the same bits.
  static void expect_same(const CheckpointContents& a, const CheckpointContents& b);
  static bool all_finite(const CheckpointContents& contents);
};

}  // namespace camo::app::test
