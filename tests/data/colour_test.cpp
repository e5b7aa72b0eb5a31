#include "data/colour.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using Rgb = std::array<double, 3>;

double grey_of(const Rgb& p) { return 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]; }

// One change after the other on one pixel, in double, without rounding in between.
Rgb jittered(Rgb p, double brightness, double contrast, double saturation, double hue, double mean) {
  for (double& v : p) v *= brightness;
  for (double& v : p) v = contrast * v + (1 - contrast) * brightness * mean;
  const double grey = grey_of(p);
  for (double& v : p) v = saturation * v + (1 - saturation) * grey;
  // Y stays, the vector (I, Q) turns; back through the inverse by Cramer's rule.
  const double y = grey_of(p);
  const double i = 0.596 * p[0] - 0.274 * p[1] - 0.322 * p[2], q = 0.211 * p[0] - 0.523 * p[1] + 0.312 * p[2];
  const double angle = 2 * std::numbers::pi * hue;
  const double a[3][4] = {{0.299, 0.587, 0.114, y},
                          {0.596, -0.274, -0.322, std::cos(angle) * i - std::sin(angle) * q},
                          {0.211, -0.523, 0.312, std::sin(angle) * i + std::cos(angle) * q}};
  const auto determinant = [&](int c0, int c1, int c2) {
    return a[0][c0] * (a[1][c1] * a[2][c2] - a[1][c2] * a[2][c1]) -
           a[0][c1] * (a[1][c0] * a[2][c2] - a[1][c2] * a[2][c0]) +
           a[0][c2] * (a[1][c0] * a[2][c1] - a[1][c1] * a[2][c0]);
  };
  const double whole = determinant(0, 1, 2);
  return {determinant(3, 1, 2) / whole, determinant(0, 3, 2) / whole, determinant(0, 1, 3) / whole};
}

TEST(Colour, JitterIsItsFourChangesInTurn) {
  const Image picture = test::random_sample(24, 1).image;
  const double mean = mean_grey(picture);
  for (const auto& [brightness, contrast, saturation, hue] : {std::array{1.3, 1.0, 1.0, 0.0},
                                                              {1.0, 0.7, 1.0, 0.0},
                                                              {1.0, 1.0, 1.3, 0.0},
                                                              {1.0, 1.0, 1.0, -0.15},
                                                              {0.8, 1.2, 0.7, 0.1}}) {
    Image changed = picture;
    apply_colour(jitter_map(brightness, contrast, saturation, hue, mean), changed);
    for (size_t p = 0; p < picture.pixels.size(); p += 3) {
      const Rgb expected =
          jittered({double(picture.pixels[p]), double(picture.pixels[p + 1]), double(picture.pixels[p + 2])},
                   brightness, contrast, saturation, hue, mean);
      for (size_t c = 0; c < 3; ++c)
        ASSERT_NEAR(changed.pixels[p + c], std::clamp(expected[c], 0.0, 255.0), 0.501) << p << " " << hue;
    }
  }
}

TEST(Colour, MeanGrey) {
  const Image picture = test::random_sample(15, 2).image;
  double sum = 0;
  for (size_t p = 0; p < picture.pixels.size(); p += 3)
    sum += grey_of({double(picture.pixels[p]), double(picture.pixels[p + 1]), double(picture.pixels[p + 2])});
  EXPECT_NEAR(mean_grey(picture), sum / 225, 1e-9);
}

TEST(Colour, HueAndSaturationKeepGreyAndBrightness) {
  Image picture(2, 1, 3, 90);
  picture.pixels[3] = 120, picture.pixels[4] = 80, picture.pixels[5] = 60;
  const Image before = picture;
  apply_colour(jitter_map(1, 1, 1, 0.1, 0), picture);
  for (size_t c = 0; c < 3; ++c) EXPECT_EQ(picture.pixels[c], 90);
  EXPECT_NE(picture, before);
  EXPECT_NEAR(grey_of({double(picture.pixels[3]), double(picture.pixels[4]), double(picture.pixels[5])}),
              grey_of({120, 80, 60}), 0.5);
}

TEST(Colour, ChangesOfNothingChangeNoBit) {
  Image picture = test::random_sample(33, 3).image;
  const Image before = picture;
  apply_colour(jitter_map(1, 1, 1, 0, mean_grey(picture)), picture);
  apply_colour(jitter_map(1, 1, 1, 1e-9, 0), picture);  // through YIQ and back
  apply_gamma(1, picture);
  EXPECT_EQ(picture, before);
}

TEST(Colour, ChainsRoundOnce) {
  const ColourMap half{.matrix = {{{0.5, 0, 0}, {0, 0.5, 0}, {0, 0, 0.5}}}, .offset = {1, 2, 3}};
  const ColourMap twice{.matrix = {{{2, 0, 0}, {0, 2, 0}, {0, 0, 2}}}, .offset = {0, -1, 4}};
  Image picture = test::random_sample(5, 4).image;
  Image expected = picture;
  for (size_t i = 0; i < expected.pixels.size(); ++i) {
    const int changes[] = {2, 3, 10};
    expected.pixels[i] = static_cast<uint8_t>(std::min(255, expected.pixels[i] + changes[i % 3]));
  }
  apply_colour(half.then(twice), picture);
  EXPECT_EQ(picture, expected);
}

TEST(Colour, Gamma) {
  Image picture(16, 16, 1);
  for (size_t v = 0; v < 256; ++v) picture.pixels[v] = static_cast<uint8_t>(v);
  for (const double gamma : {0.7, 1.3}) {
    Image changed = picture;
    apply_gamma(gamma, changed);
    for (int v = 0; v < 256; ++v)
      EXPECT_NEAR(changed.pixels[static_cast<size_t>(v)], 255 * std::pow(v / 255.0, gamma), 0.5);
  }
}

}  // namespace
}  // namespace camo
