#include "nn/optim/grad_scaler.h"

#include <cmath>
#include <limits>

#include "nn/optim/adamw.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using namespace test;

TEST(GradScaler, GrowsAfterGoodStepsAndBacksOffToTheFloor) {
  GradScaler scaler({.initial = 8, .growth_interval = 3, .floor = 2});
  EXPECT_EQ(scaler.scaled(full({}, 1.5)).item(), 12);
  for (int i = 0; i < 2; ++i) scaler.step_taken();
  EXPECT_EQ(scaler.scale(), 8);
  scaler.step_taken();
  EXPECT_EQ(scaler.scale(), 16);
  scaler.step_taken();
  scaler.back_off();  // the row of good steps begins again
  EXPECT_EQ(scaler.scale(), 8);
  for (int i = 0; i < 2; ++i) scaler.step_taken();
  EXPECT_EQ(scaler.scale(), 8);
  for (int i = 0; i < 2; ++i) scaler.back_off();
  EXPECT_EQ(scaler.scale(), 2);
  EXPECT_FALSE(scaler.can_back_off());
  scaler.back_off();
  EXPECT_EQ(scaler.scale(), 2);
  EXPECT_EQ(scaler.state().skipped, 4);
}

TEST(GradScaler, DefaultsAreThoseOfPyTorch) {
  GradScaler scaler;
  EXPECT_EQ(scaler.scale(), 65536);
  for (int i = 0; i < 1999; ++i) scaler.step_taken();
  EXPECT_EQ(scaler.scale(), 65536);
  scaler.step_taken();
  EXPECT_EQ(scaler.scale(), 131072);
}

TEST(GradScaler, StateGoesAndComes) {
  GradScaler scaler, other;
  scaler.back_off();
  scaler.step_taken();
  other.load_state(scaler.state());
  EXPECT_EQ(other.scale(), 32768);
  EXPECT_EQ(other.state().good_steps, 1);
  EXPECT_EQ(other.state().skipped, 1);
}

TEST(GradScaler, Errors) {
  EXPECT_ERROR(GradScaler({.initial = 0.5}),
               "GradScaler: the initial scale must be between the floor, which is above 0");
  EXPECT_ERROR(GradScaler({.backoff = 1}), "GradScaler: growth and growth_interval must be at least 1, backoff in");
  GradScaler scaler;
  EXPECT_ERROR(scaler.load_state({.scale = 0.5}), "GradScaler: the scale must be between 1 and 2^64; got 0.5");
  EXPECT_ERROR(scaler.load_state({.scale = 4, .good_steps = 2000}), "GradScaler: steps must not be negative");
}

/// Gradients of a leaf whose loss was multiplied with a power of two: unscaling and clipping give the bits of a run
/// without.
TEST(ClipGradients, UnscalesBeforeClipping) {
  for (const double max_norm : {1e9, 0.5}) {
    Tensors gradients;
    double norms[2];
    for (const double scale : {1.0, 4096.0}) {
      const Tensor x = from_vector<float>({1, -2, 3, 0.25f}, {4}).set_requires_grad(true);
      backward(sum(square(x)) * scale);
      norms[scale == 1 ? 0 : 1] = clip_gradients({x}, max_norm, 1 / scale).item();
      gradients.push_back(x.grad());
    }
    EXPECT_EQ(norms[0], norms[1]);
    EXPECT_TRUE(bitwise_equal(gradients[0], gradients[1])) << max_norm;
  }
  const Tensor x = from_vector<float>({1, 2}, {2}).set_requires_grad(true);
  backward(sum(x) * 8.0);
  const double unlimited = std::numeric_limits<double>::infinity();
  EXPECT_NEAR(clip_gradients({x}, unlimited, 0.125).item(), std::sqrt(2.0), 1e-15);
  EXPECT_TRUE(bitwise_equal(x.grad(), ones({2})));
  EXPECT_ERROR(clip_gradients({x}, 1, 2), "clip_gradients: unscale must be in (0, 1]; got 2");
}

}  // namespace
}  // namespace camo
