#include "ops/reduce.h"

#include <cmath>
#include <functional>
#include <limits>

#include "core/parallel.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::uniform;

/// The reduction by definition: combine(accumulator, element) over every element, in double.
Tensor by_definition(const Tensor& x, const Shape& axes, bool keep_dims, double start,
                     const std::function<double(double, double)>& combine) {
  Shape kept = x.shape();
  std::vector<bool> reduced(static_cast<size_t>(x.dims()), axes.empty());
  for (int64_t axis : axes) reduced[static_cast<size_t>(normalize_axis(axis, x.dims(), "test"))] = true;
  Shape result;
  for (int i = 0; i < x.dims(); ++i) {
    if (reduced[static_cast<size_t>(i)]) kept[i] = 1;
    if (!reduced[static_cast<size_t>(i)] || keep_dims) result.push_back(kept[i]);
  }
  std::vector<double> values(static_cast<size_t>(kept.numel()), start);
  const std::vector<double> elements = x.to_vector<double>();
  const Shape strides = kept.contiguous_strides();
  for (int64_t flat = 0; flat < x.numel(); ++flat) {
    int64_t rest = flat, place = 0;
    for (int i = x.dims() - 1; i >= 0; --i) {
      if (kept[i] != 1) place += rest % x.shape()[i] * strides[i];
      rest /= x.shape()[i];
    }
    double& value = values[static_cast<size_t>(place)];
    value = combine(value, elements[static_cast<size_t>(flat)]);
  }
  return from_vector(values, result);
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct ReduceCase {
  Shape x, axes;
};
// Short and long rows, few and many columns, one and two passes, more than one block.
const ReduceCase kCases[] = {{{3, 5, 7}, {}},
                             {{}, {}},
                             {{40000}, {0}},
                             {{100, 24}, {-1}},
                             {{50, 100}, {1}},
                             {{700, 96}, {0}},
                             {{3000, 3}, {0}},
                             {{2, 1500}, {0}},
                             {{4, 32, 32, 24}, {1, 2}},
                             {{2, 70, 70, 8}, {0, 1, 2}},
                             {{3, 50, 4, 20}, {0, 2}},
                             {{2, 3, 2, 3, 2}, {0, 2, 4}},
                             {{5, 1, 4}, {1}},
                             {{0, 3}, {1}}};

TEST(Reduce, AgreesWithItsDefinition) {
  for (const ReduceCase& c : kCases) {
    SCOPED_TRACE(c.x.str() + " over " + c.axes.str());
    for (bool keep_dims : {false, true}) {
      for (DType dtype : {f64, f32}) {
        const Tensor x = uniform(c.x, dtype);
        const double tolerance = dtype == f64 ? 1e-13 : 2e-7;
        const auto agrees = [&](const Tensor& y, const Tensor& want) {
          EXPECT_EQ(y.dtype(), dtype);
          EXPECT_TRUE(all_close(to(y, f64), want, tolerance));
        };
        const Tensor total = by_definition(x, c.axes, keep_dims, 0, [](double a, double b) { return a + b; });
        const double count = c.x.numel() == 0 ? 3 : static_cast<double>(c.x.numel() / total.numel());
        agrees(sum(x, c.axes, keep_dims), total);
        agrees(mean(x, c.axes, keep_dims), total / count);
        agrees(max(x, c.axes, keep_dims),
               by_definition(x, c.axes, keep_dims, -kInfinity, [](double a, double b) { return std::max(a, b); }));
        agrees(min(x, c.axes, keep_dims),
               by_definition(x, c.axes, keep_dims, kInfinity, [](double a, double b) { return std::min(a, b); }));
        agrees(norm(x, c.axes, keep_dims),
               sqrt(by_definition(x, c.axes, keep_dims, 0, [](double a, double b) { return a + b * b; })));
      }
    }
  }
}

TEST(Reduce, StridedInputsReadAsTheirCopies) {
  const Tensor x = slice(permute(uniform({6, 5, 9}, f32), {2, 0, 1}), 0, 1, 9, 3);
  const Tensor wide = expand(uniform({3, 1, 4}, f32), {3, 5, 4});
  for (const Tensor& view : {x, wide}) {
    const Tensor copy = contiguous(view);
    EXPECT_TRUE(bitwise_equal(sum(view, {0, 2}), sum(copy, {0, 2})));
    EXPECT_TRUE(bitwise_equal(max(view, {1}), max(copy, {1})));
    EXPECT_TRUE(bitwise_equal(norm(view), norm(copy)));
    EXPECT_TRUE(bitwise_equal(argmax(view, 1), argmax(copy, 1)));
  }
}

TEST(Reduce, LargeFloatSumsKeepTheirDigits) {
  const Tensor x = full({3000000}, 0.1);
  EXPECT_NEAR(sum(x).item(), 3000000.0 * static_cast<double>(0.1f), 0.02);
  const Tensor columns = full({400000, 3}, 0.1);
  for (double value : sum(columns, {0}).to_vector<double>()) {
    EXPECT_NEAR(value, 400000.0 * static_cast<double>(0.1f), 0.003);
  }
}

TEST(Reduce, DoesNotDependOnTheNumberOfThreads) {
  const Tensor x = uniform({3, 150, 170, 7}, f32);
  const auto all = [&] { return Tensors{sum(x), sum(x, {1, 2}), sum(x, {0}), sum(x, {3}), mean(x, {0, 2})}; };
  const int threads = num_threads();
  set_num_threads(1);
  const Tensors one = all();
  set_num_threads(5);
  const Tensors five = all();
  set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(bitwise_equal(one[i], five[i]));
}

TEST(Reduce, IntegersSumAndCompare) {
  const Tensor x = from_vector<int64_t>({1, -7, 3, 4}, {2, 2});
  EXPECT_EQ(sum(x, {0}).to_vector<int64_t>(), (std::vector<int64_t>{4, -3}));
  EXPECT_EQ(max(x).item(), 4);
  EXPECT_EQ(min(x, {1}).to_vector<int64_t>(), (std::vector<int64_t>{-7, 3}));
}

TEST(Reduce, NanWinsExtremaAndArgmax) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int64_t length : {3, 20, 100}) {
    std::vector<double> values(static_cast<size_t>(length), 1);
    values[1] = nan;
    const Tensor x = from_vector(values, {length});
    EXPECT_TRUE(std::isnan(max(x).item()));
    EXPECT_TRUE(std::isnan(min(x).item()));
    EXPECT_EQ(argmax(x, 0).item(), 1);
  }
  const Tensor columns = from_vector<double>({1, 2, nan, 0, 5, 6, 7, 8}, {4, 2});
  EXPECT_TRUE(std::isnan(max(columns, {0}).to_vector<double>()[0]));
  EXPECT_EQ(max(columns, {0}).to_vector<double>()[1], 8);
}

