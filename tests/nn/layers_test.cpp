#include "nn/layers.h"

#include <cmath>

#include "nn/gradcheck.h"
#include "nn/init.h"
#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::uniform;

std::vector<std::string> keys(const Module& module) {
  std::vector<std::string> out;
  for (const auto& [name, values] : module.state_dict()) out.push_back(name + " " + values.shape().str());
  return out;
}
using Keys = std::vector<std::string>;

/// All values lie in +-bound and fill that range.
void expect_fills(const Tensor& x, double bound) {
  double largest = 0, total = 0;
  for (double value : x.to_vector<double>()) {
    largest = std::max(largest, std::abs(value));
    total += value;
  }
  EXPECT_LE(largest, bound);
  EXPECT_GT(largest, 0.9 * bound);
  EXPECT_LT(std::abs(total / static_cast<double>(x.numel())), 0.2 * bound);
}

template <class M>
void expect_right_gradients(M& module, const Tensor& x) {
  module.to(f64);
  const GradcheckResult result = gradcheck(module, [&](const Tensors& in) { return Tensors{module(in[0])}; }, {x});
  EXPECT_TRUE(result.ok) << result.message;
}

TEST(Init, UniformFanIn) {
  expect_fills(init_uniform_fan_in({50, 16}, 16), 0.25);
  EXPECT_ERROR(init_uniform_fan_in({3}, 0), "fan_in must be positive; got 0");
}

TEST(Init, TruncatedNormalStaysWithinTwoDeviations) {
  const auto values = init_truncated_normal({5000}, 0.5).to_vector<double>();
  double squares = 0;
  for (double value : values) {
    EXPECT_LE(std::abs(value), 1.0);
    squares += value * value;
  }
  EXPECT_NEAR(std::sqrt(squares / 5000), 0.5 * 0.8796, 0.02);  // a normal cut at 2 deviations has 0.8796 of its own
}

TEST(Linear, ComputesAndInitialises) {
  Linear layer(LinearSpec{.in = 64, .out = 40});
  EXPECT_EQ(keys(layer), (Keys{"weight [40, 64]", "bias [40]"}));
  expect_fills(layer.parameters()[0], 0.125);
  expect_fills(layer.parameters()[1], 0.125);
  Linear small(LinearSpec{.in = 2, .out = 1});
  small.load_state_dict({{"weight", from_vector<double>({2, 3}, {1, 2})}, {"bias", from_vector<double>({10}, {1})}});
  EXPECT_EQ(small(from_vector<float>({1, 1, 0, 2}, {2, 2})).to_vector<double>(), (std::vector<double>{15, 16}));
}

TEST(Linear, HasRightGradients) {
  Linear layer(LinearSpec{.in = 3, .out = 4}), no_bias(LinearSpec{.in = 3, .out = 4, .bias = false});
  expect_right_gradients(layer, uniform({2, 5, 3}));
  EXPECT_EQ(keys(no_bias), Keys{"weight [4, 3]"});
  expect_right_gradients(no_bias, uniform({2, 3}));
  EXPECT_ERROR(Linear(LinearSpec{.in = 3}), "in and out must be positive; got in 3, out 0");
}

TEST(Conv2d, HasTheKeysOfPyTorch) {
  const Conv2d layer(Conv2dSpec{.in = 8, .out = 16, .kernel = 3, .groups = 4});
  EXPECT_EQ(keys(layer), (Keys{"weight [16, 2, 3, 3]", "bias [16]"}));
  expect_fills(layer.parameters()[0], 1 / std::sqrt(18.0));
  const Conv2d depthwise(Conv2dSpec::depthwise(6, 5, false));
  EXPECT_EQ(keys(depthwise), Keys{"weight [6, 1, 5, 5]"});
}

TEST(Conv2d, HasRightGradients) {
  Conv2d layer(Conv2dSpec{.in = 2, .out = 3, .kernel = 3, .stride = 2, .padding = 1}),
      pointwise(Conv2dSpec{.in = 3, .out = 2});
  EXPECT_EQ(layer(uniform({1, 5, 4, 2}, f32)).shape(), (Shape{1, 3, 2, 3}));
  expect_right_gradients(layer, uniform({1, 5, 4, 2}));
  expect_right_gradients(pointwise, uniform({2, 2, 3, 3}));
}

TEST(Conv2d, ChecksItsSpec) {
  EXPECT_ERROR(Conv2d(Conv2dSpec{.in = 3}), "in, out and kernel must be positive");
  EXPECT_ERROR(Conv2d(Conv2dSpec{.in = 6, .out = 4, .groups = 4}), "groups must divide in and out; got in 6, out 4");
  EXPECT_ERROR(Conv2d(Conv2dSpec{.in = 1, .out = 1, .stride = 0}), "stride and dilation must be positive");
}

