#include "ops/pool.h"

#include <cmath>
#include <limits>
#include <string>

#include "core/parallel.h"
#include "core/safetensors.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::uniform;

template <class Fn>
void expect_recorded(const char* name, Fn&& pool) {
  static const SafeTensors file = read_safetensors(std::string(CAMO_SOURCE_DIR) + "/tests/golden/ops/pool.safetensors");
  SCOPED_TRACE(name);
  for (DType dtype : {f64, f32}) {
    const auto at = [&](const char* what) {
      return to(to(file.at(std::string(name) + "." + what), dtype), default_device());
    };
    const double tolerance = dtype == f64 ? 1e-14 : 1e-6;
    const Tensor x = clone(at("x")).set_requires_grad(true);
    const Tensor y = pool(x);
    EXPECT_TRUE(all_close(y, at("y"), tolerance));
    backward(y, at("dy"));
    EXPECT_TRUE(all_close(x.grad(), at("dx"), tolerance));
  }
}

TEST(Pool, AverageMatchesPyTorch) {
  expect_recorded("avg_3_1_1", [](const Tensor& x) {
    return avg_pool2d(x, {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
  });
  expect_recorded("avg_5_1_2", [](const Tensor& x) {
    return avg_pool2d(x, {.kernel = {5, 5}, .stride = {1, 1}, .padding = {2, 2}});
  });
  expect_recorded("avg_2x3_2", [](const Tensor& x) {
    return avg_pool2d(x, {.kernel = {2, 3}, .stride = {2, 2}, .padding = {1, 1}});
  });
}

TEST(Pool, MaximumMatchesPyTorch) {
  expect_recorded("max_3_2_1", [](const Tensor& x) {
    return max_pool2d(x, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
  });
  expect_recorded("max_3_1_1", [](const Tensor& x) {
    return max_pool2d(x, {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
  });
  expect_recorded("max_2", [](const Tensor& x) { return max_pool2d(x, {}); });
}

TEST(Pool, AdaptiveAverageMatchesPyTorch) {
  for (auto [height, width] : {std::pair{1, 1}, {2, 2}, {4, 4}, {8, 8}, {3, 5}}) {
    const std::string name = concat_text("adaptive_", height, "x", width);
    expect_recorded(name.c_str(), [&](const Tensor& x) { return adaptive_avg_pool2d(x, height, width); });
  }
}

TEST(Pool, GlobalPoolsOfManyPixels) {
  const Tensor x = uniform({2, 37, 31, 5});  // more than one block of pixels
  const Tensor average = global_avg_pool2d(x), largest = global_max_pool2d(x);
  const auto values = x.to_vector<double>();
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t c = 0; c < 5; ++c) {
      double sum = 0, best = -2;
      for (int64_t pixel = 0; pixel < 37 * 31; ++pixel) {
        const double value = values[static_cast<size_t>((n * 37 * 31 + pixel) * 5 + c)];
        sum += value;
        best = std::max(best, value);
      }
      EXPECT_NEAR(select(select(average, 0, n), 0, c).item(), sum / (37 * 31), 1e-15);
      EXPECT_EQ(select(select(largest, 0, n), 0, c).item(), best);
    }
  }
}

TEST(Pool, FirstOfEqualMaximaGetsTheGradient) {
  const Tensor x = from_vector<double>({1, 3, 3, 2}, {1, 2, 2, 1}).set_requires_grad(true);
  backward(max_pool2d(x, {}), full({1, 1, 1, 1}, 5, f64));
  EXPECT_TRUE(bitwise_equal(x.grad(), from_vector<double>({0, 5, 0, 0}, {1, 2, 2, 1})));

  const Tensor many = full({1, 40, 40, 1}, 7, f64).set_requires_grad(true);  // equal across blocks of pixels
  backward(global_max_pool2d(many), ones({1, 1}, f64));
  EXPECT_EQ(select(flatten(many.grad()), 0, 0).item(), 1);
}

TEST(Pool, NanWinsAndNegativeInfinityIsAValue) {
  const double nan = std::nan(""), lowest = -std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isnan(max_pool2d(from_vector<double>({1, nan, 3, 2}, {1, 2, 2, 1}), {}).item()));
  EXPECT_TRUE(std::isnan(global_max_pool2d(from_vector<double>({1, nan, 3, 2}, {1, 2, 2, 1})).item()));
  EXPECT_EQ(max_pool2d(full({1, 2, 2, 1}, lowest, f64), {}).item(), lowest);
  // Padding never wins over negative elements.
  const Tensor y = max_pool2d(full({1, 2, 2, 1}, -4, f64), {.kernel = {2, 2}, .stride = {1, 1}, .padding = {1, 1}});
  EXPECT_TRUE(bitwise_equal(y, full({1, 3, 3, 1}, -4, f64)));
}

TEST(Pool, StridedAndEmptyInputs) {
  const Tensor x = uniform({2, 5, 6, 3});
  const Tensor view = permute(clone(permute(x, {0, 3, 1, 2})), {0, 2, 3, 1});
  EXPECT_TRUE(bitwise_equal(avg_pool2d(view, {}), avg_pool2d(x, {})));
  EXPECT_TRUE(bitwise_equal(max_pool2d(view, {}), max_pool2d(x, {})));
  EXPECT_TRUE(bitwise_equal(adaptive_avg_pool2d(view, 2, 2), adaptive_avg_pool2d(x, 2, 2)));
  EXPECT_TRUE(bitwise_equal(global_avg_pool2d(view), global_avg_pool2d(x)));
  EXPECT_TRUE(bitwise_equal(global_max_pool2d(view), global_max_pool2d(x)));

  const Tensor none = zeros({0, 4, 6, 3});
  EXPECT_EQ(avg_pool2d(none, {}).shape(), Shape({0, 2, 3, 3}));
  EXPECT_EQ(max_pool2d(none, {}).shape(), Shape({0, 2, 3, 3}));
  EXPECT_EQ(adaptive_avg_pool2d(none, 1, 2).shape(), Shape({0, 1, 2, 3}));
  EXPECT_EQ(global_avg_pool2d(none).shape(), Shape({0, 3}));
  EXPECT_EQ(global_max_pool2d(none).shape(), Shape({0, 3}));
}

TEST(Pool, DoesNotDependOnThreads) {
  const Tensor x = uniform({1, 61, 67, 9}, f32);
  const auto all = [&] {
    return Tensors{global_avg_pool2d(x), global_max_pool2d(x), adaptive_avg_pool2d(x, 4, 4),
                   avg_pool2d(x, {.kernel = {5, 5}, .stride = {1, 1}, .padding = {2, 2}})};
  };
  const int before = num_threads();
  set_num_threads(1);
  const Tensors one = all();
  set_num_threads(3);
  const Tensors three = all();
  set_num_threads(before);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(bitwise_equal(one[i], three[i])) << "result " << i;
}

TEST(Pool, RejectsWrongArguments) {
  const Tensor x = zeros({1, 4, 4, 2}), flat = zeros({4, 4, 2}), none = zeros({1, 0, 4, 2});
  EXPECT_ERROR(avg_pool2d(flat, {}), "avg_pool2d: x must be [N, H, W, C]; got [4, 4, 2]");
  EXPECT_ERROR(max_pool2d(flat, {}), "max_pool2d: x must be [N, H, W, C]; got [4, 4, 2]");
  EXPECT_ERROR(global_max_pool2d(flat), "global_max_pool2d: x must be [N, H, W, C]; got [4, 4, 2]");
  EXPECT_ERROR(avg_pool2d(x, {.kernel = {0, 2}}), "avg_pool2d: the kernel must be at least 1 x 1; got 0 x 2");
  EXPECT_ERROR(avg_pool2d(x, {.stride = {-1, 1}}), "avg_pool2d: strides must not be negative; got -1, 1");
  EXPECT_ERROR(max_pool2d(x, {.kernel = {3, 3}, .padding = {2, 2}}),
               "max_pool2d: padding must be from 0 to half of the kernel; got padding 2, kernel 3");
  EXPECT_ERROR(max_pool2d(x, {.padding = {-1, 0}}), "got padding -1, kernel 2");
  EXPECT_ERROR(avg_pool2d(x, {.kernel = {5, 2}}),
               "the kernel must fit into the padded input; got kernel 5, padded input 4");
  EXPECT_ERROR(adaptive_avg_pool2d(x, 0, 2), "adaptive_avg_pool2d: the new size must be at least 1 x 1; got 0 x 2");
  EXPECT_ERROR(adaptive_avg_pool2d(none, 2, 2), "adaptive_avg_pool2d: x must not have an empty height or width");
  EXPECT_ERROR(global_avg_pool2d(none),
               "global_avg_pool2d: x must not have an empty height or width; got [1, 0, 4, 2]");
  EXPECT_ERROR(avg_pool2d(zeros({1, 4, 4, 2}, u8), {}), "avg_pool2d: computes in f");
}

}  // namespace
}  // namespace camo
