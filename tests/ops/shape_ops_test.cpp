#include "ops/shape_ops.h"

#include <limits>
#include <numeric>

#include "core/autograd.h"
#include "ops/elementwise.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::bitwise_equal;
using test::uniform;

using Numbers = std::vector<int64_t>;

/// 0, 1, 2, ... in this shape.
Tensor count_up(const Shape& shape, DType dtype = i64) {
  Numbers values(static_cast<size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0);
  return to(from_vector(values, shape), dtype);
}

Numbers numbers(const Tensor& x) { return x.to_vector<int64_t>(); }

TEST(Reshape, KeepsRowMajorOrderAndViewsWherePossible) {
  const Tensor x = count_up({2, 3, 4});
  EXPECT_EQ(reshape(x, {4, -1}).shape(), (Shape{4, 6}));
  EXPECT_EQ(reshape(x, {4, -1}).raw_data(), x.raw_data());
  EXPECT_TRUE(reshape(x, x.shape()).same_as(x));
  EXPECT_EQ(numbers(reshape(x, {24})), numbers(x));
}

TEST(Reshape, SplitsAndMergesStridedAxesWithoutACopy) {
  const Tensor x = slice(count_up({4, 5, 6}), 2, 0, 6, 2);  // [4, 5, 3], strides 30, 6, 2
  const Tensor merged = reshape(x, {20, 3});
  EXPECT_EQ(merged.strides(), (Shape{6, 2}));
  EXPECT_EQ(numbers(merged), numbers(x));
  const Tensor divided = reshape(x, {2, 2, 5, 1, 3});
  EXPECT_EQ(divided.raw_data(), x.raw_data());
  EXPECT_EQ(numbers(divided), numbers(x));
  const Tensor repeated = expand(count_up({3, 1}), {3, 4});
  EXPECT_EQ(numbers(reshape(repeated, {3, 2, 2})), numbers(repeated));
}

