#include "data/metrics.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/nearest_pixel.h"
#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

namespace fs = std::filesystem;

/// The recorded scores of PySODMetrics: the file's keys decide which are compared.
void expect_scores(const SegmentationScores& scores, const nlohmann::json& expected, const std::string& what) {
  for (const ScoreField& field : kScoreFields) {
    if (!expected.contains(field.name)) continue;
    EXPECT_NEAR(scores.*field.value, expected.at(field.name).get<double>(),
                std::string(field.name) == "wfm" ? 1e-12 : 5e-14)
        << what << " " << field.name;
  }
}

void expect_recorded_scores(const fs::path& folder) {
  const auto expected = nlohmann::json::parse(std::ifstream(folder / "expected.json"));
  ScoreAccumulator scores;
  for (const nlohmann::json& row : expected.at("per_image")) {
    const auto name = row.at("name").get<std::string>();
    const PictureScore score =
        score_prediction(decode_image(folder / "pred" / name, 1), decode_image(folder / "gt" / name, 1));
    expect_scores(score.scores, row, name);
    scores.add(score);
  }
  EXPECT_GT(scores.count(), 0);
  expect_scores(scores.mean().scores, expected.at("dataset"), "data set");
}

TEST(ScorePrediction, AgreesWithPySodMetrics) {
  expect_recorded_scores(fs::path(CAMO_SOURCE_DIR) / "tests/golden/metrics");
}

TEST(ScorePrediction, AgreesWithMoreRecordedScores) {
  int found = 0;
  for (const char* name : {"metrics", "metrics_pysod"}) {
    const fs::path expected = test::golden_file(std::string(name) + "/expected.json");
    if (!fs::exists(expected)) continue;
    SCOPED_TRACE(name);
    expect_recorded_scores(expected.parent_path());
    ++found;
  }
  EXPECT_GT(found, 0);
}

TEST(ScorePrediction, CountsOfACutPrediction) {
  Image mask(4, 2, 1), prediction(4, 2, 1);
  mask.pixels = {255, 255, 128, 0, 129, 0, 0, 0};  // 128 is background
  prediction.pixels = {255, 127, 200, 0, 128, 0, 0, 0};
  const PictureScore whole = score_prediction(prediction, mask);
  const SegmentationScores& scores = whole.scores;
  EXPECT_DOUBLE_EQ(scores.precision, 2. / 3);
  EXPECT_DOUBLE_EQ(scores.recall, 2. / 3);
  EXPECT_DOUBLE_EQ(scores.iou, 2. / 4);
  EXPECT_DOUBLE_EQ(scores.dice, 4. / 6);
  EXPECT_DOUBLE_EQ(scores.specificity, 4. / 5);
  EXPECT_DOUBLE_EQ(scores.accuracy, 6. / 8);
  EXPECT_DOUBLE_EQ(scores.mae, (128 + 200 + 127) / 255. / 8);
  const ScoreCurves& curves = whole.curves;
  EXPECT_DOUBLE_EQ(curves.precision[0], 3. / 8);
  EXPECT_DOUBLE_EQ(curves.recall[0], 1);
  EXPECT_DOUBLE_EQ(curves.precision[128], 2. / 3);
  EXPECT_DOUBLE_EQ(curves.recall[128], 2. / 3);
  EXPECT_DOUBLE_EQ(curves.precision[255], 1);
  EXPECT_DOUBLE_EQ(curves.recall[255], 1. / 3);
  EXPECT_DOUBLE_EQ(curves.f[255], 1.3 / 3 / (0.3 + 1. / 3));
}

// A centre of mass in the last row leaves nothing below it; PySODMetrics returns NaN.
TEST(ScorePrediction, EmptyQuartersCountNothing) {
  Image mask(6, 4, 1), prediction = test::gradient_image(6, 4, 1);
  mask.pixels[3 * 6 + 2] = 255;
  const double score = score_prediction(prediction, mask).scores.sm;
  EXPECT_GT(score, 0);
  EXPECT_LT(score, 1);
  EXPECT_DOUBLE_EQ(score_prediction(mask, mask).scores.wfm, 1);
}

TEST(ScorePrediction, RefusesWhatIsNoPair) {
  EXPECT_ERROR(score_prediction(Image(2, 1, 1), Image(2, 1, 3)),
               "prediction and mask must be grey and hold a pixel; got 2 x 1 x 1 and 2 x 1 x 3");
  EXPECT_ERROR(score_prediction(Image(2, 1, 3), Image(2, 1, 1)), "got 2 x 1 x 3 and 2 x 1 x 1");
  EXPECT_ERROR(score_prediction(Image(), Image(2, 1, 1)), "got 0 x 0 x 0 and 2 x 1 x 1");
}

// Maxima of the mean curves, not means of the maxima.
TEST(ScoreAccumulator, AveragesCurvesOverPictures) {
  ScoreAccumulator scores;
  EXPECT_ERROR(scores.mean(), "a mean needs at least one picture");
  PictureScore a, b;
  a.scores.iou = 1, b.scores.iou = 0.5;
  a.scores.max_fm = a.curves.f[10] = 1;
  b.scores.max_fm = b.curves.f[11] = 0.5;
  scores.add(a);
  scores.add(b);
  EXPECT_EQ(scores.count(), 2);
  const PictureScore mean = scores.mean();
  EXPECT_DOUBLE_EQ(mean.scores.iou, 0.75);
  EXPECT_DOUBLE_EQ(mean.scores.max_fm, 0.5);
  EXPECT_DOUBLE_EQ(mean.curves.f[11], 0.25);
}

TEST(NearestMarked, AgreesWithASearchOfAllPixels) {
  uint32_t state = 7;
  for (int round = 0; round < 40; ++round) {
    const int width = 1 + round * 7 % 23, height = 1 + round * 5 % 17, rarity = 2 + round * 11 % 90;
    std::vector<uint8_t> marked(static_cast<size_t>(width) * static_cast<size_t>(height));
    for (uint8_t& mark : marked)
      mark = ((state = state * 1664525 + 1013904223) >> 16) % static_cast<uint32_t>(rarity) == 0;
    marked[marked.size() / 2] = 1;
    const NearestPixels nearest = nearest_marked(marked, width, height);
    for (int i = 0; i < width * height; ++i) {
      int64_t best = INT64_MAX;
      int wanted = 0;
      for (int x = 0; x < width; ++x) {
        for (int y = 0; y < height; ++y) {
          const int64_t dx = x - i % width, dy = y - i / width, distance = dx * dx + dy * dy;
          if (!marked[static_cast<size_t>(y * width + x)] || distance >= best) continue;
          best = distance, wanted = y * width + x;
        }
      }
      ASSERT_EQ(nearest.squared_distance[static_cast<size_t>(i)], best) << width << " x " << height << " at " << i;
      ASSERT_EQ(nearest.index[static_cast<size_t>(i)], wanted) << width << " x " << height << " at " << i;
    }
  }
}

TEST(NearestMarked, RefusesAnEmptyMap) {
  EXPECT_ERROR(nearest_marked(std::vector<uint8_t>(6), 3, 2), "at least one set is needed; got 6 flags for 3 x 2");
  EXPECT_ERROR(nearest_marked({1}, 3, 2), "got 1 flags for 3 x 2");
}

}  // namespace
}  // namespace camo
