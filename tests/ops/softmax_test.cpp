#include "ops/softmax.h"

#include <cmath>
#include <limits>

#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Function softmax_along(int axis) {
  return [axis](const Tensors& in) { return softmax(in[0], axis); };
}
Function log_softmax_along(int axis) {
  return [axis](const Tensors& in) { return log_softmax(in[0], axis); };
}

TEST(Softmax, SmallNumbers) {
  const Tensor x = from_vector<double>({0, std::log(3), 5, 5}, {2, 2});
  EXPECT_TRUE(all_close(softmax(x, 1), from_vector<double>({0.25, 0.75, 0.5, 0.5}, {2, 2}), 1e-15));
  EXPECT_TRUE(all_close(log_softmax(x, -1),
                        from_vector<double>({std::log(0.25), std::log(0.75), -std::log(2), -std::log(2)}, {2, 2}),
                        1e-15));
}

TEST(Softmax, AgreesWithPyTorch) {
  Fixture("softmax").check({"x"}, softmax_along(1));
  Fixture("log_softmax").check({"x"}, log_softmax_along(-1));
}

TEST(Softmax, LargeNumbersDoNotOverflow) {
  for (const DType dtype : {f32, f64}) {
    for (const int axis : {0, 1}) {
      const Tensor x = full({3, 3}, 1e30, dtype);
      EXPECT_TRUE(all_close(softmax(x, axis), full({3, 3}, 1.0 / 3, dtype), 1e-7));
      EXPECT_TRUE(all_close(log_softmax(full({2, 2}, -1e4, dtype), axis), full({2, 2}, -std::log(2.0), dtype), 1e-4));
    }
  }
}

TEST(Softmax, HiddenElementsAndRows) {
  const Tensor x = from_vector<double>({-kInfinity, 1, 1, -kInfinity, -kInfinity, -kInfinity}, {2, 3});
  const Tensor expected = from_vector<double>({0, 0.5, 0.5, 0, 0, 0}, {2, 3});
  EXPECT_TRUE(all_close(softmax(x, 1), expected, 1e-15));
  Tensor columns = make_view(empty({6}, f64), {2, 3}, {1, 2}, 0);
  copy_into(columns, x);
  EXPECT_TRUE(all_close(softmax(columns, 1), expected, 1e-15));
  Tensor turned = empty({3, 2}, f64), turned_expected = empty({3, 2}, f64);
  copy_into(turned, make_view(x, {3, 2}, {1, 3}, 0));
  copy_into(turned_expected, make_view(expected, {3, 2}, {1, 3}, 0));
  EXPECT_TRUE(all_close(softmax(turned, 0), turned_expected, 1e-15));
  const Gradients result = run(softmax_along(1), {x}, uniform({2, 3}));
  EXPECT_EQ(result.grads[0].to_vector<double>()[4], 0);
}

TEST(Softmax, F32StridesAndThreads) {
  for (const int axis : {0, 1, 2}) {
    expect_f32_agrees(softmax_along(axis), {uniform({5, 9, 33}, f64, -4, 4)}, 5e-7);
    expect_f32_agrees(log_softmax_along(axis), {uniform({5, 9, 33}, f64, -4, 4)}, 2e-6);
    expect_strided_agrees(softmax_along(axis), {uniform({3, 5, 4})});
    expect_strided_agrees(log_softmax_along(axis), {uniform({3, 5, 4})});
    expect_threads_agree(softmax_along(axis), {uniform({30, 50, 40}, f32)});
  }
}

TEST(Softmax, EmptyInputs) {
  EXPECT_EQ(softmax(zeros({0, 3}), 1).shape(), (Shape{0, 3}));
  EXPECT_EQ(softmax(zeros({3, 0}), 1).shape(), (Shape{3, 0}));
}

TEST(Softmax, Errors) {
  EXPECT_ERROR(softmax(zeros({2, 3}), 2), "softmax");
  EXPECT_ERROR(log_softmax(zeros({2, 3}), -3), "log_softmax");
  EXPECT_ERROR(softmax(zeros({2, 3}, i64, cpu), 0), "softmax: computes in f32 or f64");
}

}  // namespace
}  // namespace camo