TEST(Reduce, ArgmaxTakesTheFirstOfEqualOnes) {
  const Tensor x = from_vector<double>({1, 5, 5, 2, 9, 9}, {2, 3});
  EXPECT_EQ(argmax(x, 1).to_vector<int64_t>(), (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(argmax(x, 0, true).to_vector<int64_t>(), (std::vector<int64_t>{1, 1, 1}));
  EXPECT_EQ(argmax(x, 0, true).shape(), (Shape{1, 3}));
  EXPECT_EQ(argmax(x, 0).dtype(), i64);
}

TEST(Reduce, EqualExtremaShareTheGradient) {
  const Tensor x = from_vector<double>({3, 1, 3, 0, 2, 1}, {2, 3}).set_requires_grad(true);
  backward(max(x, {1}), from_vector<double>({4, 6}, {2}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{2, 0, 2, 0, 6, 0}));
}

TEST(Reduce, NormOfZeroHasNoGradient) {
  const Tensor x = from_vector<double>({0, 0, 3, 4}, {2, 2}).set_requires_grad(true);
  backward(norm(x, {1}), ones({2}, f64));
  EXPECT_TRUE(all_close(x.grad(), from_vector<double>({0, 0, 0.6, 0.8}, {2, 2}), 1e-15));
}

TEST(Reduce, EmptySumsAreZero) {
  EXPECT_EQ(sum(zeros({0, 3})).item(), 0);
  EXPECT_EQ(sum(zeros({0, 3}), {0}).to_vector<double>(), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(norm(zeros({2, 0}), {1}).to_vector<double>(), (std::vector<double>{0, 0}));
}

TEST(Reduce, SumToUndoesBroadcasting) {
  const Tensor x = uniform({4, 5, 6, 24}, f32);
  EXPECT_TRUE(sum_to(x, x.shape()).same_as(x));
  EXPECT_TRUE(bitwise_equal(sum_to(x, {24}), sum(x, {0, 1, 2})));
  EXPECT_TRUE(bitwise_equal(sum_to(x, {4, 1, 1, 24}), sum(x, {1, 2}, true)));
  EXPECT_TRUE(bitwise_equal(sum_to(x, {5, 1, 1}), squeeze(sum(x, {0, 2, 3}, true), 0)));
  EXPECT_EQ(sum_to(zeros({0, 3}), {1, 3}).to_vector<double>(), (std::vector<double>{0, 0, 0}));
}

TEST(Reduce, WrongInputsAreNamed) {
  const Tensor x = zeros({2, 3}), none = zeros({2, 0});
  EXPECT_ERROR(sum(x, {0, -2}), "sum: an axis must not be repeated; got axes [0, -2], x [2, 3]");
  EXPECT_ERROR(sum(x, {2}), "sum: ");
  EXPECT_ERROR(mean(none, {1}), "mean: the reduced axes must not be empty; got x [2, 0]");
  EXPECT_ERROR(max(none), "max: the reduced axes must not be empty; got x [2, 0]");
  EXPECT_ERROR(min(none, {-1}), "min: the reduced axes must not be empty");
  EXPECT_ERROR(argmax(none, 1), "argmax: the reduced axes must not be empty");
  EXPECT_ERROR(sum_to(x, {4, 3}), "sum_to: shapes must broadcast; got [2, 3] and [4, 3]");
  EXPECT_ERROR(sum_to(x, {1, 2, 3}), "sum_to: the shape must broadcast to x's; got [1, 2, 3], x [2, 3]");
  EXPECT_ERROR(sum_to(zeros({1, 3}), {2, 3}), "sum_to: the shape must broadcast to x's; got [2, 3], x [1, 3]");
}

TEST(Reduce, ANormThatIsNaNGivesNoZeros) {
  const Tensor x = from_vector<double>({std::numeric_limits<double>::quiet_NaN(), 1}, {2}).set_requires_grad(true);
  backward(norm(x));
  for (const double gradient : x.grad().to_vector<double>()) EXPECT_TRUE(std::isnan(gradient));
}

// f16 counts to 65504 and bf16 to 256 by ones.
TEST(Reduce, ManyEqualOnesShareTheGradientIn16Bit) {
  for (const DType dtype : {f16, bf16}) {
    const Tensor x = zeros({70000}, dtype).set_requires_grad(true);
    backward(max(x), full({}, 7000, dtype));
    EXPECT_NEAR(max(to(x.grad(), f64)).item(), 0.1, 5e-4);
    EXPECT_EQ(x.grad().dtype(), dtype);
  }
}

TEST(Reduce, DtypesThatTheCpuDoesNotComputeInAreNamed) {
  set_default_device(cpu);
  EXPECT_ERROR(sum(zeros({3}, boolean)), "sum: computes in f32, f64 or i64 on the CPU; got bool");
  EXPECT_ERROR(mean(zeros({3}, i64)), "mean: computes in f32 or f64 on the CPU; got i64");
}

}  // namespace
}  // namespace camo
