#include "data/strong_augmentation.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <string>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

constexpr double kPi = std::numbers::pi;

StrongAugmentationOptions with_probability(double p) {
  StrongAugmentationOptions o;
  for (double* probability : {&o.flip_probability, &o.vertical_flip_probability, &o.rotation_probability,
                              &o.warp_probability, &o.jitter_probability, &o.light_probability, &o.blur_probability,
                              &o.noise_probability, &o.holes_probability, &o.mix_probability})
    *probability = p;
  return o;
}

// Everything happens, with no strength.
StrongAugmentationOptions without_strength() {
  StrongAugmentationOptions o = with_probability(1);
  o.flip_probability = o.vertical_flip_probability = o.rotation_probability = 0;
  for (double* range :
       {&o.largest_shift, &o.scale_range, &o.largest_angle, &o.brightness_range, &o.contrast_range, &o.saturation_range,
        &o.largest_hue, &o.light_contrast_range, &o.largest_light_offset, &o.gamma_range, &o.least_noise_variance,
        &o.largest_noise_variance, &o.smallest_hole, &o.largest_hole})
    *range = 0;
  o.largest_blur = 1;
  return o;
}

bool same(const ResizedSample& a, const ResizedSample& b) { return a.image == b.image && a.mask == b.mask; }

TEST(StrongAugmentation, WithoutProbabilityOrStrengthChangesNoBit) {
  for (const StrongAugmentationOptions& options : {with_probability(0), without_strength()}) {
    for (int64_t i = 0; i < 20; ++i) {
      const ResizedSample sample = test::random_sample(20 + static_cast<int>(i), 1);
      EXPECT_TRUE(same(augment(sample, draw_strong_augmentation(1, 2, i, options)), sample));
    }
  }
  EXPECT_EQ(draw_strong_augmentation(1, 2, 3, with_probability(0)).mix_weight, kWholeMix);
}

TEST(StrongAugmentation, IsAFunctionOfSeedEpochAndIndex) {
  const ResizedSample sample = test::random_sample(32, 2);
  const auto changed = [&](uint64_t seed, int64_t epoch, int64_t index) {
    const std::vector<uint8_t> pixels = augment(sample, draw_strong_augmentation(seed, epoch, index)).image.pixels;
    return std::string(pixels.begin(), pixels.end());
  };
  std::set<std::string> seen;
  for (int64_t i = 0; i < 30; ++i) {
    EXPECT_EQ(changed(1, 2, i), changed(1, 2, i));
    seen.insert(changed(1, 2, i));
    seen.insert(changed(2, 2, i));
    seen.insert(changed(1, 3, i));
  }
  EXPECT_GT(seen.size(), 85u);
}

TEST(StrongAugmentation, TopToBottomIsAcrossAndHalfATurn) {
  StrongAugmentationOptions options = with_probability(0);
  options.vertical_flip_probability = 1;
  const ResizedSample sample = test::random_sample(9, 8);
  const Image mirrored = augment(sample, draw_strong_augmentation(1, 0, 0, options)).image;
  for (int y = 0; y < 9; ++y) EXPECT_TRUE(std::equal(mirrored.row(y), mirrored.row(y) + 27, sample.image.row(8 - y)));
  options.flip_probability = 1;  // both are half a turn
  EXPECT_EQ(draw_strong_augmentation(1, 0, 0, options).turned, (Augmentation{false, 2}));
}

// Its numbers are not those that the changes are drawn with: no byte of the noise goes with the flip.
TEST(StrongAugmentation, NoiseIsIndependentOfTheDraws) {
  constexpr int kDraws = 400, kBytes = 1024;
  StrongAugmentationOptions options = with_probability(0);
  options.flip_probability = 0.5;
  std::vector<int> together(kBytes);
  for (int64_t i = 0; i < kDraws; ++i) {
    const StrongAugmentation drawn = draw_strong_augmentation(1, 2, i, options);
    Image image(kBytes, 1, 1, 128);
    add_noise(image, 64, drawn.noise);
    for (size_t k = 0; k < kBytes; ++k) together[k] += drawn.turned.flip == (image.pixels[k] < 128);
  }
  for (const int count : together) EXPECT_NEAR(count, kDraws / 2, 60);  // 6 deviations
}

TEST(StrongAugmentation, MasksKeepTheirValues) {
  for (int64_t i = 0; i < 50; ++i) {
    const ResizedSample changed =
        augment(test::random_sample(40, 3), draw_strong_augmentation(5, 0, i, with_probability(1)));
    EXPECT_EQ(std::count(changed.mask.pixels.begin(), changed.mask.pixels.end(), 0) +
                  std::count(changed.mask.pixels.begin(), changed.mask.pixels.end(), 1),
              40 * 40);
  }
}

