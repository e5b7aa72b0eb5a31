#include "ops/elementwise.h"

#include "ops/dropout.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"
#include "tests/cuda/cuda_test.h"

namespace camo {
namespace {

using namespace test;
using CudaElementwise = CudaTest;
using CudaCopy = CudaTest;
using CudaDropout = CudaTest;

constexpr DType kDtypes[] = {f32, f16, bf16, f64};

struct UnaryCase {
  const char* name;
  Tensor (*op)(const Tensor&);
  double low = -3, high = 3;
};
const UnaryCase kUnary[] = {
    {"neg", neg},   {"abs", abs, 0.1, 3},   {"square", square}, {"sqrt", sqrt, 0.25, 4},
    {"exp", exp},   {"log", log, 0.25, 4},  {"sin", sin},       {"cos", cos},
    {"erf", erf},   {"sigmoid", sigmoid},   {"tanh", tanh},     {"relu", relu},
    {"gelu", gelu}, {"softplus", softplus},
};

TEST_F(CudaElementwise, UnaryOperationsAgreeWithTheCpuInEveryDtype) {
  for (const UnaryCase& c : kUnary) {
    SCOPED_TRACE(c.name);
    for (DType dtype : kDtypes) {
      const Tensor x = to(uniform({3, 61, 73}, f64, c.low, c.high), dtype);
      const MapFunction fn = [&](const Tensors& in) { return c.op(in[0]); };
      // The derivative of what saves y sees y rounded.
      expect_cuda_agrees(fn, {x}, 8);
      expect_cuda_agrees(fn, {misaligned(x)}, 8);
      expect_cuda_agrees(fn, {slice(x, 2, 3, 72)}, 8);
      expect_cuda_agrees(fn, {transpose(x, 1, 2)}, 8);
    }
  }
}

TEST_F(CudaElementwise, BroadcastOperandsAgreeWithTheCpu) {
  // Widths that take packs of 16 bytes, of two elements, and none.
  for (int64_t width : {24, 10, 73}) {
    const std::pair<Shape, Shape> shapes[] = {{{3, 7, 5, width}, {3, 7, 5, width}},
                                              {{3, 7, 5, width}, {width}},
                                              {{3, 7, 5, width}, {3, 1, 1, width}},
                                              {{3, 7, 5, width}, {3, 7, 5, 1}},
                                              {{3, 7, 5, width}, {}},
                                              {{width}, {3, 7, 5, width}},
                                              {{3, 1, width}, {7, 1}}};
    for (const auto& [a_shape, b_shape] : shapes) {
      SCOPED_TRACE(a_shape.str() + " with " + b_shape.str());
      for (DType dtype : kDtypes) {
        const Tensor a = to(uniform(a_shape, f64), dtype), b = to(uniform(b_shape, f64, 0.5, 2), dtype);
        expect_cuda_agrees([](const Tensors& in) { return in[0] + in[1]; }, {a, b}, 8);
        expect_cuda_agrees([](const Tensors& in) { return in[0] - in[1]; }, {a, b}, 8);
        expect_cuda_agrees([](const Tensors& in) { return in[0] * in[1]; }, {a, b}, 8);
        expect_cuda_agrees([](const Tensors& in) { return in[0] / in[1]; }, {a, b}, 16);
        expect_cuda_agrees([](const Tensors& in) { return in[0] * in[1]; }, {misaligned(a), b}, 8);
        expect_cuda_agrees([](const Tensors& in) { return in[0] * in[1]; }, {a, misaligned(b)}, 8);
      }
    }
  }
}

TEST_F(CudaElementwise, ComparisonsAndChoicesAgreeWithTheCpu) {
  for (DType dtype : {f32, f16, bf16, f64, i64, u8}) {
    const Tensor a = to(uniform({4, 5, 73}, f64, 0, 5), dtype), b = to(uniform({5, 1}, f64, 0, 5), dtype);
    const Tensor ca = to(a, cpu), cb = to(b, cpu);
    EXPECT_TRUE(bitwise_equal(greater(a, b), greater(ca, cb)));
    EXPECT_TRUE(bitwise_equal(greater_equal(a, b), greater_equal(ca, cb)));
    EXPECT_TRUE(bitwise_equal(equal(a, b), equal(ca, cb)));
    EXPECT_TRUE(bitwise_equal(greater(a, 2.5), greater(ca, 2.5)));
    EXPECT_TRUE(bitwise_equal(where(greater(a, b), a, b), where(greater(ca, cb), ca, cb)));
  }
}

TEST_F(CudaElementwise, LargeMapsAreCoveredOnce) {
  const Tensor x = uniform({1 << 21}, f32), y = expand(x, {5, 1 << 21});
  EXPECT_TRUE(bitwise_equal(neg(neg(y)), contiguous(y)));
  EXPECT_TRUE(bitwise_equal(to(to(x, f64), f32), x));
}

TEST_F(CudaElementwise, WrongOperandsAreNamed) {
  const Tensor x = zeros({3});
  EXPECT_ERROR(add(x, zeros({3}, f32, cpu)), "add: operands must be on one device; got cuda:0 and cpu");
  EXPECT_ERROR(where(zeros({3}, boolean, cpu), x, x), "where: operands must be on one device; got cpu and cuda:0");
  EXPECT_ERROR(gelu(zeros({3}, i64)), "gelu: computes in floating dtypes; got i64; convert with to(x, f32)");
  EXPECT_ERROR(add(zeros({3}, u8), zeros({3}, u8)), "add: computes in floating dtypes; got u8");
  EXPECT_ERROR(sum(zeros({3}, boolean)), "sum: computes in floating dtypes and i64; got bool");
  EXPECT_ERROR(mean(zeros({3}, i64)), "mean: computes in floating dtypes; got i64");
}

TEST_F(CudaCopy, ConvertsBetweenAllDtypesAsTheCpuDoes) {
  const DType all[] = {f32, f64, f16, bf16, i64, u8, boolean};
  for (DType from : all) {
    const Tensor x = to(uniform({7, 33}, f64, 0, 100), from);
    for (DType target : all) {
      EXPECT_TRUE(bitwise_equal(to(x, target), to(to(x, cpu), target))) << name(from) << " to " << name(target);
      EXPECT_TRUE(bitwise_equal(to(transpose(x, 0, 1), target), to(transpose(to(x, cpu), 0, 1), target)));
      EXPECT_TRUE(bitwise_equal(to(misaligned(x), target), to(to(x, cpu), target)));
    }
  }
}

TEST_F(CudaCopy, JoinsAndTurnsAgreeWithTheCpu) {
  for (DType dtype : {f32, f16, u8, i64}) {
    for (const std::vector<int64_t>& widths : {std::vector<int64_t>{8, 16, 24}, {10, 18, 2}, {3, 73, 1}, {0, 5, 8}}) {
      Tensors here, there;
      for (int64_t width : widths) {
        here.push_back(to(uniform({2, 5, 3, width}, f64, 0, 100), dtype));
        there.push_back(to(here.back(), cpu));
      }
      const Tensor joined = concat(here, -1), want = concat(there, -1);
      EXPECT_TRUE(bitwise_equal(joined, want));
      EXPECT_TRUE(bitwise_equal(contiguous(slice(joined, 3, widths[0], widths[0] + widths[1])), there[1]));
      for (int turns : {1, 2, 3}) EXPECT_TRUE(bitwise_equal(rot90(joined, turns), rot90(want, turns)));
      EXPECT_TRUE(bitwise_equal(flip(joined, {2, 3}), flip(want, {2, 3})));
      EXPECT_TRUE(bitwise_equal(flip(joined, {1}), flip(want, {1})));
      EXPECT_TRUE(bitwise_equal(pad(joined, 2, 1, 2), pad(want, 2, 1, 2)));
    }
  }
}

TEST_F(CudaDropout, DrawsTheMaskOfTheCpu) {
  for (DType dtype : {f32, f64}) {
    for (int64_t count : {1, 6, 4099}) {
      const Tensor x = uniform({count}, dtype);
      const Tensor want = dropout(to(x, cpu), 0.3, RandomKey{4, 9});
      EXPECT_TRUE(bitwise_equal(dropout(x, 0.3, RandomKey{4, 9}), want));
      EXPECT_TRUE(bitwise_equal(dropout(misaligned(x), 0.3, RandomKey{4, 9}), want));
    }
  }
  const MapFunction drop = [](const Tensors& in) { return dropout(in[0], 0.3, RandomKey{4, 9}); };
  for (DType dtype : {f16, bf16}) expect_cuda_agrees(drop, {to(uniform({33, 7}, f64), dtype)}, 2);
}

}  // namespace
}  // namespace camo
