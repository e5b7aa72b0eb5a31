#include <cmath>

#include "ops/elementwise.h"
#include "ops/normalization.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

Function along(int axis) {
  return [axis](const Tensors& in) { return l2_normalize(in[0], axis); };
}

TEST(L2Normalize, SmallNumbers) {
  const Tensor x = from_vector<double>({3, 4, 0, 0}, {2, 2});
  EXPECT_TRUE(all_close(l2_normalize(x, 1), from_vector<double>({0.6, 0.8, 0, 0}, {2, 2}), 1e-15));
  EXPECT_TRUE(all_close(l2_normalize(x, 0, 8), from_vector<double>({0.375, 0.5, 0, 0}, {2, 2}), 1e-15));
}

TEST(L2Normalize, AgreesWithPyTorch) { Fixture("l2_normalize").check({"x"}, along(1)); }

TEST(L2Normalize, F32StridesAndThreads) {
  for (const int axis : {0, 1, -1}) {
    expect_f32_agrees(along(axis), {uniform({5, 40, 300})}, 1e-6);
    expect_strided_agrees(along(axis), {uniform({3, 5, 4})});
    expect_threads_agree(along(axis), {uniform({30, 50, 40}, f32)});
  }
}

TEST(L2Normalize, NaNTakesWhatItIsNormalizedWith) {
  for (const DType dtype : {f64, f32, f16, bf16}) {
    for (const int axis : {0, 1}) {
      const Tensor x = to(from_vector<double>({1, NAN, 2, 3}, {2, 2}), dtype).set_requires_grad(true);
      const Tensor y = l2_normalize(x, axis);
      backward(y, ones({2, 2}, dtype));
      const auto values = y.to_vector<double>(), gradients = x.grad().to_vector<double>();
      for (size_t i = 0; i < 4; ++i) {
        const bool with_nan = axis == 1 ? i < 2 : i % 2 == 1;
        EXPECT_EQ(std::isnan(values[i]), with_nan) << name(dtype) << ", axis " << axis << ", element " << i;
        EXPECT_EQ(std::isnan(gradients[i]), with_nan) << name(dtype) << ", axis " << axis << ", gradient " << i;
      }
    }
  }
}

TEST(L2Normalize, EmptyInputs) {
  EXPECT_EQ(l2_normalize(zeros({0, 3}), 1).shape(), (Shape{0, 3}));
  EXPECT_EQ(l2_normalize(zeros({3, 0}), 1).shape(), (Shape{3, 0}));
}

TEST(L2Normalize, Errors) {
  EXPECT_ERROR(l2_normalize(zeros({2, 3}), 2), "l2_normalize");
  EXPECT_ERROR(l2_normalize(zeros({2, 3}), 1, 0), "l2_normalize: eps must be positive; got 0");
}

}  // namespace
}  // namespace camo
