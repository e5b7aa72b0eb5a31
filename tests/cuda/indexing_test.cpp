#include <vector>

#include "ops/shape_ops.h"
#include "tests/cuda/cuda_test.h"

namespace camo {
namespace {

using namespace test;
using CudaIndexing = CudaTest;
using CudaTopK = CudaTest;

Tensor places(int64_t count, int64_t extent, const Shape& shape) {
  std::vector<int64_t> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(i * i * 7 % extent);
  return from_vector(values, shape);
}

TEST_F(CudaIndexing, SlicesAgreeWithTheCpu) {
  // Rows of whole 16-byte packs, and rows of none.
  for (const Shape& shape : {Shape{6, 12, 10, 24}, Shape{6, 5, 7, 3}, Shape{6}}) {
    for (DType dtype : {f32, f16, bf16, f64}) {
      const Tensor x = to(uniform(shape, f64), dtype);
      for (int axis = 0; axis < std::min(2, shape.size()); ++axis) {
        const int64_t extent = shape[axis];
        const auto index_like = [=](const Tensor& like) { return to(places(9, extent, {9}), like.device()); };
        expect_cuda_agrees([&](const Tensors& in) { return index_select(in[0], axis, index_like(in[0])); }, {x}, 8);
        Shape wanted = shape;
        wanted[axis] = 9;
        const Tensor values = to(uniform(wanted, f64), dtype);
        const MapFunction add = [&](const Tensors& in) { return index_add(in[0], axis, index_like(in[0]), in[1]); };
        expect_cuda_agrees(add, {x, values}, 8);
        expect_cuda_agrees(add, {misaligned(x), values}, 8);
      }
    }
  }
}

TEST_F(CudaIndexing, SumsOfFloatsHaveTheBitsOfTheCpu) {
  const Tensor x = uniform({50, 333}, f32), values = uniform({400, 333}, f32), index = places(400, 50, {400});
  EXPECT_TRUE(bitwise_equal(index_add(x, 0, index, values), index_add(to(x, cpu), 0, to(index, cpu), to(values, cpu))));
  const Tensor lanes = places(400 * 3, 50, {400, 3}), few = uniform({400, 3}, f32);
  EXPECT_TRUE(bitwise_equal(scatter_add(few, 0, lanes, 50), scatter_add(to(few, cpu), 0, to(lanes, cpu), 50)));
}

TEST_F(CudaIndexing, GatherAndScatterAgreeWithTheCpu) {
  for (DType dtype : {f32, f16, bf16, f64}) {
    const Tensor x = to(uniform({5, 9, 4}, f64), dtype);
    const auto index_like = [](const Tensor& like) { return to(places(5 * 6 * 4, 9, {5, 6, 4}), like.device()); };
    expect_cuda_agrees([&](const Tensors& in) { return gather(in[0], 1, index_like(in[0])); }, {x}, 8);
    expect_cuda_agrees([&](const Tensors& in) { return gather(in[0], 1, index_like(in[0])); },
                       {transpose(to(uniform({9, 5, 4}, f64), dtype), 0, 1)}, 8);
    expect_cuda_agrees([&](const Tensors& in) { return scatter_add(in[0], 1, index_like(in[0]), 9); },
                       {to(uniform({5, 6, 4}, f64), dtype)}, 8);
  }
}

TEST_F(CudaIndexing, TheIndexMustBeOnTheDevice) {
  const Tensor index = from_vector<int64_t>({0}, {1}, cpu);
  EXPECT_ERROR(index_select(zeros({2, 3}), 0, index),
               "index_select: operands must be on one device; got an index on cpu and cuda:0");
}

TEST_F(CudaTopK, AgreesWithTheCpuForShortAndLongRows) {
  for (const Shape& shape : {Shape{16, 7}, Shape{300, 64}, Shape{3, 1000}}) {
    const Tensor x = to(to(uniform(shape, f64, 0, 30), i64), f32);  // many ties
    for (int64_t k : {int64_t{1}, int64_t{2}, shape[1]}) {
      const TopK here = top_k(x, k), there = top_k(to(x, cpu), k);
      EXPECT_TRUE(bitwise_equal(here.values, there.values));
      EXPECT_TRUE(bitwise_equal(here.indices, there.indices));
      EXPECT_TRUE(bitwise_equal(top_k(to(x, bf16), k).indices, there.indices));
    }
  }
  expect_cuda_agrees([](const Tensors& in) { return top_k(in[0], 3).values; }, {to(uniform({16, 7}, f64), f16)}, 1);
}

}  // namespace
}  // namespace camo
