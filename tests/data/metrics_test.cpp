#include "data/metrics.h"

#include <limits>
#include <vector>

#include "tests/support/test_support.h"

namespace camo {
namespace {

TEST(ScorePrediction, IouAndMaeAtTheMasksSize) {
  Image mask(2, 2, 1);
  mask.pixels = {255, 255, 128, 0};  // 128 is background
  const std::vector<float> probabilities = {0.9f, 0.5f, 0.75f, 0.f};
  const SegmentationScore score = score_prediction(probabilities.data(), 2, 2, mask);
  EXPECT_DOUBLE_EQ(score.iou, 1. / 3);
  EXPECT_NEAR(score.mae, (0.1 + 0.5 + 0.75 + 0) / 4, 1e-7);
}

TEST(ScorePrediction, ResizesToTheMask) {
  Image mask(4, 1, 1);
  mask.pixels = {0, 0, 255, 255};
  const std::vector<float> probabilities = {0, 1};  // -> 0, 0.25, 0.75, 1
  const SegmentationScore score = score_prediction(probabilities.data(), 2, 1, mask);
  EXPECT_DOUBLE_EQ(score.iou, 1);
  EXPECT_DOUBLE_EQ(score.mae, 0.125);
}

TEST(ScorePrediction, NothingThereAndNothingFoundIsRight) {
  const std::vector<float> nothing(4), something = {0, 0, 1, 0};
  EXPECT_DOUBLE_EQ(score_prediction(nothing.data(), 2, 2, Image(2, 2, 1)).iou, 1);
  EXPECT_DOUBLE_EQ(score_prediction(something.data(), 2, 2, Image(2, 2, 1)).iou, 0);
}

TEST(ScorePrediction, RefusesWhatIsNoPrediction) {
  const std::vector<float> probabilities = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_ERROR(score_prediction(probabilities.data(), 2, 1, Image(2, 1, 1)), "the prediction is not finite at pixel 1");
  EXPECT_ERROR(score_prediction(probabilities.data(), 2, 1, Image(2, 1, 3)), "a grey mask is wanted; got 2 x 1 x 3");
}

TEST(ScoreAccumulator, AveragesOverPictures) {
  ScoreAccumulator scores;
  EXPECT_ERROR(scores.mean(), "a mean needs at least one picture");
  scores.add({1, 0.5});
  scores.add({0.5, 0});
  EXPECT_EQ(scores.count(), 2);
  EXPECT_DOUBLE_EQ(scores.mean().iou, 0.75);
  EXPECT_DOUBLE_EQ(scores.mean().mae, 0.25);
}

}  // namespace
}  // namespace camo