TEST(StrongAugmentation, HasTheProbabilitiesAndRangesOfItsOptions) {
  const StrongAugmentationOptions options;
  constexpr int kDraws = 20000;
  struct Event {
    const char* name;
    double probability;
    std::function<bool(const StrongAugmentation&)> happened;
    int count = 0;
  };
  // A turn by three quarters after a flip across is one by a quarter after a flip down, and so on.
  Event events[] = {
      {"mirrored", 0.5 * 0.7 + 0.5 * 0.3, [](auto& d) { return d.turned.flip; }},
      {"turned by a quarter or three", 0.15, [](auto& d) { return d.turned.quarter_turns % 2 == 1; }},
      {"warp", 0.5, [](auto& d) { return d.warps; }},
      {"jitter", 0.7, [](auto& d) { return d.brightness != 1; }},
      {"brightness and contrast", 0.25, [](auto& d) { return d.light_offset != 0; }},
      {"gamma", 0.25, [](auto& d) { return d.gamma != 1; }},
      {"blur", 0.3, [](auto& d) { return d.blur > 1; }},
      {"blur of 9", 0.3 / 4, [](auto& d) { return d.blur == 9; }},
      {"noise", 0.3, [](auto& d) { return d.noise_deviation > 0; }},
      {"holes", 0.3, [](auto& d) { return d.hole_count > 0; }},
      {"10 holes", 0.3 / 8, [](auto& d) { return d.hole_count == 10; }},
      // A weight beyond 254.5 / 255 is rounded to no mixture.
      {"mix-up", 0.5 * 0.83, [](auto& d) { return d.mix_weight < kWholeMix; }},
  };
  double extremes[9][2] = {};
  std::fill(&extremes[0][0], &extremes[0][0] + 18, 0.0);
  for (int i = 0; i < kDraws; ++i) {
    const StrongAugmentation drawn = draw_strong_augmentation(3, i % 7, i, options);
    for (Event& event : events) event.count += event.happened(drawn);
    const double values[9] = {drawn.shift_x,      drawn.shift_y, drawn.scale - 1,          drawn.angle,
                              drawn.contrast - 1, drawn.hue,     drawn.light_contrast - 1, drawn.light_offset,
                              drawn.gamma - 1};
    for (size_t k = 0; k < 9; ++k) {
      extremes[k][0] = std::min(extremes[k][0], values[k]);
      extremes[k][1] = std::max(extremes[k][1], values[k]);
    }
    EXPECT_TRUE(drawn.blur % 2 == 1 && drawn.blur <= 9);
    EXPECT_TRUE(drawn.noise_deviation == 0 ||
                (drawn.noise_deviation >= std::sqrt(10.0) && drawn.noise_deviation <= std::sqrt(60.0)));
    EXPECT_TRUE(drawn.hole_count == 0 || (drawn.hole_count >= 3 && drawn.hole_count <= 10));
    EXPECT_TRUE(drawn.mix_weight >= 128 && drawn.mix_weight <= kWholeMix);
    for (const auto& hole : drawn.holes) {
      EXPECT_TRUE(hole.width >= 0.05 && hole.width <= 0.1 && hole.height >= 0.05 && hole.height <= 0.1);
      EXPECT_TRUE(hole.x >= 0 && hole.x + hole.width <= 1 && hole.y >= 0 && hole.y + hole.height <= 1);
    }
  }
  for (const Event& event : events) EXPECT_NEAR(event.count, kDraws * event.probability, 300) << event.name;
  const double limits[9] = {0.1, 0.1, 0.2, kPi / 6, 0.3, 0.15, 0.3, 0.3, 0.3};
  for (size_t k = 0; k < 9; ++k) {
    EXPECT_GE(extremes[k][0], -limits[k]) << k;
    EXPECT_LE(extremes[k][1], limits[k]) << k;
    EXPECT_LT(extremes[k][0], -0.95 * limits[k]) << k;
    EXPECT_GT(extremes[k][1], 0.95 * limits[k]) << k;
  }
}

TEST(StrongAugmentation, MixtureWeightsAreBeta) {
  StrongAugmentationOptions options;
  options.mix_probability = 1;
  constexpr int kDraws = 20000;
  double mean = 0;
  int below_three_quarters = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double weight = draw_strong_augmentation(9, 0, i, options).mix_weight / 255.0;
    mean += weight / kDraws;
    below_three_quarters += weight < 0.75;
  }
  // Of max(w, 1 - w) for Beta(0.3, 0.3), by numeric integration.
  EXPECT_NEAR(mean, 0.8660, 0.005);
  EXPECT_NEAR(below_three_quarters / double{kDraws}, 0.2353, 0.01);
}

