#include "data/warp.h"

#include <cmath>
#include <numbers>

#include "core/random.h"
#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

constexpr double kPi = std::numbers::pi;

double reflected(double at, int size) {
  if (size == 1) return 0;
  const double period = 2.0 * (size - 1);
  at = std::fmod(std::fmod(at, period) + period, period);
  return std::min(at, period - at);
}

// The definition, in double: undo turn, scale and shift around the centre; then read the turned picture.
struct Reference {
  ResizedSample turned;
  double angle, scale, shift_x, shift_y;

  std::pair<double, double> source(int x, int y) const {
    const int size = turned.image.width;
    const double centre = (size - 1) / 2.0;
    const double dx = (x - centre - shift_x * size) / scale, dy = (y - centre - shift_y * size) / scale;
    return {reflected(std::cos(angle) * dx - std::sin(angle) * dy + centre, size),
            reflected(std::sin(angle) * dx + std::cos(angle) * dy + centre, size)};
  }
  double picture(int x, int y, int c) const {
    const auto [u, v] = source(x, y);
    const int last = turned.image.width - 1;
    const int left = static_cast<int>(u), top = static_cast<int>(v);
    const auto at = [&](int col, int row) {
      return static_cast<double>(turned.image.row(std::min(row, last))[3 * std::min(col, last) + c]);
    };
    return std::lerp(std::lerp(at(left, top), at(left + 1, top), u - left),
                     std::lerp(at(left, top + 1), at(left + 1, top + 1), u - left), v - top);
  }
};

void expect_close(const ResizedSample& got, const Reference& expected) {
  const int size = got.image.width;
  int ties = 0;
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      // Bilinear, then rounded: coordinates in float are a few 1e-5 pixels off, of up to 255 a pixel.
      for (int c = 0; c < 3; ++c) ASSERT_NEAR(got.image.row(y)[3 * x + c], expected.picture(x, y, c), 0.52);
      const auto [u, v] = expected.source(x, y);
      const auto near_tie = [](double at) { return std::fabs(at - std::floor(at) - 0.5) < 1e-3; };
      if (near_tie(u) || near_tie(v)) {
        ++ties;
        continue;
      }
      ASSERT_EQ(got.mask.row(y)[x], expected.turned.mask.row(static_cast<int>(v + 0.5))[static_cast<int>(u + 0.5)]);
    }
  }
  EXPECT_LT(ties, size * size / 20 + 3);
}

TEST(Warp, IsTheDefinitionForEveryTurn) {
  for (const int size : {1, 2, 7, 40}) {
    const ResizedSample sample = test::random_sample(size, 3);
    for (int i = 0; i < 8; ++i) {
      const Augmentation turned{i >= 4, i % 4};
      const double angle = 0.1 * i - 0.37, scale = 0.8 + 0.05 * i, shift_x = 0.03 * i - 0.1, shift_y = 0.07 - 0.02 * i;
      const Reference expected{turn(sample, turned), angle, scale, shift_x, shift_y};
      expect_close(warp(sample, affine_map(turned, angle, scale, shift_x, shift_y, size)), expected);
    }
  }
}

TEST(Warp, GoesOnMirroredFarOutside) {
  const ResizedSample sample = test::random_sample(9, 4);
  const Reference expected{sample, 1.0, 0.1, 1.0, -0.9};  // several pictures wide
  expect_close(warp(sample, affine_map({}, 1.0, 0.1, 1.0, -0.9, 9)), expected);
}

TEST(Warp, OfNothingIsTheTurnAlone) {
  for (const int size : {1, 2, 33, 352}) {
    const ResizedSample sample = test::random_sample(size, 5);
    for (int i = 0; i < 8; ++i) {
      const Augmentation turned{i >= 4, i % 4};
      const ResizedSample warped = warp(sample, affine_map(turned, 0, 1, 0, 0, size)), moved = turn(sample, turned);
      EXPECT_EQ(warped.image, moved.image) << size << " " << i;
      EXPECT_EQ(warped.mask, moved.mask) << size << " " << i;
    }
  }
}

TEST(Warp, TurnsCounterClockwise) {
  const ResizedSample sample = test::random_sample(32, 6);
  for (int quarters = 1; quarters < 4; ++quarters) {
    const ResizedSample warped = warp(sample, affine_map({}, quarters * kPi / 2, 1, 0, 0, 32));
    EXPECT_EQ(warped.image, turn(sample, {false, quarters}).image);
  }
}

TEST(Warp, ShiftsRightAndDown) {
  ResizedSample sample{Image(10, 10, 3), Image(10, 10, 1)};
  sample.mask.row(4)[5] = 1;
  const ResizedSample moved = warp(sample, affine_map({}, 0, 1, 0.2, -0.1, 10));
  EXPECT_EQ(moved.mask.row(3)[7], 1);
  EXPECT_EQ(std::count(moved.mask.pixels.begin(), moved.mask.pixels.end(), 1), 1);
}

TEST(Turn, MovesPixelsAsTheLightSetDoes) {
  const ResizedSample sample = test::random_sample(12, 7);
  for (int i = 0; i < 8; ++i) {
    const Augmentation turned{i >= 4, i % 4};
    const ResizedSample moved = turn(sample, turned);
    std::vector<float> image(3 * 144), mask(144), moved_image(3 * 144), moved_mask(144);
    write_sample(sample, turned, image.data(), mask.data());
    write_sample(moved, {}, moved_image.data(), moved_mask.data());
    EXPECT_EQ(image, moved_image);
    EXPECT_EQ(mask, moved_mask);
  }
}

}  // namespace
}  // namespace camo