TEST(LayerNorm, StartsAsTheIdentityOnNormalisedRows) {
  LayerNorm layer(4);
  EXPECT_EQ(keys(layer), (Keys{"weight [4]", "bias [4]"}));
  const Tensor y = layer(from_vector<float>({1, -1, 1, -1}, {1, 4}));
  EXPECT_TRUE(all_close(y, from_vector<double>({1, -1, 1, -1}, {1, 4}), 1e-6));
  expect_right_gradients(layer, uniform({3, 4}));
  EXPECT_ERROR(LayerNorm(0), "channels must be positive");
  EXPECT_ERROR(LayerNorm(3, -1), "eps not negative; got channels 3, eps -1");
}

TEST(BatchNorm2d, TracksStatisticsWhileTraining) {
  BatchNorm2d layer(2);
  EXPECT_EQ(keys(layer),
            (Keys{"weight [2]", "bias [2]", "running_mean [2]", "running_var [2]", "num_batches_tracked []"}));
  const Tensor x = from_vector<float>({0, 1, 2, 1, 4, 1, 6, 1}, {1, 2, 2, 2});  // channel 0: 0 2 4 6, channel 1: 1
  layer(x);
  StateDict state = layer.state_dict();
  EXPECT_TRUE(all_close(state[2].second, from_vector<double>({0.3, 0.1}, {2}), 1e-6));
  EXPECT_TRUE(all_close(state[3].second, from_vector<double>({0.9 + 0.1 * 20 / 3, 0.9}, {2}), 1e-6));
  EXPECT_EQ(state[4].second.dtype(), i64);
  EXPECT_EQ(state[4].second.item(), 1);
  layer(x);
  layer.eval();
  layer(x);
  EXPECT_EQ(layer.state_dict()[4].second.item(), 2);
}

TEST(BatchNorm2d, DoesNotCountARecomputation) {
  BatchNorm2d layer(2);
  layer.to(f64);
  const Tensor x = uniform({2, 2, 2, 2});
  x.set_requires_grad(true);
  const Tensor y = checkpoint([&](const Tensors& in) { return layer(in[0]); }, {x});
  const StateDict before = layer.state_dict();
  backward(y, uniform(y.shape()));
  const StateDict after = layer.state_dict();
  for (size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(bitwise_equal(before[i].second, after[i].second));
  EXPECT_EQ(after[4].second.item(), 1);
  EXPECT_TRUE(x.grad().defined());
}

TEST(BatchNorm2d, HasRightGradientsInBothModes) {
  BatchNorm2d layer(3);
  expect_right_gradients(layer, uniform({2, 2, 2, 3}));
  layer.eval();
  expect_right_gradients(layer, uniform({2, 2, 2, 3}));
  EXPECT_ERROR(BatchNorm2d(0), "channels must be positive");
  EXPECT_ERROR(BatchNorm2d(3, -1), "eps not negative, momentum in [0, 1]; got channels 3, eps -1, momentum 0.1");
  EXPECT_ERROR(BatchNorm2d(3, 1e-5, 2), "momentum 2");
}

TEST(Dropout, DropsOnlyWhileTraining) {
  Dropout layer(0.5);
  const Tensor x = ones({1000});
  EXPECT_FALSE(bitwise_equal(layer(x), x));
  layer.eval();
  EXPECT_TRUE(bitwise_equal(layer(x), x));
  layer.train();
  layer.set_probability(0);
  EXPECT_TRUE(bitwise_equal(layer(x), x));
  EXPECT_ERROR(Dropout(1), "probability must be in [0, 1)");
}

TEST(Checkpoint, HasRightGradientsOfInputsAndParameters) {
  Sequential steps;
  steps.add<Linear>(LinearSpec{.in = 3, .out = 4}).add(gelu).add<Dropout>(0.3);
  steps.to(f64);
  const auto forward = [&](const Tensors& in) {
    seed_everything(3);  // the same elements are dropped in every run
    return Tensors{checkpoint([&](const Tensors& inner) { return steps(inner[0]); }, in)};
  };
  const GradcheckResult result = gradcheck(steps, forward, {uniform({5, 3})});
  EXPECT_TRUE(result.ok) << result.message;
}

TEST(Sequential, NumbersItsStepsAsPyTorchDoes) {
  Sequential steps;
  steps.add<Linear>(LinearSpec{.in = 3, .out = 4}).add(gelu).add<Linear>(LinearSpec{.in = 4, .out = 2, .bias = false});
  EXPECT_EQ(keys(steps), (Keys{"0.weight [4, 3]", "0.bias [4]", "2.weight [2, 4]"}));
  EXPECT_EQ(steps(uniform({5, 3}, f32)).shape(), (Shape{5, 2}));
  expect_right_gradients(steps, uniform({5, 3}));
}

}  // namespace
}  // namespace camo
