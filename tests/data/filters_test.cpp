#include "data/filters.h"

#include <algorithm>
#include <cmath>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

int reflected(int at, int size) {
  while (at < 0 || at >= size) {
    if (size == 1) return 0;
    at = at < 0 ? -at : 2 * (size - 1) - at;
  }
  return at;
}

Image random_image(int width, int height, int channels, uint64_t seed) {
  Image image(width, height, channels);
  const RandomKey key{seed, 0};
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(key.bits(i) >> 24);
  return image;
}

double gaussian_at(const Image& image, int x, int y, int c, int size) {
  const double deviation = 0.3 * ((size - 1) * 0.5 - 1) + 0.8;
  double sum = 0, weights = 0;
  for (int dy = -(size / 2); dy <= size / 2; ++dy) {
    for (int dx = -(size / 2); dx <= size / 2; ++dx) {
      const double weight = std::exp(-0.5 * (dx * dx + dy * dy) / (deviation * deviation));
      weights += weight;
      sum += weight * image.row(reflected(y + dy, image.height))[reflected(x + dx, image.width) * image.channels + c];
    }
  }
  return sum / weights;
}

TEST(GaussianBlur, IsTheDefinition) {
  struct Case {
    int width, height, channels, size;
  };
  for (const auto& [width, height, channels, size] : {Case{20, 17, 3, 3},
                                                      {20, 17, 3, 5},
                                                      {31, 9, 1, 7},
                                                      {20, 24, 3, 9},
                                                      {3, 2, 3, 9},
                                                      {1, 1, 3, 9},
                                                      {1, 40, 1, 31}}) {
    const Image image = random_image(width, height, channels, 1);
    Image blurred = image;
    gaussian_blur(blurred, size);
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        for (int c = 0; c < channels; ++c)
          ASSERT_NEAR(blurred.row(y)[x * channels + c], gaussian_at(image, x, y, c, size), 1) << size;
  }
}

TEST(GaussianBlur, KeepsOneColourAndTakesOddSizes) {
  for (const int value : {0, 1, 100, 255}) {
    for (int size = 1; size <= 31; size += 2) {
      Image image(12, 9, 3, static_cast<uint8_t>(value));
      gaussian_blur(image, size);
      EXPECT_EQ(image, Image(12, 9, 3, static_cast<uint8_t>(value)));
    }
  }
  Image image = random_image(8, 8, 3, 2), before = image;
  gaussian_blur(image, 1);
  EXPECT_EQ(image, before);
  EXPECT_ERROR(gaussian_blur(image, 4), "gaussian_blur: the size must be odd and within 1 and 31; got 4");
  EXPECT_ERROR(gaussian_blur(image, 33), "got 33");
}

TEST(Noise, IsNormalAndIndependent) {
  Image image(600, 500, 3, 128);
  constexpr double kDeviation = 7;
  add_noise(image, kDeviation, {3, 4});
  std::vector<double> noise;
  for (const uint8_t v : image.pixels) noise.push_back(v - 128.0);
  const auto count = static_cast<double>(noise.size());
  double moments[5] = {};
  for (const double n : noise)
    for (int k = 1; k <= 4; ++k) moments[k] += std::pow(n / kDeviation, k) / count;
  EXPECT_NEAR(moments[1], 0, 0.005);
  EXPECT_NEAR(moments[2], 1 + 1 / (12 * kDeviation * kDeviation), 0.01);  // rounding adds 1/12
  EXPECT_NEAR(moments[3], 0, 0.02);
  EXPECT_NEAR(moments[4], 3, 0.08);
  for (const size_t step : {1u, 2u, 3u, 8u, 600u * 3u, 1024u, 2048u}) {
    double product = 0;
    for (size_t i = 0; i + step < noise.size(); ++i) product += noise[i] * noise[i + step];
    EXPECT_NEAR(product / count / (kDeviation * kDeviation), 0, 0.006) << step;
  }
}

TEST(Noise, IsAFunctionOfItsKey) {
  const Image image = random_image(50, 40, 3, 5);
  const auto noisy = [&](RandomKey key) {
    Image copy = image;
    add_noise(copy, 5, key);
    return copy;
  };
  EXPECT_EQ(noisy({1, 2}), noisy({1, 2}));
  EXPECT_NE(noisy({1, 2}), noisy({1, 3}));
  EXPECT_NE(noisy({1, 2}), noisy({2, 2}));
  Image same = image;
  add_noise(same, 0, {1, 2});
  EXPECT_EQ(same, image);
  EXPECT_ERROR(add_noise(same, 65, {}), "add_noise: the deviation must be within 0 and 64; got 65");
}

TEST(Noise, IsCutAtBlackAndWhite) {
  for (const int value : {0, 255}) {
    Image image(64, 64, 3, static_cast<uint8_t>(value));
    add_noise(image, 8, {1, 1});
    const auto kept = std::count(image.pixels.begin(), image.pixels.end(), value);
    EXPECT_NEAR(static_cast<double>(kept) / (64 * 64 * 3), 0.525, 0.02);  // half, and what rounds to 0
    const auto [low, high] = std::minmax_element(image.pixels.begin(), image.pixels.end());
    EXPECT_LT(*high - *low, 35);
  }
}

TEST(Holes, AreBlackAndCutAtTheBorder) {
  Image image(10, 8, 3, 200);
  const Hole holes[] = {{2, 3, 4, 2}, {8, 6, 9, 9}, {-3, -3, 4, 4}, {20, 20, 5, 5}, {5, 5, 0, 3}};
  cut_holes(image, holes);
  for (int y = 0; y < 8; ++y) {
    for (int x = 0; x < 10; ++x) {
      const bool cut = (x >= 2 && x < 6 && y >= 3 && y < 5) || (x >= 8 && y >= 6) || (x < 1 && y < 1);
      for (int c = 0; c < 3; ++c) EXPECT_EQ(image.row(y)[3 * x + c], cut ? 0 : 200);
    }
  }
}

}  // namespace
}  // namespace camo
