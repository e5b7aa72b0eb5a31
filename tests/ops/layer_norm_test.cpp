#include "ops/normalization.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

Tensor apply(const Tensors& in) { return layer_norm(in[0], in[1], in[2], 1e-6); }

TEST(LayerNorm, SmallNumbers) {
  const Tensor x = from_vector<double>({1, 3, -2, 2}, {2, 2});
  const Tensor y = layer_norm(x, from_vector<double>({2, 3}, {2}), from_vector<double>({10, 20}, {2}), 0);
  EXPECT_TRUE(all_close(y, from_vector<double>({8, 23, 8, 23}, {2, 2}), 1e-14));
}

TEST(LayerNorm, AgreesWithPyTorch) { Fixture("layer_norm").check({"x", "weight", "bias"}, apply); }

TEST(LayerNorm, F32StridesAndThreads) {
  const Tensors inputs{uniform({3, 100, 24}), uniform({24}), uniform({24})};
  expect_f32_agrees(apply, inputs, 1e-6);
  expect_f32_agrees(apply, {uniform({50, 584}), uniform({584}), uniform({584})}, 1e-6);
  expect_strided_agrees(apply, inputs);
  expect_threads_agree(apply, {uniform({3000, 24}, f32), uniform({24}, f32), uniform({24}, f32)});
}

TEST(LayerNorm, LargeMeanKeepsItsPrecision) {
  const Tensor x = uniform({10, 96}, f32, 999, 1001), one = ones({96}), zero = zeros({96});
  const Tensor wide = converted(x, f64);
  EXPECT_TRUE(
      all_close(layer_norm(x, one, zero, 1e-6), layer_norm(wide, ones({96}, f64), zeros({96}, f64), 1e-6), 2e-4));
}

TEST(LayerNorm, EmptyInput) {
  EXPECT_EQ(layer_norm(zeros({0, 3}), ones({3}), zeros({3}), 1e-6).shape(), (Shape{0, 3}));
  EXPECT_EQ(layer_norm(zeros({3, 0}), ones({0}), zeros({0}), 1e-6).shape(), (Shape{3, 0}));
}

TEST(LayerNorm, Errors) {
  const Tensor x = zeros({8, 196, 96});
  EXPECT_ERROR(layer_norm(x, zeros({64}), zeros({96}), 1e-6),
               "layer_norm: weight must be [96], the last dimension of x; got weight [64], x [8, 196, 96]");
  EXPECT_ERROR(layer_norm(x, zeros({96}), zeros({64}), 1e-6), "layer_norm: bias must be [96]");
  EXPECT_ERROR(layer_norm(x, zeros({96}, f64), zeros({96}), 1e-6),
               "layer_norm: x, weight and bias must have one dtype");
  EXPECT_ERROR(layer_norm(x, zeros({96}), zeros({96}), -1), "layer_norm: eps must not be negative; got -1");
  EXPECT_ERROR(layer_norm(zeros({}), zeros({1}), zeros({1}), 1e-6), "layer_norm: x needs a dimension");
  EXPECT_ERROR(layer_norm(zeros({2, 3}, i64, cpu), zeros({3}, i64, cpu), zeros({3}, i64, cpu), 1e-6),
               "layer_norm: computes in f32");
}

}  // namespace
}  // namespace camo
