#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::bitwise_equal;
using test::uniform;

using Numbers = std::vector<int64_t>;

TEST(TopK, LargestFirstAndEqualOnesInOrder) {
  const Tensor x = from_vector<double>({1, 7, 7, 3, 5, 5, 5, 5}, {2, 4});
  const TopK top = top_k(x, 3);
  EXPECT_EQ(top.values.to_vector<double>(), (std::vector<double>{7, 7, 3, 5, 5, 5}));
  EXPECT_EQ(top.indices.to_vector<int64_t>(), (Numbers{1, 2, 3, 0, 1, 2}));
  EXPECT_EQ(top.indices.dtype(), i64);
}

TEST(TopK, NanCountsAsLargest) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor x = from_vector<double>({1, nan, std::numeric_limits<double>::infinity(), nan}, {4});
  EXPECT_EQ(top_k(x, 4).indices.to_vector<int64_t>(), (Numbers{1, 3, 2, 0}));
  EXPECT_EQ(top_k(x, 1).indices.to_vector<int64_t>(), (Numbers{1}));
}

TEST(TopK, AgreesWithAFullSortForSmallAndLargeK) {
  const Tensor x = to(uniform({6, 40}, f64, 0, 12), i64);  // many ties
  const std::vector<float> values = to(x, f32).to_vector<float>();
  for (int64_t k : {1, 2, 8, 9, 40}) {
    Numbers want;
    for (int64_t row = 0; row < 6; ++row) {
      Numbers order(40);
      for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
      std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
        return values[static_cast<size_t>(row * 40 + i)] > values[static_cast<size_t>(row * 40 + j)];
      });
      want.insert(want.end(), order.begin(), order.begin() + k);
    }
    const TopK top = top_k(to(x, f32), k);
    EXPECT_EQ(top.indices.to_vector<int64_t>(), want);
    EXPECT_TRUE(bitwise_equal(top.values, gather(to(x, f32), -1, top.indices)));
  }
}

TEST(TopK, TakesStridedAndEmptyTensors) {
  const Tensor x = permute(uniform({5, 3, 2}, f32), {2, 1, 0});
  EXPECT_TRUE(bitwise_equal(top_k(x, 2).values, top_k(contiguous(x), 2).values));
  EXPECT_EQ(top_k(zeros({0, 4}), 2).values.shape(), (Shape{0, 2}));
  EXPECT_EQ(top_k(zeros({3, 4}), 0).indices.shape(), (Shape{3, 0}));
}

TEST(TopK, WrongInputsAreNamed) {
  EXPECT_ERROR(top_k(zeros({}), 1), "top_k: x must have an axis; got []");
  EXPECT_ERROR(top_k(zeros({2, 3}), 4), "top_k: k must lie within the last extent of x; got k 4, x [2, 3]");
  EXPECT_ERROR(top_k(zeros({2, 3}), -1), "top_k: k must lie within the last extent of x; got k -1");
  EXPECT_ERROR(top_k(zeros({2, 3}, i64), 1), "top_k: computes in f");
}

}  // namespace
}  // namespace camo