TEST(Reshape, CopiesWhereStridesDoNotFit) {
  const Tensor x = transpose(count_up({3, 4}), 0, 1);
  const Tensor y = reshape(x, {12});
  EXPECT_NE(y.raw_data(), x.raw_data());
  EXPECT_EQ(numbers(y), (Numbers{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));
  const Tensor middle = slice(count_up({3, 4}), 1, 1, 3);
  EXPECT_EQ(numbers(reshape(middle, {6})), (Numbers{1, 2, 5, 6, 9, 10}));
}

TEST(Reshape, FlattenSqueezeAndUnsqueeze) {
  const Tensor x = count_up({2, 1, 3, 4});
  EXPECT_EQ(flatten(x).shape(), (Shape{24}));
  EXPECT_EQ(flatten(x, 1, -2).shape(), (Shape{2, 3, 4}));
  EXPECT_EQ(flatten(count_up({}), 0, -1).shape(), (Shape{1}));
  EXPECT_EQ(squeeze(x, 1).shape(), (Shape{2, 3, 4}));
  EXPECT_EQ(unsqueeze(x, -1).shape(), (Shape{2, 1, 3, 4, 1}));
  EXPECT_EQ(unsqueeze(transpose(squeeze(x, 1), 0, 2), 0).shape(), (Shape{1, 4, 3, 2}));
}

TEST(Permute, ReordersAxes) {
  const Tensor x = count_up({2, 3, 4});
  const Tensor y = permute(x, {2, 0, -2});
  EXPECT_EQ(y.shape(), (Shape{4, 2, 3}));
  EXPECT_EQ(select(select(select(y, 0, 3), 0, 1), 0, 2).item(), 23);
  EXPECT_EQ(numbers(transpose(count_up({2, 2}), 0, -1)), (Numbers{0, 2, 1, 3}));
  EXPECT_TRUE(contiguous(y).is_contiguous());
  EXPECT_TRUE(contiguous(x).same_as(x));
}

TEST(Expand, RepeatsWithoutACopy) {
  const Tensor x = count_up({2, 1});
  const Tensor y = expand(x, {3, 2, 2});
  EXPECT_EQ(y.raw_data(), x.raw_data());
  EXPECT_EQ(numbers(y), (Numbers{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(expand(x, {0, 2, 1}).numel(), 0);
}

TEST(Slice, TakesPartsAndSteps) {
  const Tensor x = count_up({3, 5});
  EXPECT_EQ(numbers(slice(x, 1, 1, -1, 2)), (Numbers{1, 3, 6, 8, 11, 13}));
  EXPECT_EQ(numbers(slice(x, 0, -1, 3)), (Numbers{10, 11, 12, 13, 14}));
  EXPECT_EQ(slice(x, 0, 3, 3).shape(), (Shape{0, 5}));
  EXPECT_EQ(numbers(select(x, 1, -1)), (Numbers{4, 9, 14}));
  EXPECT_EQ(numbers(slice(slice(x, 1, 1, 5, 2), 1, 1, 2)), (Numbers{3, 8, 13}));
}

TEST(Split, PartsAreViews) {
  const Tensor x = count_up({2, 6});
  const Tensors parts = split(x, {1, 0, 5}, 1);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].raw_data(), x.raw_data());
  EXPECT_EQ(numbers(parts[0]), (Numbers{0, 6}));
  EXPECT_EQ(parts[1].shape(), (Shape{2, 0}));
  EXPECT_EQ(numbers(parts[2]), (Numbers{1, 2, 3, 4, 5, 7, 8, 9, 10, 11}));
}

TEST(Split, ChunksAreAsPyTorchMakesThem) {
  const auto extents = [](int64_t extent, int count) {
    Numbers sizes;
    for (const Tensor& part : chunk(zeros({extent}), count, 0)) sizes.push_back(part.size(0));
    return sizes;
  };
  EXPECT_EQ(extents(7, 3), (Numbers{3, 3, 1}));
  EXPECT_EQ(extents(5, 4), (Numbers{2, 2, 1}));
  EXPECT_EQ(extents(6, 3), (Numbers{2, 2, 2}));
  EXPECT_EQ(extents(2, 5), (Numbers{1, 1}));
}

TEST(Split, OneNodeGathersTheGradientsOfAllParts) {
  const Tensor x = uniform({2, 6}).set_requires_grad(true);
  const Tensors parts = chunk(x, 3, 1);
  EXPECT_EQ(parts[0].grad_node(), parts[2].grad_node());
  backward(parts[2], full({2, 2}, 5, f64));
  EXPECT_EQ(numbers(x.grad()), (Numbers{0, 0, 0, 0, 5, 5, 0, 0, 0, 0, 5, 5}));
}

/// Takes two parts, and writes their gradients, 1 2 3 ..., side by side into one tensor.
struct SideBySideNode final : Node {
  SideBySideNode() : Node("side by side") {}
  Tensors backward(const Tensors&) override { return split(to(count_up({3, 6}), f64), {2, 4}, 1); }
};

TEST(Split, GradientsMayLieSideBySide) {
  const Tensor x = uniform({3, 6}).set_requires_grad(true);
  const Tensors parts = split(x, {2, 4}, 1);
  const Tensor y = zeros({1}, f64);
  record<SideBySideNode>(y, parts);
  backward(y, full({1}, 1, f64));
  EXPECT_EQ(numbers(x.grad()), numbers(count_up({3, 6})));
}

TEST(Unstack, UndoesStack) {
  const Tensor x = count_up({2, 3, 4});
  for (int axis : {0, 1, -1}) {
    const Tensors parts = unstack(x, axis);
    ASSERT_EQ(static_cast<int64_t>(parts.size()), x.size(axis));
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_TRUE(bitwise_equal(parts[i], select(x, axis, static_cast<int64_t>(i))));
    }
    EXPECT_TRUE(bitwise_equal(stack(parts, axis), x));
  }
}

TEST(Concat, JoinsInEveryDtype) {
  for (DType dtype : {f32, f64, f16, bf16, i64, u8}) {
    const Tensor x = count_up({2, 3, 4}, dtype);
    for (int axis : {0, 1, 2, -1}) {
      const int64_t extent = x.size(axis);
      EXPECT_TRUE(bitwise_equal(concat(split(x, {1, extent - 1}, axis), axis), x));
      EXPECT_TRUE(bitwise_equal(
          concat({contiguous(slice(x, axis, 0, 1)), slice(x, axis, 1, 1), contiguous(slice(x, axis, 1, extent))}, axis),
          x));
    }
  }
  EXPECT_EQ(concat({zeros({0, 2}), zeros({0, 3})}, 1).shape(), (Shape{0, 5}));
}

TEST(Concat, LargeMapsJoinAlongChannels) {
  const Tensor x = uniform({2, 40, 41, 24}, f32);
  const Tensors parts = chunk(x, 3, -1);
  EXPECT_TRUE(bitwise_equal(concat({contiguous(parts[0]), contiguous(parts[1]), contiguous(parts[2])}, -1), x));
  EXPECT_TRUE(bitwise_equal(concat(parts, -1), x));
}

TEST(Concat, StackAddsAnAxis) {
  const Tensor a = count_up({2}), b = count_up({2}) + 10;
  EXPECT_EQ(numbers(stack({a, b}, 0)), (Numbers{0, 1, 10, 11}));
  EXPECT_EQ(numbers(stack({a, b}, -1)), (Numbers{0, 10, 1, 11}));
}

TEST(Pad, AddsZeros) {
  EXPECT_EQ(numbers(pad(count_up({2, 2}) + 1, 1, 1, 2)), (Numbers{0, 1, 2, 0, 0, 0, 3, 4, 0, 0}));
  EXPECT_EQ(numbers(pad(transpose(count_up({2, 2}), 0, 1), 0, 1, 0)), (Numbers{0, 0, 0, 2, 1, 3}));
  EXPECT_EQ(pad(zeros({0, 2}), 0, 1, 2).shape(), (Shape{3, 2}));
}

TEST(Flip, ReversesAxes) {
  const Tensor x = count_up({2, 3});
  EXPECT_EQ(numbers(flip(x, {0})), (Numbers{3, 4, 5, 0, 1, 2}));
  EXPECT_EQ(numbers(flip(x, {-1})), (Numbers{2, 1, 0, 5, 4, 3}));
  EXPECT_EQ(numbers(flip(x, {0, 1})), (Numbers{5, 4, 3, 2, 1, 0}));
  EXPECT_EQ(numbers(flip(transpose(x, 0, 1), {0})), (Numbers{2, 5, 1, 4, 0, 3}));
  EXPECT_EQ(flip(zeros({0, 3}), {0, 1}).shape(), (Shape{0, 3}));
}

TEST(Rot90, TurnsAsNumPyDoes) {
  const Tensor x = count_up({1, 2, 3, 1});
  EXPECT_EQ(numbers(rot90(x, 1)), (Numbers{2, 5, 1, 4, 0, 3}));
  EXPECT_EQ(rot90(x, 1).shape(), (Shape{1, 3, 2, 1}));
  EXPECT_EQ(numbers(rot90(x, 2)), (Numbers{5, 4, 3, 2, 1, 0}));
  EXPECT_EQ(numbers(rot90(x, -1)), (Numbers{3, 0, 4, 1, 5, 2}));
  const Tensor map = uniform({2, 5, 3, 4}, f32);
  EXPECT_TRUE(bitwise_equal(rot90(rot90(map, 3), 1), map));
  EXPECT_TRUE(bitwise_equal(rot90(map, 7), rot90(map, -1)));
  EXPECT_TRUE(bitwise_equal(rot90(map, 4), map));
}

TEST(ShapeOps, WrongInputsAreNamed) {
  const Tensor x = zeros({2, 3});
  EXPECT_ERROR(reshape(x, {-1, -1}), "reshape: at most one extent may be -1; got [-1, -1]");
  EXPECT_ERROR(reshape(x, {-2, 3}), "reshape: extents must not be negative, but for one -1; got [-2, 3]");
  EXPECT_ERROR(reshape(x, {4, -1}), "reshape: the elements of [2, 3] must divide into [4, -1]; got 6 elements");
  EXPECT_ERROR(reshape(x, {5}), "reshape: the number of elements must stay; got x [2, 3], shape [5]");
  EXPECT_ERROR(flatten(x, 1, 0), "flatten: the first axis must not be after the last; got 1 and 0, x [2, 3]");
  EXPECT_ERROR(permute(x, {0}), "permute: the order must name every axis of x once; got [0], x [2, 3]");
  EXPECT_ERROR(permute(x, {0, 0}), "permute: the order must name every axis of x once; got [0, 0]");
  EXPECT_ERROR(transpose(x, 0, 2), "transpose: ");
  EXPECT_ERROR(squeeze(x, 0), "squeeze: the axis must have extent 1; got axis 0, x [2, 3]");
  EXPECT_ERROR(expand(x, {3, 3}), "expand: only extents of 1 and new leading axes can be repeated; got x [2, 3]");
  EXPECT_ERROR(expand(x, {3}), "expand: only extents of 1");
  EXPECT_ERROR(slice(x, 1, 0, 4), "slice: positions must lie in order within the extent 3 of axis 1; got 0 : 4");
  EXPECT_ERROR(slice(x, 1, 2, 1), "slice: positions must lie in order");
  EXPECT_ERROR(slice(x, 1, 0, 3, 0), "slice: the step must be at least 1; got 0");
  EXPECT_ERROR(select(x, 0, 2), "select: the index must lie within the extent 2 of axis 0; got 2, x [2, 3]");
  EXPECT_ERROR(split(x, {1, 1}, 1),
               "split: sizes must not be negative and add up to the extent 3 of axis 1; got [1, 1], x [2, 3]");
  EXPECT_ERROR(split(x, {4, -1}, 1), "split: sizes must not be negative");
  EXPECT_ERROR(chunk(x, 0, 0), "chunk: the count must be at least 1; got 0");
  EXPECT_ERROR(concat({}, 0), "concat: needs at least one part; got none");
  EXPECT_ERROR(concat({x, zeros({3, 3})}, 1),
               "concat: all extents but that of axis 1 must be equal; got [2, 3] and [3, 3]");
  EXPECT_ERROR(concat({x, zeros({2, 3}, f64)}, 1), "concat: parts must have one dtype and device; got f32");
  EXPECT_ERROR(stack({}, 0), "stack: needs at least one part; got none");
  EXPECT_ERROR(stack({x, zeros({2, 4})}, 0), "stack: all shapes must be equal; got [2, 3] and [2, 4]");
  EXPECT_ERROR(pad(x, 0, -1, 0), "pad: amounts must not be negative; got -1 and 0; slice() removes");
  EXPECT_ERROR(flip(x, {0, -2}), "flip: an axis must not be repeated; got axes [0, -2]");
  EXPECT_ERROR(rot90(x, 1), "rot90: x must be [N, H, W, C]; got [2, 3]");
  EXPECT_ERROR(select(zeros({}), 0, 0), "select: the tensor has no axes, its shape is []; got axis 0");
}

// A shape whose number of elements wraps around to that of x would be a view of memory that is not there.
TEST(ShapeOps, ExtentsThatOverflowAreRefused) {
  constexpr int64_t k32 = int64_t{1} << 32, k62 = int64_t{1} << 62;
  EXPECT_ERROR(reshape(zeros({0}), {k32, k32}), "reshape: the number of elements must stay; got x [0]");
  EXPECT_ERROR(expand(zeros({1}), {k32, k32}), "expand: shape [4294967296, 4294967296] has too many elements");
  EXPECT_ERROR(expand(zeros({1, 3}), {-1, 3}), "expand: extents must not be negative; got x [1, 3], shape [-1, 3]");
  EXPECT_ERROR(split(zeros({4}), {k62, k62, k62, k62 + 4}, 0), "split: sizes must not be negative and add up to");
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(slice(from_vector<float>({5, 6, 7}, {3}), 0, 1, 3, kMost).to_vector<float>(), (std::vector<float>{6}));
}

TEST(ShapeOps, NothingIsSplitIntoNoParts) {
  EXPECT_TRUE(unstack(zeros({0, 3}), 0).empty());
  EXPECT_TRUE(split(zeros({2, 0}), {}, 1).empty());
  EXPECT_ERROR(split(zeros({2}), {}, 0), "add up to the extent 2 of axis 0; got [], x [2]");
}

}  // namespace
}  // namespace camo
