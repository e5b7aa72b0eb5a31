#include "data/transforms.h"

#include <map>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

TEST(DrawAugmentation, IsAFunctionOfSeedEpochAndIndex) {
  EXPECT_EQ(draw_augmentation(1, 2, 3), draw_augmentation(1, 2, 3));
  int differing = 0;
  for (int64_t i = 0; i < 100; ++i) {
    differing += draw_augmentation(1, 0, i) != draw_augmentation(1, 1, i);
    differing += draw_augmentation(1, 0, i) != draw_augmentation(2, 0, i);
    differing += draw_augmentation(1, 0, i) != draw_augmentation(1, int64_t{1} << 33, i);
    differing += draw_augmentation(1, 0, i) != draw_augmentation(1, 0, i + (int64_t{1} << 33));
  }
  EXPECT_GT(differing, 245);  // 0.69 of 400 when independent: 276 with a deviation of 9
}

TEST(DrawAugmentation, HasTheAskedProbabilities) {
  constexpr int kDraws = 20000;
  int flips = 0, both = 0;
  std::map<int, int> turns;
  for (int64_t i = 0; i < kDraws; ++i) {
    const Augmentation drawn = draw_augmentation(7, i % 10, i);
    flips += drawn.flip;
    both += drawn.flip && drawn.quarter_turns != 0;
    ++turns[drawn.quarter_turns];
  }
  EXPECT_NEAR(flips, kDraws * 0.5, 300);
  EXPECT_NEAR(turns[0], kDraws * 0.775, 300);  // not turned, or turned by a multiple of four quarters
  for (int k = 1; k <= 3; ++k) EXPECT_NEAR(turns[k], kDraws * 0.075, 200);
  EXPECT_NEAR(both, kDraws * 0.5 * 0.225, 250) << "independent of each other";
  EXPECT_EQ(draw_augmentation(7, 0, 0, {0, 0}), Augmentation{});
}

// A sample whose red channel and mask number the pixels 0..8 of 3 x 3.
ResizedSample numbered() {
  ResizedSample sample{Image(3, 3, 3), Image(3, 3, 1)};
  for (size_t i = 0; i < 9; ++i) {
    sample.image.pixels[3 * i] = static_cast<uint8_t>(i);
    sample.mask.pixels[i] = static_cast<uint8_t>(i);
  }
  return sample;
}

TEST(WriteSample, FlipThenTurnCounterClockwise) {
  const std::vector<std::vector<float>> expected = {{0, 1, 2, 3, 4, 5, 6, 7, 8}, {2, 5, 8, 1, 4, 7, 0, 3, 6},
                                                    {8, 7, 6, 5, 4, 3, 2, 1, 0}, {6, 3, 0, 7, 4, 1, 8, 5, 2},
                                                    {2, 1, 0, 5, 4, 3, 8, 7, 6}, {0, 3, 6, 1, 4, 7, 2, 5, 8},
                                                    {6, 7, 8, 3, 4, 5, 0, 1, 2}, {8, 5, 2, 7, 4, 1, 6, 3, 0}};
  for (int i = 0; i < 8; ++i) {
    std::vector<float> image(27), mask(9);
    write_sample(numbered(), {i >= 4, i % 4}, image.data(), mask.data());
    EXPECT_EQ(mask, expected[static_cast<size_t>(i)]) << i;
    for (size_t p = 0; p < 9; ++p) EXPECT_NEAR(image[3 * p], (mask[p] / 255 - 0.485f) / 0.229f, 1e-6);
  }
}

TEST(WriteSample, OnePixel) {
  const ResizedSample sample{Image(1, 1, 3, 255), Image(1, 1, 1, 1)};
  std::vector<float> image(3), mask(1);
  for (int turns = 0; turns < 4; ++turns) {
    write_sample(sample, {true, turns}, image.data(), mask.data());
    EXPECT_FLOAT_EQ(image[0], (1 - 0.485f) / 0.229f);
    EXPECT_EQ(mask[0], 1);
  }
}

TEST(ResizeSample, MaskIsResizedThenCutAbove128) {
  LoadedSample loaded{Image(4, 1, 3, 50), Image(4, 1, 1)};
  loaded.mask.pixels = {200, 100, 100, 100};
  const ResizedSample same = resize_sample({Image(4, 4, 3), Image(4, 4, 1, 129)}, 4);
  EXPECT_EQ(same.mask, Image(4, 4, 1, 1));
  const ResizedSample halved = resize_sample(loaded, 2);  // averages 150 and 100
  EXPECT_EQ(halved.mask.pixels, (std::vector<uint8_t>{1, 0, 1, 0}));
  EXPECT_EQ(halved.bytes(), 2 * 2 * 4);
}

}  // namespace
}  // namespace camo
