#include <functional>
#include <vector>

#include "core/parallel.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::bitwise_equal;
using test::uniform;

using Numbers = std::vector<int64_t>;

Tensor index_of(const Numbers& values) { return from_vector(values, {static_cast<int64_t>(values.size())}); }
Tensor matrix(const Numbers& values, int64_t rows, int64_t columns) { return from_vector(values, {rows, columns}); }
Numbers numbers(const Tensor& x) { return x.to_vector<int64_t>(); }

TEST(Gather, PicksElementByElement) {
  const Tensor x = matrix({10, 11, 12, 20, 21, 22}, 2, 3);
  EXPECT_EQ(numbers(gather(x, 1, matrix({2, 0, 1, 1}, 2, 2))), (Numbers{12, 10, 21, 21}));
  EXPECT_EQ(numbers(gather(x, 0, matrix({1, 0, 1}, 1, 3))), (Numbers{20, 11, 22}));
  EXPECT_EQ(numbers(gather(x, -1, matrix({1}, 1, 1))), (Numbers{11}));
  EXPECT_EQ(gather(x, 1, from_vector<int64_t>({}, {2, 0})).shape(), (Shape{2, 0}));
}

TEST(Gather, TakesStridedOperandsInEveryDtype) {
  const Tensor index = transpose(matrix({1, 0, 0, 1}, 2, 2), 0, 1);
  for (DType dtype : {f32, f64, f16, bf16, i64, u8, boolean}) {
    const Tensor x = transpose(to(matrix({0, 1, 1, 0}, 2, 2), dtype), 0, 1);
    EXPECT_EQ(numbers(gather(x, 0, index)), numbers(gather(contiguous(x), 0, contiguous(index))));
  }
}

TEST(ScatterAdd, IsTheTransposeOfGather) {
  const Tensor values = matrix({1, 2, 4, 8}, 2, 2);
  EXPECT_EQ(numbers(scatter_add(values, 1, matrix({2, 2, 0, 1}, 2, 2), 3)), (Numbers{0, 0, 3, 4, 8, 0}));
  EXPECT_EQ(numbers(scatter_add(values, 0, matrix({0, 1, 0, 1}, 2, 2), 3)), (Numbers{5, 0, 0, 10, 0, 0}));
  EXPECT_EQ(numbers(scatter_add(zeros({0}), 0, index_of({}), 2)), (Numbers{0, 0}));
}

TEST(ScatterAdd, InnerProductsAgree) {
  const Tensor x = uniform({5, 7}), values = uniform({5, 4});
  Numbers places;
  for (int64_t i = 0; i < 20; ++i) places.push_back(i * 5 % 7);
  const Tensor index = matrix(places, 5, 4);
  const auto dot = [](const Tensor& a, const Tensor& b) {
    double total = 0;
    for (double value : mul(a, b).to_vector<double>()) total += value;
    return total;
  };
  EXPECT_NEAR(dot(gather(x, 1, index), values), dot(x, scatter_add(values, 1, index, 7)), 1e-12);
}

TEST(IndexSelect, CopiesWholeSlices) {
  const Tensor x = from_vector<int64_t>({0, 1, 2, 3, 4, 5, 6, 7}, {2, 2, 2});
  EXPECT_EQ(numbers(index_select(x, 0, index_of({1, 1, 0}))), (Numbers{4, 5, 6, 7, 4, 5, 6, 7, 0, 1, 2, 3}));
  EXPECT_EQ(numbers(index_select(x, -1, index_of({1}))), (Numbers{1, 3, 5, 7}));
  EXPECT_EQ(numbers(index_select(permute(x, {2, 1, 0}), 1, index_of({1}))), (Numbers{2, 6, 3, 7}));
  EXPECT_EQ(index_select(x, 1, index_of({})).shape(), (Shape{2, 0, 2}));
  EXPECT_TRUE(bitwise_equal(index_select(to(x, u8), 0, index_of({1, 0})), flip(to(x, u8), {0})));
}

TEST(IndexAdd, RepeatsAddUpAndXStays) {
  const Tensor x = matrix({100, 200, 300, 400, 500, 600}, 3, 2);
  EXPECT_EQ(numbers(index_add(x, 0, index_of({2, 0, 2}), matrix({1, 2, 3, 4, 5, 6}, 3, 2))),
            (Numbers{103, 204, 300, 400, 506, 608}));
  EXPECT_EQ(numbers(index_add(x, 1, index_of({1}), matrix({1, 2, 3}, 3, 1))), (Numbers{100, 201, 300, 402, 500, 603}));
  EXPECT_EQ(numbers(x), (Numbers{100, 200, 300, 400, 500, 600}));
  EXPECT_EQ(numbers(index_add(x, 0, index_of({}), from_vector<int64_t>({}, {0, 2}))), numbers(x));
}

