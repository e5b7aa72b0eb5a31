#include "models/edgenext/edgenext.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nn/gradcheck.h"
#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

TEST(EdgeNeXtSpecs, UnknownNameListsTheKnownOnes) {
  EXPECT_EQ(edgenext_spec("edgenext_small").dims[3], 304);
  EXPECT_ERROR(
      edgenext_spec("resnet50"),
      "backbone: unknown name \"resnet50\"; choose one of edgenext_xx_small, edgenext_x_small, edgenext_small, "
      "edgenext_base");
  try {
    edgenext_spec("");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
  }
}

TEST(EdgeNeXt, FourMapsAlsoForOddSizes) {
  EdgeNeXt backbone(edgenext_spec("edgenext_xx_small"));
  const NoGrad no_grad;
  const auto features = backbone(uniform({2, 43, 70, 3}, f32));
  EXPECT_EQ(features[0].shape(), Shape({2, 10, 17, 24}));
  EXPECT_EQ(features[1].shape(), Shape({2, 5, 8, 48}));
  EXPECT_EQ(features[2].shape(), Shape({2, 2, 4, 88}));
  EXPECT_EQ(features[3].shape(), Shape({2, 1, 2, 168}));
}

TEST(EdgeNeXt, RefusesOtherInputs) {
  const EdgeNeXt backbone(edgenext_spec("edgenext_xx_small"));
  EXPECT_ERROR(backbone(zeros({1, 3, 64, 64})), "edgenext: input must be [N, H, W, 3]; got [1, 3, 64, 64]");
  EXPECT_ERROR(backbone(zeros({64, 64, 3})), "edgenext: input must be [N, H, W, 3]; got [64, 64, 3]");
  EXPECT_ERROR(backbone(zeros({1, 31, 64, 3})), "edgenext: height and width must be at least 32; got [1, 31, 64, 3]");
}

TEST(EdgeNeXt, InitialValues) {
  seed_everything(3);
  const EdgeNeXt backbone(edgenext_spec("edgenext_xx_small"));
  for (const NamedTensor& parameter : backbone.named_parameters()) {
    const std::string& key = parameter.name;
    const std::vector<double> values = parameter.tensor.to_vector<double>();
    double squares = 0;
    for (const double value : values) {
      squares += value * value;
      if (key.ends_with(".bias")) EXPECT_EQ(value, 0) << key;
      else if (key.ends_with("temperature")) EXPECT_EQ(value, 1) << key;
      else if (key.find("gamma") != std::string::npos) EXPECT_FLOAT_EQ(static_cast<float>(value), 1e-6f) << key;
      else if (parameter.tensor.dims() == 1) EXPECT_EQ(value, 1) << key;
      else EXPECT_LE(std::abs(value), 0.0401) << key;
    }
    if (parameter.tensor.dims() > 1 && values.size() > 2000) {
      // A normal of deviation 1, cut at 2, has deviation 0.8796.
      EXPECT_NEAR(std::sqrt(squares / static_cast<double>(values.size())), 0.02 * 0.8796, 0.0008) << key;
    }
  }
}

TEST(EdgeNeXt, CheckpointingChangesNoGradient) {
  EdgeNeXt backbone(edgenext_spec("edgenext_xx_small"));
  backbone.to(f64);
  const Tensor x = uniform({1, 32, 32, 3});
  const auto gradients = [&](bool checkpointing) {
    backbone.set_gradient_checkpointing(checkpointing);
    backbone.zero_grad();
    backward(sum(backbone(x)[3]));
    Tensors result;
    for (const Tensor& parameter : backbone.parameters()) result.push_back(parameter.grad());
    return result;
  };
  const Tensors plain = gradients(false), again = gradients(true);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(bitwise_equal(plain[i], again[i])) << "parameter " << i;
}

TEST(FourierEncoding, SinesAndCosinesOfThePosition) {
  const Tensor encoding = fourier_encoding(3, 2, f64);
  ASSERT_EQ(encoding.shape(), Shape({1, 3, 2, 64}));
  const std::vector<double> values = encoding.to_vector<double>();
  const auto at = [&](int64_t y, int64_t x, int64_t channel) {
    return values[static_cast<size_t>((y * 2 + x) * 64 + channel)];
  };
  const double angle_y = 2 / 3.0 * 2 * M_PI, angle_x = 1 / 2.0 * 2 * M_PI;  // position (1, 0)
  EXPECT_NEAR(at(1, 0, 0), std::sin(angle_y), 1e-5);
  EXPECT_NEAR(at(1, 0, 1), std::cos(angle_y), 1e-5);
  EXPECT_NEAR(at(1, 0, 6), std::sin(angle_y / std::pow(10000, 6 / 32.0)), 1e-5);
  EXPECT_NEAR(at(1, 0, 32), std::sin(angle_x), 1e-5);
  EXPECT_NEAR(at(1, 0, 63), std::cos(angle_x / std::pow(10000, 30 / 32.0)), 1e-5);
}

TEST(FourierPositions, FollowSizeAndDtype) {
  FourierPositions positions(4);
  EXPECT_EQ(positions(3, 5).shape(), Shape({1, 3, 5, 4}));
  EXPECT_EQ(positions(5, 3).shape(), Shape({1, 5, 3, 4}));
  positions.to(f64);
  EXPECT_EQ(positions(5, 3).dtype(), f64);
}

TEST(SplitTransposeBlock, PartsThatDoNotDivideEvenly) {
  // 10 channels in 3 splits: parts of 4, 4 and 2.
  SplitTransposeBlock block({.channels = 10, .splits = 3, .heads = 2, .positions = true});
  block.to(f64);
  for (const NamedTensor& parameter : block.named_parameters()) {
    if (parameter.name.starts_with("gamma")) fill(parameter.tensor, 0.5);
  }
  const auto result =
      gradcheck(block, [&](const Tensors& in) { return Tensors{block(in[0])}; }, {uniform({1, 2, 3, 10})});
  EXPECT_TRUE(result.ok) << result.message;
}

TEST(SplitTransposeBlock, RefusesHeadsAndSplitsThatDoNotFit) {
  EXPECT_ERROR(SplitTransposeBlock({.channels = 10, .splits = 2, .heads = 4}),
               "cross-covariance attention: heads must divide the channels; got 4 heads, 10 channels");
  EXPECT_ERROR(SplitTransposeBlock({.channels = 10, .splits = 1, .heads = 2}),
               "split transpose block: needs 2 or more splits of at least one channel; got 1 splits of 10 channels");
}

}  // namespace
}  // namespace camo::test
