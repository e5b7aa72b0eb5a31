#include "nn/attention.h"

#include <cmath>

#include "nn/gradcheck.h"
#include "nn/pooling.h"
#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

TEST(SelfAttention, GradientOfInputAndParameters) {
  SelfAttention attention({.channels = 6, .heads = 2});
  attention.to(f64);
  const GradcheckResult check =
      gradcheck(attention, [&](const Tensors& in) { return Tensors{attention(in[0])}; }, {test::uniform({2, 5, 6})});
  EXPECT_TRUE(check.ok) << check.message;
}

TEST(SelfAttention, EqualsItsFormula) {
  SelfAttention attention({.channels = 4, .heads = 2, .qkv_bias = false});
  attention.to(f64);
  const Tensor x = test::uniform({1, 3, 4});
  const StateDict state = attention.state_dict();
  const Tensor qkv = matmul(x, transpose(state[0].second, 0, 1));  // [1, 3, 12]
  Tensors heads;
  for (int64_t h = 0; h < 2; ++h) {
    const auto part = [&](int64_t which) { return slice(qkv, 2, which * 4 + h * 2, which * 4 + h * 2 + 2); };
    heads.push_back(matmul(softmax(matmul(part(0), transpose(part(1), 1, 2)) * (1 / std::sqrt(2.0)), -1), part(2)));
  }
  const Tensor expected = linear(concat(heads, 2), state[1].second, state[2].second);
  EXPECT_TRUE(test::all_close(attention(x), expected, 1e-12));
}

TEST(SelfAttention, HiddenTokensDoNotMatter) {
  SelfAttention attention({.channels = 4, .heads = 2});
  attention.to(f64);
  const Tensor x = test::uniform({1, 3, 4});
  const Tensor changed = concat({slice(x, 1, 0, 2), test::uniform({1, 1, 4})}, 1);
  const Tensor mask = greater(from_vector<double>({1, 1, 0}, {3}), 0.5);
  EXPECT_TRUE(test::bitwise_equal(slice(attention(x, mask), 1, 0, 2), slice(attention(changed, mask), 1, 0, 2)));
}

TEST(SelfAttention, DropsOnlyWhileTraining) {
  SelfAttention attention({.channels = 4, .heads = 2, .dropout = 0.5});
  const Tensor x = test::uniform({2, 8, 4}, f32);
  EXPECT_FALSE(test::bitwise_equal(attention(x), attention(x)));
  attention.eval();
  EXPECT_TRUE(test::bitwise_equal(attention(x), attention(x)));
}

TEST(SelfAttention, ErrorsSayWhatCame) {
  EXPECT_ERROR(SelfAttention({.channels = 6, .heads = 4}), "heads must divide the channels; got 4 heads, 6 channels");
  SelfAttention attention({.channels = 6, .heads = 2});
  EXPECT_ERROR(attention(zeros({2, 5, 4})), "x must be [batch, tokens, 6]; got [2, 5, 4]");
  EXPECT_ERROR(SelfAttention({.channels = 4, .heads = 2, .dropout = 1.5}), "dropout must be in [0, 1); got 1.5");
}

TEST(Pooling, LayersStandInSequential) {
  Sequential layers;
  layers.add<AvgPool2d>(Pool2dOptions{.kernel = {2, 2}}).add<MaxPool2d>(Pool2dOptions{.kernel = {2, 2}});
  layers.add<AdaptiveAvgPool2d>(1, 1);
  const Tensor x = test::uniform({2, 8, 8, 3});
  const Tensor pooled = max_pool2d(avg_pool2d(x, {.kernel = {2, 2}}), {.kernel = {2, 2}});
  EXPECT_TRUE(test::all_close(layers(x), mean(pooled, {1, 2}, true), 1e-14));
}

}  // namespace
}  // namespace camo