TEST(StrongAugmentation, OneChangeLeavesTheOtherDrawsAlone) {
  StrongAugmentationOptions other;
  other.warp_probability = 0;
  other.blur_probability = 1;
  for (int64_t i = 0; i < 50; ++i) {
    const auto a = draw_strong_augmentation(1, 0, i), b = draw_strong_augmentation(1, 0, i, other);
    EXPECT_EQ(a.turned, b.turned);
    EXPECT_EQ(a.hue, b.hue);
    EXPECT_EQ(a.noise_deviation, b.noise_deviation);
    EXPECT_EQ(a.mix_weight, b.mix_weight);
  }
}

TEST(StrongAugmentation, GoesThroughItsChangesInOrder) {
  const ResizedSample sample = test::random_sample(48, 4);
  StrongAugmentation drawn = draw_strong_augmentation(2, 0, 7, with_probability(1));
  ASSERT_TRUE(drawn.warps && drawn.blur > 1 && drawn.hole_count > 0);
  drawn.light_contrast = 1.2, drawn.light_offset = -0.1, drawn.gamma = 0.8;
  ResizedSample expected =
      warp(sample, affine_map(drawn.turned, drawn.angle, drawn.scale, drawn.shift_x, drawn.shift_y, 48));
  EXPECT_EQ(augment(sample, drawn).mask, expected.mask);
  const double grey = mean_grey(expected.image);
  const ColourMap light{.matrix = {{{1.2, 0, 0}, {0, 1.2, 0}, {0, 0, 1.2}}}, .offset = {-25.5, -25.5, -25.5}};
  apply_colour(jitter_map(drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue, grey).then(light),
               expected.image);
  apply_gamma(0.8, expected.image);
  gaussian_blur(expected.image, drawn.blur);
  add_noise(expected.image, drawn.noise_deviation, drawn.noise);
  for (int i = 0; i < drawn.hole_count; ++i) {
    const auto& share = drawn.holes[static_cast<size_t>(i)];
    const auto pixels = [](double part) { return static_cast<int>(std::lround(48 * part)); };
    const Hole hole[] = {{pixels(share.x), pixels(share.y), pixels(share.width), pixels(share.height)}};
    cut_holes(expected.image, hole);
  }
  EXPECT_EQ(augment(sample, drawn).image, expected.image);
}

TEST(Mix, BlendsPicturesAndMasksAlike) {
  const ResizedSample a = test::random_sample(30, 5), b = test::random_sample(30, 6);
  for (const int weight : {0, 1, 128, 200, 254, 255}) {
    std::vector<uint8_t> image(2700), mask(900);
    mix(a, b, weight, image.data(), mask.data());
    for (size_t i = 0; i < image.size(); ++i)
      ASSERT_EQ(image[i], std::lround((weight * a.image.pixels[i] + (255 - weight) * b.image.pixels[i]) / 255.0));
    for (size_t i = 0; i < mask.size(); ++i)
      ASSERT_EQ(mask[i], weight * a.mask.pixels[i] + (255 - weight) * b.mask.pixels[i]);
  }
  std::vector<uint8_t> bytes(2700);
  EXPECT_ERROR(mix(a, test::random_sample(8, 1), 200, bytes.data(), bytes.data()), "mix: needs samples of one size");
  EXPECT_ERROR(mix(a, b, 256, bytes.data(), bytes.data()), "weight 256");
}

TEST(Mix, OfASampleAloneIsTheSample) {
  const ResizedSample sample = test::random_sample(20, 7);
  std::vector<uint8_t> image(1200), mask(400);
  mix(sample, sample, 143, image.data(), mask.data());
  EXPECT_EQ(image, sample.image.pixels);
  std::vector<float> normalised(1200), target(400), expected(1200), expected_target(400);
  normalize_mixed(image, mask, normalised.data(), target.data());
  write_sample(sample, {}, expected.data(), expected_target.data());
  EXPECT_EQ(normalised, expected);
  EXPECT_EQ(target, expected_target) << "whole masks are exactly 0 and 1";
}

TEST(StrongAugmentationOptions, AreChecked) {
  const auto checked = [](auto change) {
    StrongAugmentationOptions options;
    change(options);
    options.check();
  };
  StrongAugmentationOptions{}.check();
  EXPECT_ERROR(checked([](auto& o) { o.warp_probability = 1.5; }),
               "strong augmentation: the probability of shift-scale-rotate must be within 0 and 1; got 1.5");
  EXPECT_ERROR(checked([](auto& o) { o.scale_range = 1; }), "the range of scales must be within 0 and 0.9; got 1");
  EXPECT_ERROR(checked([](auto& o) { o.most_holes = 17; }), "the largest number of holes must be within 0 and 16");
  EXPECT_ERROR(checked([](auto& o) { o.least_noise_variance = 61; }), "the least variance of noise");
  EXPECT_ERROR(checked([](auto& o) { o.mix_alpha = 0; }), "mix-up's alpha must be within 0.01 and 1; got 0");
}

}  // namespace
}  // namespace camo
