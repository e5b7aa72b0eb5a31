#include "nn/optim/ema.h"

#include <cmath>

#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::bitwise_equal;

class Model : public Module {
 public:
  explicit Model(double value)
      : weight(param("weight", full({2}, value))),
        kernel(param("kernel", test::uniform({1, 2, 2, 3}, f32), Layout::conv_weight)),
        running(buffer("running", full({2}, value, f64))),
        count(buffer("count", full({}, value, i64))) {}

  Tensor weight, kernel, running, count;
};

TEST(Ema, AveragesFloatingTensorsAndCopiesWholeNumbers) {
  Model model(1);
  Ema ema(model, 0.9);
  for (const Tensor& x : {model.weight, model.running, model.count}) fill(x, 2);
  ema.update(model);
  fill(model.weight, 4);
  ema.update(model);
  const StateDict state = ema.state_dict();
  ASSERT_EQ(state.size(), 4u);
  EXPECT_EQ(state[0].first, "weight");
  EXPECT_NEAR(state[0].second.to_vector<double>()[1], 0.9 * 1.1 + 0.1 * 4, 1e-6);
  EXPECT_EQ(state[1].second.shape(), (Shape{1, 3, 2, 2}));  // checkpoint layout
  EXPECT_NEAR(state[2].second.to_vector<double>()[0], 0.9 * 1.1 + 0.1 * 2, 1e-15);
  EXPECT_EQ(state[3].second.item(), 2);
  EXPECT_EQ(model.weight.to_vector<double>()[0], 4);
}

TEST(Ema, CountsMayBeSetRightAfterAGuard) {
  Model model(1);
  Ema ema(model, 0.5);
  const Tensor guard = full({}, std::nan(""), f64);
  for (const Tensor& x : {model.weight, model.running, model.count}) fill(x, 2);
  ema.update(model, guard);
  fill(model.count, 5);
  ema.copy_counts(model);
  const StateDict state = ema.state_dict();
  EXPECT_EQ(state[0].second.to_vector<float>()[0], 1);
  EXPECT_EQ(state[2].second.to_vector<double>()[0], 1);
  EXPECT_EQ(state[3].second.item(), 5);
}

TEST(Ema, SwappingTwiceRestoresBoth) {
  Model model(1);
  Ema ema(model, 0.5);
  fill(model.weight, 3);
  ema.update(model);
  const StateDict before = model.state_dict(), average = ema.state_dict();
  ema.swap(model);
  EXPECT_EQ(model.weight.to_vector<double>()[0], 2);
  EXPECT_TRUE(bitwise_equal(ema.state_dict()[0].second, before[0].second));
  ema.swap(model);
  const StateDict after = model.state_dict();
  for (size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(bitwise_equal(after[i].second, before[i].second));
  EXPECT_TRUE(bitwise_equal(ema.state_dict()[0].second, average[0].second));
}

TEST(Ema, LoadsItsState) {
  const Model model(1), other(7);
  Ema source(other, 0.9), target(model, 0.9);
  target.load_state_dict(source.state_dict());
  const StateDict a = source.state_dict(), b = target.state_dict();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(bitwise_equal(a[i].second, b[i].second));
}

TEST(Ema, ChecksItsArguments) {
  Model model(1);
  EXPECT_ERROR(Ema(model, 1.5), "decay must be in [0, 1]; got 1.5");
  Ema ema(model, 0.9);
  StateDict state = ema.state_dict();
  state[0].first = "other";
  EXPECT_ERROR(ema.load_state_dict(state), "the state has no tensor 'weight'");
  state = ema.state_dict();
  state[0].second = zeros({3});
  EXPECT_ERROR(ema.load_state_dict(state), "weight must be [2]; got [3]");
  state.pop_back();
  EXPECT_ERROR(ema.load_state_dict(state), "the average has 4 tensors; got 3");
  model.to(f64);
  EXPECT_ERROR(ema.update(model), "got weight f64 [2]");
}

}  // namespace
}  // namespace camo