TEST(IndexAdd, DoesNotDependOnTheNumberOfThreads) {
  const Tensor x = uniform({50, 333}, f32), values = uniform({400, 333}, f32);
  Numbers places;
  for (int64_t i = 0; i < 400; ++i) places.push_back(i * i % 50);
  const int threads = num_threads();
  set_num_threads(1);
  const Tensor one = index_add(x, 0, index_of(places), values);
  set_num_threads(5);
  const Tensor five = index_add(x, 0, index_of(places), values);
  set_num_threads(threads);
  EXPECT_TRUE(bitwise_equal(one, five));
  std::vector<float> want = x.to_vector<float>();
  const std::vector<float> added = values.to_vector<float>();
  for (size_t i = 0; i < places.size(); ++i) {
    for (size_t c = 0; c < 333; ++c) want[static_cast<size_t>(places[i]) * 333 + c] += added[i * 333 + c];
  }
  EXPECT_TRUE(bitwise_equal(one, from_vector(want, {50, 333})));
}

TEST(Indexing, WrongInputsAreNamed) {
  const Tensor x = zeros({2, 3});
  EXPECT_ERROR(gather(x, 1, zeros({2, 3})), "gather: the index must be i64; got f32; convert with to(index, i64)");
  EXPECT_ERROR(gather(x, 1, index_of({0})), "gather: the index must have as many axes");
  EXPECT_ERROR(gather(x, 1, matrix({0, 0, 0}, 3, 1)), "at most the extents off axis 1; got index [3, 1], x [2, 3]");
  EXPECT_ERROR(scatter_add(x, 1, index_of({0}), 3), "scatter_add: the index must have the shape of the values");
  EXPECT_ERROR(scatter_add(zeros({1}), 0, index_of({0}), -1), "scatter_add: the extent must not be negative; got -1");
  EXPECT_ERROR(index_select(x, 0, matrix({0}, 1, 1)), "index_select: the index must be a vector; got [1, 1]");
  EXPECT_ERROR(index_add(x, 0, matrix({0}, 1, 1), x), "index_add: the index must be a vector; got [1, 1]");
  EXPECT_ERROR(index_add(x, 0, index_of({0}), x), "index_add: values must be [1, 3], one slice of x for each index");
  EXPECT_ERROR(index_add(x, 0, index_of({0}), zeros({1, 3}, f64)), "index_add: operands must have one dtype");
}

/// On a GPU a bad index is found when the host waits for the kernel: reading the result does.
void expect_index_error(const std::function<Tensor()>& fn, const char* text) {
  EXPECT_ERROR(fn().to_vector<float>(), text);
}

TEST(Indexing, IndicesOutOfRangeAndDtypesAreNamed) {
  const Tensor x = zeros({2, 3});
  expect_index_error(
      [&] {
        return gather(x, 1, matrix({0, 3}, 2, 1));
      },
      "gather: indices must lie within the extent 3; got 3");
  expect_index_error([] { return scatter_add(zeros({1}), 0, index_of({2}), 2); },
                     "scatter_add: indices must lie within the extent 2; got 2");
  expect_index_error([&] { return index_select(x, 0, index_of({-1})); },
                     "index_select: indices must lie within the extent 2; got -1");
  expect_index_error(
      [&] {
        return index_add(x, 0, index_of({5}), zeros({1, 3}));
      },
      "index_add: indices must lie within the extent 2; got 5");
  // Nothing to index: known without the values of the index.
  const Tensor nothing = zeros({0, 1 << 20});
  EXPECT_ERROR(gather(nothing, 0, zeros({1, 1}, i64)), "gather: indices must lie within the extent 0; got an index [1");
  EXPECT_ERROR(index_select(nothing, 0, index_of({0})),
               "index_select: indices must lie within the extent 0; got an index [1]");
  EXPECT_ERROR(index_add(nothing, 0, index_of({0}), zeros({1, 1 << 20})),
               "index_add: indices must lie within the extent 0; got an index [1]");
  EXPECT_ERROR(scatter_add(zeros({1}), 0, index_of({0}), 0),
               "scatter_add: indices must lie within the extent 0; got an index [1]");
  EXPECT_EQ(index_select(nothing, 0, index_of({})).shape(), Shape({0, 1 << 20}));
  EXPECT_ERROR(scatter_add(zeros({1}, boolean), 0, index_of({0}), 2), default_device().is_cuda()
                                                                          ? "scatter_add: computes in floating dtypes"
                                                                          : "scatter_add: computes in f32, f64 or i64");
  EXPECT_EQ(index_select(x, 0, index_of({1})).to_vector<float>(), std::vector<float>(3));  // the device still works
}

}  // namespace
}  // namespace camo
