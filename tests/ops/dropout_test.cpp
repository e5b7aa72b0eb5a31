#include "ops/dropout.h"

#include <limits>

#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

Function drop(double p) {
  return [p](const Tensors& in) { return dropout(in[0], p, RandomKey{5, 6}); };
}

TEST(Dropout, FollowsTheKey) {
  const RandomKey key{3, 8};
  const Tensor x = uniform({3, 7});
  std::vector<double> expected = x.to_vector<double>();
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = key.uniform(i) < 0.4f ? 0 : expected[i] / 0.6;
  EXPECT_TRUE(all_close(dropout(x, 0.4, key), from_vector(expected, {3, 7}), 1e-15));
}

TEST(Dropout, DropsTheWantedShareAndKeepsTheMean) {
  const Tensor y = dropout(ones({40000}), 0.3, RandomKey{1, 2});
  double zeros_seen = 0, sum = 0;
  for (const double value : y.to_vector<double>()) {
    zeros_seen += value == 0;
    sum += value;
  }
  EXPECT_NEAR(zeros_seen / 40000, 0.3, 0.01);
  EXPECT_NEAR(sum / 40000, 1, 0.02);
}

TEST(Dropout, Limits) {
  const Tensor x = uniform({11});
  EXPECT_TRUE(bitwise_equal(dropout(x, 0, RandomKey{}), x));
  EXPECT_TRUE(bitwise_equal(dropout(x, 1, RandomKey{}), zeros({11}, f64)));
  const Tensor infinite = full({4}, std::numeric_limits<double>::infinity(), f64);
  EXPECT_TRUE(bitwise_equal(dropout(infinite, 1, RandomKey{}), zeros({4}, f64)));
}

TEST(Dropout, TrainingDrawsFromTheDefaultGenerator) {
  const Tensor x = ones({1000});
  EXPECT_TRUE(dropout(x, 0.5, false).same_as(x));
  EXPECT_TRUE(dropout(x, 0, true).same_as(x));
  seed_everything(12);
  const Tensor first = dropout(x, 0.5, true), second = dropout(x, 0.5, true);
  seed_everything(12);
  EXPECT_TRUE(bitwise_equal(dropout(x, 0.5, true), first));
  EXPECT_FALSE(bitwise_equal(first, second));
}

TEST(Dropout, StridesThreadsAndEmptyInputs) {
  expect_strided_agrees(drop(0.4), {uniform({3, 5, 4})});
  expect_threads_agree(drop(0.4), {uniform({30, 301}, f32)});
  expect_f32_agrees(drop(0.4), {uniform({30, 31})}, 1e-6);
  EXPECT_EQ(dropout(zeros({0, 3}), 0.5, RandomKey{}).shape(), (Shape{0, 3}));
}

TEST(Dropout, Errors) {
  EXPECT_ERROR(dropout(zeros({3}), -0.1, RandomKey{}), "dropout: p must be in [0, 1]; got -0.1");
  EXPECT_ERROR(dropout(zeros({3}), 1.5, true), "dropout: p must be in [0, 1]; got 1.5");
  EXPECT_ERROR(dropout(zeros({3}, i64), 0.5, RandomKey{}), "dropout: computes in f");
}

}  // namespace
}  // namespace camo
