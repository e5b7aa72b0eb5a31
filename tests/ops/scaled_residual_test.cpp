#include "ops/elementwise.h"
#include "ops/normalization.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

Tensor apply(const Tensors& in) { return scaled_residual(in[0], in[1], in[2]); }

TEST(ScaledResidual, SmallNumbers) {
  const Tensor x = from_vector<double>({1, 2, 3, 4}, {2, 2}), branch = from_vector<double>({10, 20, 30, 40}, {2, 2});
  EXPECT_TRUE(bitwise_equal(scaled_residual(x, branch, from_vector<double>({2, -1}, {2})),
                            from_vector<double>({21, -18, 63, -36}, {2, 2})));
}

TEST(ScaledResidual, AgreesWithItsParts) {
  const Function parts = [](const Tensors& in) { return in[0] + in[1] * in[2]; };
  const Tensors inputs{uniform({3, 100, 24}), uniform({3, 100, 24}), uniform({24})};
  const Tensor dy = uniform({3, 100, 24}, f64);
  expect_equal_runs(run(apply, inputs, dy), run(parts, inputs, dy), 1e-13);
  expect_f32_agrees(apply, inputs, 1e-6);
  expect_strided_agrees(apply, inputs);
  expect_threads_agree(apply, {uniform({3000, 24}, f32), uniform({3000, 24}, f32), uniform({24}, f32)});
}

TEST(ScaledResidual, Errors) {
  EXPECT_ERROR(scaled_residual(zeros({2, 3}), zeros({3}), zeros({3})),
               "scaled_residual: x and branch must have one shape; got x [2, 3], branch [3]");
  EXPECT_ERROR(scaled_residual(zeros({2, 3}), zeros({2, 3}), zeros({2})),
               "scaled_residual: gamma must be [3], the last dimension of x; got gamma [2], x [2, 3]");
  EXPECT_ERROR(scaled_residual(zeros({2, 3}), zeros({2, 3}, f64), zeros({3})),
               "scaled_residual: operands must have one dtype, or f32 beside a 16-bit one; got x f32, branch f64");
  EXPECT_ERROR(scaled_residual(zeros({2, 3}, i64), zeros({2, 3}, i64), zeros({3}, i64)),
               "scaled_residual: computes in floating dtypes; got i64");
}

}  // namespace
}  // namespace camo
