#include "data/synthetic.h"

#include <algorithm>
#include <cmath>

#include "data/texture.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

const SyntheticOptions kSmall = {.width = 64, .height = 48, .seed = 3};

double foreground(const Image& mask) {
  return static_cast<double>(std::count(mask.pixels.begin(), mask.pixels.end(), 255)) /
         static_cast<double>(mask.pixels.size());
}

TEST(SyntheticSample, IsAFunctionOfSeedAndIndex) {
  const LoadedSample first = make_synthetic_sample(kSmall, 5);
  EXPECT_EQ(first.image, make_synthetic_sample(kSmall, 5).image);
  EXPECT_NE(first.image, make_synthetic_sample(kSmall, 6).image);
  SyntheticOptions other = kSmall;
  other.seed = 4;
  EXPECT_NE(first.mask, make_synthetic_sample(other, 5).mask);
}

TEST(SyntheticSample, ObjectsAreVisibleAndNeverFillThePicture) {
  double mean = 0;
  for (int64_t i = 0; i < 40; ++i) {
    const LoadedSample sample = make_synthetic_sample(kSmall, i);
    ASSERT_EQ(sample.image.channels, 3);
    ASSERT_EQ(sample.mask.width, 64);
    for (uint8_t value : sample.mask.pixels) ASSERT_TRUE(value == 0 || value == 255);
    EXPECT_GT(foreground(sample.mask), 0.02);
    EXPECT_LT(foreground(sample.mask), 0.65);
    mean += foreground(sample.mask) / 40;
  }
  EXPECT_GT(mean, 0.08);
  EXPECT_LT(mean, 0.35);
}

// Camouflage: object and surroundings differ little in colour on average.
TEST(SyntheticSample, ObjectsCarryTheColoursOfTheirScene) {
  double difference = 0;
  for (int64_t i = 0; i < 40; ++i) {
    const LoadedSample sample = make_synthetic_sample(kSmall, i);
    double sum[2] = {0, 0}, count[2] = {0, 0};
    for (size_t p = 0; p < sample.mask.pixels.size(); ++p) {
      const size_t side = sample.mask.pixels[p] > 128;
      sum[side] += sample.image.pixels[3 * p + 1];
      ++count[side];
    }
    difference += std::abs(sum[0] / count[0] - sum[1] / count[1]) / 40;
  }
  EXPECT_LT(difference, 25);
}

TEST(SyntheticSample, SizeDoesNotChangeTheScene) {
  SyntheticOptions large = kSmall;
  large.width *= 2;
  large.height *= 2;
  EXPECT_NEAR(foreground(make_synthetic_sample(kSmall, 1).mask), foreground(make_synthetic_sample(large, 1).mask),
              0.01);
}

TEST(SyntheticSample, RefusesSizesOutOfRange) {
  EXPECT_ERROR(make_synthetic_sample({.width = 4, .height = 64}, 0), "must be within 8 and 8192; got 4 x 64");
}

TEST(TextureKinds, AllAreDrawn) {
  std::vector<int> seen(kTextureKinds);
  for (uint64_t i = 0; i < 60; ++i) {
    Draws draws({1, i});
    const Texture texture(draws);
    ++seen[static_cast<size_t>(texture.kind())];
    for (float channel : texture.at(-3.5f, 2.25f)) EXPECT_TRUE(channel >= 0 && channel <= 1.2f);
  }
  for (int count : seen) EXPECT_GT(count, 3);
}

TEST(SyntheticDataset, WritesPairsThatAreFound) {
  const test::TemporaryFolder root;
  for (bool jpeg : {false, true}) {
    SyntheticDatasetOptions options{root.path() / (jpeg ? "a" : "b"), 3, 2, jpeg, kSmall};
    std::vector<int64_t> seen;
    write_synthetic_dataset(options, [&](int64_t done, int64_t all) {
      EXPECT_EQ(all, 5);
      seen.push_back(done);
    });
    EXPECT_EQ(seen, (std::vector<int64_t>{1, 2, 3, 4, 5}));
    const Dataset train = find_dataset(options.folder.string(), Split::train);
    const Dataset test = find_dataset(options.folder.string(), Split::test);
    ASSERT_EQ(train.samples.size(), 3u);
    ASSERT_EQ(test.samples.size(), 2u);
    EXPECT_EQ(train.samples[0].name, "00001");
    EXPECT_EQ(load_sample(train.samples[1]).mask, make_synthetic_sample(kSmall, 1).mask);
    EXPECT_NE(load_sample(test.samples[0]).mask, load_sample(train.samples[0]).mask);
    EXPECT_ERROR(write_synthetic_dataset(options), "Train: is there already; remove it, or give another folder");
  }
  EXPECT_ERROR(write_synthetic_dataset({root.path() / "c", -1, 2}),
               "counts must be within 0 and 4294967295; got -1 and 2");
}

}  // namespace
}  // namespace camo
