#include "ops/matmul.h"

#include "ops/cpu_kernels.h"
#include "ops/shape_ops.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

Tensor apply_matmul(const Tensors& in) { return matmul(in[0], in[1]); }
Tensor apply_linear(const Tensors& in) { return linear(in[0], in[1], in.size() > 2 ? in[2] : Tensor()); }

/// Runs its scope with the plain CPU paths.
class PlainKernels {
 public:
  PlainKernels() : previous_(cpu_kernels()) { set_cpu_kernels(CpuKernels::plain); }
  ~PlainKernels() { set_cpu_kernels(previous_); }

 private:
  CpuKernels previous_;
};

/// The definition, in double.
Tensor naive_product(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  const auto rows = static_cast<size_t>(a.size(0)), depth = static_cast<size_t>(a.size(1));
  const auto cols = static_cast<size_t>(b.size(1));
  std::vector<double> out(rows * cols);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t k = 0; k < depth; ++k) {
      for (size_t j = 0; j < cols; ++j) out[i * cols + j] += x[i * depth + k] * y[k * cols + j];
    }
  }
  return from_vector(out, {a.size(0), b.size(1)});
}

TEST(Matmul, SmallNumbers) {
  const Tensor a = from_vector<double>({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor b = from_vector<double>({1, 0, 2, -1, 0, 3}, {3, 2});
  EXPECT_EQ(matmul(a, b).to_vector<double>(), (std::vector<double>{5, 7, 14, 13}));
}

TEST(Matmul, AgreesWithPyTorch) { Fixture("matmul").check({"a", "b"}, apply_matmul); }

// Every way of cutting the work: tiny, blocks down and across, depth.
TEST(Matmul, AllCutsAgreeWithTheDefinition) {
  const int64_t sizes[][3] = {{1, 1, 1},    {7, 5, 3},      {64, 64, 64},    {700, 33, 130}, {33, 130, 700},
                              {130, 33, 9}, {48, 5000, 40}, {3, 20000, 129}, {1, 3000, 700}, {900, 3000, 1}};
  for (const auto& [rows, depth, cols] : sizes) {
    const Tensor a = uniform({rows, depth}), b = uniform({depth, cols});
    const Tensor expected = naive_product(a, b);
    EXPECT_TRUE(all_close(matmul(a, b), expected, 1e-13)) << rows << " " << depth << " " << cols;
    const Tensor single = matmul(converted(a, f32), converted(b, f32));
    EXPECT_TRUE(all_close(single, expected, 2e-6)) << rows << " " << depth << " " << cols;
    const PlainKernels plain;
    EXPECT_TRUE(all_close(matmul(converted(a, f32), converted(b, f32)), expected, 2e-6));
  }
}

TEST(Matmul, StridedOperands) {
  expect_strided_agrees(apply_matmul, {uniform({2, 3, 7, 5}), uniform({2, 3, 5, 4})});
  expect_strided_agrees(apply_matmul, {uniform({3, 7, 5}), uniform({5, 4})});
  expect_strided_agrees(apply_matmul, {uniform({40, 50}), uniform({50, 60})});
}

TEST(Matmul, RepeatedOperandsAndCotangents) {
  const Tensor row = expand(uniform({1, 5}), {3, 5}), b = uniform({5, 2});
  EXPECT_TRUE(all_close(matmul(row, b), matmul(clone(row), b), 1e-15));
  const Tensor dy = expand(uniform({1, 1}), {3, 2});
  const Tensors inputs{uniform({3, 5}), b};
  expect_equal_runs(run(apply_matmul, inputs, dy), run(apply_matmul, inputs, clone(dy)), 1e-15);
}

TEST(Matmul, EmptyOperands) {
  EXPECT_EQ(matmul(zeros({3, 0}, f64), zeros({0, 2}, f64)).to_vector<double>(), std::vector<double>(6, 0.0));
  EXPECT_EQ(matmul(zeros({0, 3}), zeros({3, 2})).shape(), (Shape{0, 2}));
  EXPECT_EQ(matmul(zeros({0, 2, 3}), zeros({3, 4})).shape(), (Shape{0, 2, 4}));
}

TEST(Matmul, BitsDoNotDependOnThreads) {
  expect_threads_agree(apply_matmul, {uniform({4, 70, 90}, f32), uniform({4, 90, 50}, f32)});
  expect_threads_agree(apply_matmul, {uniform({300, 2100}, f32), uniform({2100, 130}, f32)});
}

TEST(Matmul, NoGradientForInputsThatWantNone) {
  const Tensor a = uniform({2, 3}), b = uniform({3, 4});
  b.set_requires_grad(true);
  backward(matmul(a, b), uniform({2, 4}));
  EXPECT_FALSE(a.grad().defined());
  EXPECT_TRUE(b.grad().defined());
}

TEST(Matmul, Errors) {
  EXPECT_ERROR(matmul(zeros({3}), zeros({3, 2})), "matmul: operands need two dimensions or more; got [3] times [3, 2]");
  EXPECT_ERROR(matmul(zeros({2, 3}), zeros({4, 2})),
               "matmul: the last dimension of a must be the last but one of b; got [2, 3] times [4, 2]");
  EXPECT_ERROR(matmul(zeros({2, 3}, f64), zeros({3, 2})), "matmul: operands must have one dtype; got f64 times f32");
  EXPECT_ERROR(matmul(zeros({2, 2, 3}), zeros({4, 3, 2})), "matmul");
  EXPECT_ERROR(matmul(zeros({2, 3}, i64, cpu), zeros({3, 2}, i64, cpu)), "matmul: computes in f32 or f64");
}

TEST(Linear, AgreesWithPyTorch) { Fixture("linear").check({"x", "weight", "bias"}, apply_linear); }

TEST(Linear, SmallNumbers) {
  const Tensor x = from_vector<double>({1, 2, 3, 4}, {2, 2}), weight = from_vector<double>({1, 1, 0, 2, -1, 0}, {3, 2});
  EXPECT_EQ(linear(x, weight).to_vector<double>(), (std::vector<double>{3, 4, -1, 7, 8, -3}));
  EXPECT_EQ(linear(x, weight, from_vector<double>({10, 20, 30}, {3})).to_vector<double>(),
            (std::vector<double>{13, 24, 29, 17, 28, 27}));
}

TEST(Linear, F32AgreesWithF64) {
  expect_f32_agrees(apply_linear, {uniform({2, 24, 24, 24}), uniform({96, 24}), uniform({96})}, 4e-6);
  expect_f32_agrees(apply_linear, {uniform({3000, 20}), uniform({7, 20}), uniform({7})}, 4e-6);
  expect_f32_agrees(apply_linear, {uniform({36, 168}), uniform({500, 168}), uniform({500})}, 4e-6);
}

TEST(Linear, StridedInputs) {
  expect_strided_agrees(apply_linear, {uniform({2, 3, 5, 4}), uniform({6, 4}), uniform({6})});
}

TEST(Linear, BitsDoNotDependOnThreads) {
  expect_threads_agree(apply_linear, {uniform({4096, 24}, f32), uniform({96, 24}, f32), uniform({96}, f32)});
  expect_threads_agree(apply_linear, {uniform({144, 100}, f32), uniform({400, 100}, f32), uniform({400}, f32)});
}

TEST(Linear, EmptyInputs) {
  const Tensor bias = uniform({2});
  EXPECT_EQ(linear(zeros({0, 3}, f64), zeros({2, 3}, f64), bias).shape(), (Shape{0, 2}));
  EXPECT_TRUE(all_close(linear(zeros({1, 0}, f64), zeros({2, 0}, f64), bias), reshape(bias, {1, 2}), 0));
  EXPECT_EQ(linear(zeros({2, 3}, f64), zeros({0, 3}, f64)).shape(), (Shape{2, 0}));
}

TEST(Linear, Errors) {
  EXPECT_ERROR(linear(zeros({2, 3}), zeros({3})), "linear: weight must be [out, in]; got weight [3]");
  EXPECT_ERROR(linear(zeros({2, 3}), zeros({5, 4})),
               "linear: the last dimension of x must be 4, the second of weight; got x [2, 3], weight [5, 4]");
  EXPECT_ERROR(linear(zeros({2, 3}), zeros({5, 3}), zeros({3})),
               "linear: bias must be [5], the first dimension of weight; got bias [3], weight [5, 3]");
  EXPECT_ERROR(linear(zeros({2, 3}), zeros({5, 3}, f64)),
               "linear: x, weight and bias must have one dtype; got x f32, weight f64");
  EXPECT_ERROR(linear(zeros({2, 3}), zeros({5, 3}), zeros({5}, f64)), "got x f32, weight f32, bias f64");
  EXPECT_ERROR(linear(zeros({2, 3}, i64, cpu), zeros({5, 3}, i64, cpu)), "linear: computes in f32 or f64");
}

}  // namespace
}  // namespace camo
