#include <cmath>
#include <limits>

#include "ops/elementwise.h"
#include "ops/normalization.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

/// batch_norm with running statistics of its own in each call.
Function apply(bool training) {
  return [training](const Tensors& in) {
    const Shape channels{in[0].size(-1)};
    const Tensor mean = full(channels, 0.3, in[0].dtype()), variance = full(channels, 0.8, in[0].dtype());
    return batch_norm(in[0], in[1], in[2], mean, variance, {.training = training});
  };
}

TEST(BatchNorm, AgreesWithPyTorch) {
  for (const bool training : {true, false}) {
    const Fixture fixture(training ? "batch_norm_training" : "batch_norm_evaluation");
    const Tensor mean = clone(fixture.at("in/mean")), variance = clone(fixture.at("in/var"));
    const uint64_t version = mean.version();
    fixture.check({"x", "weight", "bias"}, [&](const Tensors& in) {
      return batch_norm(in[0], in[1], in[2], mean, variance, {.training = training});
    });
    EXPECT_TRUE(all_close(mean, training ? fixture.at("mean_after") : fixture.at("in/mean"), 1e-14));
    EXPECT_TRUE(all_close(variance, training ? fixture.at("var_after") : fixture.at("in/var"), 1e-14));
    EXPECT_EQ(mean.version() > version, training);
  }
}

TEST(BatchNorm, RunningStatisticsByHand) {
  const Tensor x = from_vector<double>({1, 3}, {2, 1}), mean = zeros({1}, f64), variance = ones({1}, f64);
  const Tensor one = ones({1}, f64), zero = zeros({1}, f64);
  const Tensor y = batch_norm(x, one, zero, mean, variance, {.training = true, .momentum = 0.5, .eps = 0});
  EXPECT_TRUE(all_close(y, from_vector<double>({-1, 1}, {2, 1}), 1e-14));
  EXPECT_DOUBLE_EQ(mean.item(), 1);        // (0 + 2) / 2
  EXPECT_DOUBLE_EQ(variance.item(), 1.5);  // (1 + 2) / 2: the unbiased variance is 2
  EXPECT_TRUE(all_close(batch_norm(x, one, zero, mean, variance, {.eps = 0.75}),
                        from_vector<double>({0, 2 / 1.5}, {2, 1}), 1e-14));
}

TEST(BatchNorm, NumbersThatAreNotFiniteReachTheStatistics) {
  for (const DType dtype : {f64, f32, f16, bf16}) {
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      const Tensor x = to(from_vector<double>({1, 2, bad, 3, 4, 5}, {3, 2}), dtype);
      const Tensor mean = zeros({2}, dtype), variance = ones({2}, dtype);
      const Tensor y = batch_norm(x, ones({2}, dtype), zeros({2}, dtype), mean, variance, {.training = true});
      const auto values = y.to_vector<double>(), means = mean.to_vector<double>(),
                 variances = variance.to_vector<double>();
      EXPECT_FALSE(std::isfinite(means[0])) << name(dtype) << " " << bad;
      EXPECT_TRUE(std::isnan(variances[0])) << name(dtype) << " " << bad;
      for (size_t i = 0; i < 6; ++i) EXPECT_EQ(std::isnan(values[i]), i % 2 == 0) << name(dtype) << " " << bad;
      EXPECT_TRUE(std::isfinite(means[1]) && std::isfinite(variances[1])) << name(dtype);
    }
  }
}

TEST(BatchNorm, RecomputationLeavesTheStatisticsAlone) {
  const Tensor mean = zeros({2}, f64), variance = ones({2}, f64), weight = ones({2}, f64), bias = zeros({2}, f64);
  const Tensor x = uniform({5, 2});
  x.set_requires_grad(true);
  const auto norm = [&](const Tensors& in) {
    return batch_norm(in[0], weight, bias, mean, variance, {.training = true});
  };
  const Tensor y = checkpoint(norm, {x});
  const Tensor once = clone(mean);
  backward(y, uniform({5, 2}));
  EXPECT_TRUE(bitwise_equal(mean, once));
  EXPECT_TRUE(x.grad().defined());
}

TEST(BatchNorm, F32StridesAndThreads) {
  for (const bool training : {true, false}) {
    expect_f32_agrees(apply(training), {uniform({2, 20, 21, 32}, f64, -1, 3), uniform({32}), uniform({32})}, 2e-6);
    expect_f32_agrees(apply(training), {uniform({500, 1}), uniform({1}), uniform({1})}, 5e-6);
    expect_strided_agrees(apply(training), {uniform({2, 3, 4, 5}), uniform({5}), uniform({5})});
    expect_threads_agree(apply(training), {uniform({3000, 24}, f32), uniform({24}, f32), uniform({24}, f32)});
  }
}

TEST(BatchNorm, EmptyInput) {
  const Tensor one = ones({3}), zero = zeros({3});
  EXPECT_EQ(batch_norm(zeros({0, 3}), one, zero, zero, one, {}).shape(), (Shape{0, 3}));
}

TEST(BatchNorm, Errors) {
  const Tensor x = zeros({4, 3}), good = ones({3}), bad = ones({2}), wide = ones({3}, f64);
  const BatchNormOptions training{.training = true};
  EXPECT_ERROR(batch_norm(x, bad, good, good, good, {}),
               "batch_norm: weight must be [3], the last dimension of x; got weight [2], x [4, 3]");
  EXPECT_ERROR(batch_norm(x, good, bad, good, good, {}), "batch_norm: bias must be [3]");
  EXPECT_ERROR(batch_norm(x, good, good, bad, good, {}), "batch_norm: running_mean must be [3]");
  EXPECT_ERROR(batch_norm(x, good, good, good, bad, {}), "batch_norm: running_var must be [3]");
  EXPECT_ERROR(batch_norm(x, good, good, wide, good, {}),
               "batch_norm: running_mean must have the dtype of x; got "
               "running_mean f64, x f32");
  EXPECT_ERROR(batch_norm(zeros({1, 3}), good, good, good, good, training),
               "batch_norm: training needs more than one value per channel; got x [1, 3]");
  EXPECT_ERROR(batch_norm(zeros({0, 3}), good, good, good, good, training), "more than one value per channel");
  EXPECT_ERROR(batch_norm(x, good, good, good, good, {.eps = -1}), "batch_norm: eps must not be negative; got -1");
  EXPECT_ERROR(batch_norm(zeros({}), good, good, good, good, {}), "batch_norm: x needs a channel dimension");
  const Tensor wanted = ones({3});
  wanted.set_requires_grad(true);
  EXPECT_ERROR(batch_norm(x, good, good, wanted, good, training), "batch_norm: has no gradient");
}

}  // namespace
}  // namespace camo
