#include "ops/elementwise.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "ops/detail/vector_math.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::max_difference;
using test::uniform;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Tensor vector_of(const std::vector<double>& values) {
  return from_vector(values, {static_cast<int64_t>(values.size())});
}

/// Largest distance of fn from the exact value in units of the float's last place, over a dense range.
template <class Fn, class Exact>
double worst_ulp(float low, float high, Fn fn, Exact exact) {
  constexpr int kSteps = 200000;
  double worst = 0;
  for (int i = 0; i <= kSteps; ++i) {
    const float x = low + (high - low) * (static_cast<float>(i) / kSteps);
    const double want = exact(static_cast<double>(x));
    int exponent;
    std::frexp(want, &exponent);
    const double ulp = std::ldexp(1.0, std::max(exponent - 24, -149));
    worst = std::max(worst, std::abs(static_cast<double>(fn(x)) - want) / ulp);
  }
  return worst;
}

TEST(VectorMath, ExpIsWithinTwoUlp) {
  const auto exact = [](double x) { return std::exp(x); };
  const auto fn = [](float x) { return detail::simd_exp(x); };
  EXPECT_LE(worst_ulp(-103.9f, 88.7f, fn, exact), 2);
  EXPECT_LE(worst_ulp(-1, 1, fn, exact), 2);
  EXPECT_EQ(fn(kInfinity), kInfinity);
  EXPECT_EQ(fn(89), kInfinity);
  EXPECT_EQ(fn(-kInfinity), 0);
  EXPECT_EQ(fn(0), 1);
  EXPECT_TRUE(std::isnan(fn(kNan)));
}

TEST(VectorMath, ErfIsWithinTwoUlp) {
  const auto exact = [](double x) { return std::erf(x); };
  const auto fn = [](float x) { return detail::simd_erf(x); };
  EXPECT_LE(worst_ulp(-6, 6, fn, exact), 2);
  EXPECT_LE(worst_ulp(-1e-3f, 1e-3f, fn, exact), 2);
  EXPECT_EQ(fn(kInfinity), 1);
  EXPECT_EQ(fn(-kInfinity), -1);
  EXPECT_TRUE(std::isnan(fn(kNan)));
}

TEST(VectorMath, SigmoidAndSoftplusAreWithinThreeUlp) {
  EXPECT_LE(
      worst_ulp(
          -80, 80, [](float x) { return detail::simd_sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }),
      3);
  EXPECT_LE(worst_ulp(
                -80, 80, [](float x) { return detail::simd_softplus(x); },
                [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }),
            3);
  EXPECT_EQ(detail::simd_sigmoid(-kInfinity), 0);
  EXPECT_EQ(detail::simd_softplus(kInfinity), kInfinity);
  EXPECT_EQ(detail::simd_softplus(-std::numeric_limits<double>::infinity()), 0);
}

struct UnaryCase {
  const char* name;
  Tensor (*op)(const Tensor&);
  double (*exact)(double);
  double low = -3, high = 3;
};
const UnaryCase kUnary[] = {
    {"neg", neg, [](double x) { return -x; }},
    {"abs", abs, [](double x) { return std::abs(x); }},
    {"square", square, [](double x) { return x * x; }},
    {"sqrt", sqrt, [](double x) { return std::sqrt(x); }, 0, 4},
    {"exp", exp, [](double x) { return std::exp(x); }},
    {"log", log, [](double x) { return std::log(x); }, 0.1, 4},
    {"sin", sin, [](double x) { return std::sin(x); }},
    {"cos", cos, [](double x) { return std::cos(x); }},
    {"erf", erf, [](double x) { return std::erf(x); }},
    {"sigmoid", sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }},
    {"tanh", tanh, [](double x) { return std::tanh(x); }},
    {"relu", relu, [](double x) { return std::max(x, 0.0); }},
    {"gelu", gelu, [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }},
    {"softplus", softplus, [](double x) { return std::log1p(std::exp(x)); }},
};

TEST(Elementwise, UnaryOperationsAgreeWithTheirFormula) {
  for (const UnaryCase& c : kUnary) {
    SCOPED_TRACE(c.name);
    const Tensor x = uniform({5, 7, 33}, f64, c.low, c.high);
    std::vector<double> want = x.to_vector<double>();
    for (double& value : want) value = c.exact(value);
    EXPECT_TRUE(all_close(c.op(x), from_vector(want, x.shape()), 1e-14));
    EXPECT_TRUE(all_close(to(c.op(to(x, f32)), f64), from_vector(want, x.shape()), 1e-6));
  }
}

TEST(Elementwise, UnaryOperationsTakeStridedExpandedAndEmptyTensors) {
  for (const UnaryCase& c : kUnary) {
    SCOPED_TRACE(c.name);
    const Tensor x = slice(permute(uniform({7, 3, 10}, f32, std::max(c.low, 0.1), c.high), {2, 0, 1}), 0, 1, 9, 2);
    EXPECT_TRUE(all_close(c.op(x), c.op(contiguous(x)), 1e-6));  // the strided loop need not use the same instructions
    EXPECT_TRUE(c.op(x).is_contiguous());
    const Tensor wide = expand(uniform({1, 5}, f32, 0.1, 1), {4, 5});
    EXPECT_TRUE(all_close(c.op(wide), c.op(contiguous(wide)), 1e-6));
    EXPECT_EQ(c.op(zeros({3, 0})).shape(), (Shape{3, 0}));
    EXPECT_EQ(c.op(ones({})).shape(), Shape{});
  }
}

TEST(Elementwise, GeluOfFloatsHasTheGradientOfDoubles) {
  const Tensor x = uniform({4000}, f64, -6, 6).set_requires_grad(true);
  const Tensor narrow = to(x.detach(), f32).set_requires_grad(true);
  backward(gelu(x), ones({4000}, f64));
  backward(gelu(narrow), ones({4000}));
  EXPECT_LT(max_difference(to(narrow.grad(), f64), x.grad()), 1e-6);
}

TEST(Elementwise, ValuesRecordedFromPyTorch) {
  const Tensor x = vector_of({-2.5, -0.5, 0, 0.7, 3});
  EXPECT_LT(
      max_difference(gelu(x), vector_of({-0.0155241633144, -0.154268769363, 0, 0.5306254434438, 2.9959503059051})),
      1e-11);
  EXPECT_LT(max_difference(softplus(x),
                           vector_of({0.078889734292, 0.474076984180, 0.693147180560, 1.103186048885, 3.048587351574})),
            1e-11);
  EXPECT_LT(
      max_difference(pow(vector_of({0.5, 2, 3}), 2.5), vector_of({0.176776695297, 5.656854249492, 15.588457268120})),
      1e-11);
  EXPECT_LT(max_difference(clamp(x, -1, 0.5), vector_of({-1, -0.5, 0, 0.5, 0.5})), 1e-15);
}

TEST(Elementwise, NumbersStandOnBothSides) {
  const Tensor x = vector_of({0.5, -4}).set_requires_grad(true);
  const Tensor y = 2 / x;
  EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{4, -0.5}));
  backward(sum(y));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{-8, -0.125}));  // -2 / x^2
  EXPECT_EQ((2 - x).to_vector<double>(), (std::vector<double>{1.5, 6}));
  EXPECT_EQ((x / 2).to_vector<double>(), (std::vector<double>{0.25, -2}));
}

TEST(Elementwise, NanPassesThroughKinks) {
  const Tensor x = full({3}, kNan);
  for (const Tensor& y : {relu(x), clamp(x, 0, 1), maximum(x, zeros({3})), minimum(zeros({3}), x), abs(x)}) {
    for (float value : y.to_vector<float>()) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(Elementwise, TheChosenNanGetsTheGradient) {
  const Tensor x = vector_of({kNan, 1}).set_requires_grad(true), y = vector_of({2, kNan}).set_requires_grad(true);
  backward(maximum(x, y) + minimum(x, y) * 10.0, vector_of({1, 1}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{11, 0}));
  EXPECT_EQ(y.grad().to_vector<double>(), (std::vector<double>{0, 11}));
}

TEST(Elementwise, AbsOfMinusZeroIsPlusZero) {
  for (const double value : abs(vector_of({-0.0, 0, -3, 3})).to_vector<double>()) EXPECT_FALSE(std::signbit(value));
}

TEST(Elementwise, BroadcastingAgreesWithExpandedCopies) {
  const std::pair<Shape, Shape> shapes[] = {{{2, 5, 7, 24}, {24}},
                                            {{2, 5, 7, 24}, {2, 1, 1, 24}},
                                            {{2, 5, 7, 24}, {2, 5, 7, 1}},
                                            {{3, 1, 5}, {4, 1}},
                                            {{}, {3, 4}},
                                            {{0, 3}, {1, 3}},
                                            {{90, 100, 40}, {100, 1}}};
  for (const auto& [a_shape, b_shape] : shapes) {
    const Tensor a = uniform(a_shape, f32), b = uniform(b_shape, f32, 0.5, 2);
    const Shape shape = broadcast_shapes(a_shape, b_shape, "test");
    const Tensor wide_a = contiguous(expand(a, shape)), wide_b = contiguous(expand(b, shape));
    EXPECT_TRUE(bitwise_equal(a + b, wide_a + wide_b));
    EXPECT_TRUE(bitwise_equal(b - a, wide_b - wide_a));
    EXPECT_TRUE(bitwise_equal(a * b, wide_a * wide_b));
    EXPECT_TRUE(bitwise_equal(a / b, wide_a / wide_b));
    EXPECT_TRUE(all_close(maximum(a, b), wide_b + relu(wide_a - wide_b), 1e-6));
    EXPECT_TRUE(all_close(minimum(a, b), wide_a - relu(wide_a - wide_b), 1e-6));
    EXPECT_TRUE(bitwise_equal(greater(a, b), greater(wide_a, wide_b)));
  }
}

TEST(Elementwise, GammaAndGateGradientsAreSums) {
  const Tensor x = uniform({4, 9, 11, 24}, f32), dy = uniform({4, 9, 11, 24}, f32);
  for (const Shape& shape : {Shape{24}, Shape{4, 1, 1, 24}, Shape{4, 9, 11, 1}}) {
    const Tensor gate = uniform(shape, f32).set_requires_grad(true);
    backward(x * gate, dy);
    const Tensor want = sum_to(to(x, f64) * to(dy, f64), shape);
    EXPECT_TRUE(all_close(to(gate.grad(), f64), want, 1e-5));
  }
}

TEST(Elementwise, TiesShareTheGradient) {
  const Tensor a = vector_of({1, 2, 3}).set_requires_grad(true), b = vector_of({1, 3, 2}).set_requires_grad(true);
  backward(maximum(a, b), vector_of({4, 4, 4}));
  EXPECT_EQ(a.grad().to_vector<double>(), (std::vector<double>{2, 0, 4}));
  EXPECT_EQ(b.grad().to_vector<double>(), (std::vector<double>{2, 4, 0}));
}

TEST(Elementwise, KinksHaveTheStatedGradient) {
  const Tensor x = vector_of({-1, 0, 1}).set_requires_grad(true);
  backward(relu(x) + abs(x) * 10.0 + clamp(x, -1, 0) * 100.0, vector_of({1, 1, 1}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{90, 100, 11}));
}

// As where() does, not as a product with 0.
TEST(Elementwise, StoppedGradientsLeaveNoTrace) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : {f64, f32, bf16, f16}) {
    const auto gradient = [&](Tensor (*fn)(const Tensor&)) {
      const Tensor x = to(vector_of({-2, 2, 0.5, nan}), dtype).set_requires_grad(true);
      backward(fn(x), to(vector_of({inf, nan, inf, 3}), dtype));
      return x.grad().to_vector<double>();
    };
    const auto of_relu = gradient(relu);
    EXPECT_EQ(of_relu[0], 0);
    EXPECT_TRUE(std::isnan(of_relu[1]));
    EXPECT_EQ(of_relu[2], inf);
    EXPECT_EQ(of_relu[3], 3);  // NaN itself passes on
    EXPECT_EQ(gradient([](const Tensor& x) { return clamp(x, -1, 1); }), (std::vector<double>{0, 0, inf, 0}));
  }
}

TEST(Elementwise, IntegersAddSubtractMultiplyAndCompare) {
  const Tensor a = from_vector<int64_t>({1, -2, 3}, {3}), b = from_vector<int64_t>({4, 5, 3}, {3});
  EXPECT_EQ((a + b).to_vector<int64_t>(), (std::vector<int64_t>{5, 3, 6}));
  EXPECT_EQ((a - b).to_vector<int64_t>(), (std::vector<int64_t>{-3, -7, 0}));
  EXPECT_EQ((a * b).to_vector<int64_t>(), (std::vector<int64_t>{4, -10, 9}));
  EXPECT_EQ((a * 2 + 1).to_vector<int64_t>(), (std::vector<int64_t>{3, -3, 7}));
  EXPECT_EQ((a + 1).dtype(), i64);
  EXPECT_EQ(equal(a, b).to_vector<int64_t>(), (std::vector<int64_t>{0, 0, 1}));
  EXPECT_EQ(greater_equal(a, b).to_vector<int64_t>(), (std::vector<int64_t>{0, 0, 1}));
  EXPECT_EQ(greater(a, 0.5).to_vector<int64_t>(), (std::vector<int64_t>{1, 0, 1}));
}

TEST(Elementwise, NumbersBesideIntegersMustFit) {
  const Tensor x = from_vector<int64_t>({1}, {1});
  for (const double number : {std::numeric_limits<double>::infinity(), 1e300, 0x1p63, 0.5}) {
    EXPECT_ERROR(x + number, "add: an i64 tensor takes a whole number; got ");
    EXPECT_ERROR(x * number, "mul: an i64 tensor takes a whole number; got ");
  }
}

TEST(Elementwise, SixteenBitFloatsCompare) {
  for (DType dtype : {f16, bf16}) {
    const Tensor a = to(vector_of({1, -2, 3}), dtype), b = to(vector_of({0, 5, 3}), dtype);
    EXPECT_EQ(greater(a, b).to_vector<int64_t>(), (std::vector<int64_t>{1, 0, 0}));
    EXPECT_EQ(greater(a, 0.5).to_vector<int64_t>(), (std::vector<int64_t>{1, 0, 1}));
  }
}

TEST(Elementwise, ComparisonsUseThePrecisionOfTheTensor) {
  EXPECT_EQ(greater(full({1}, 0.1), 0.1).item(), 0);  // 0.1f is above 0.1, but not above 0.1f
  EXPECT_EQ(equal(uniform({3, 4}, f32), zeros({4})).dtype(), boolean);
}

TEST(Elementwise, WhereChoosesInEveryDtype) {
  const Tensor condition = greater(vector_of({1, -1, 1}), 0);
  const Tensor x = from_vector<int64_t>({1, 2, 3, 4, 5, 6}, {2, 3}), y = from_vector<int64_t>({-1}, {1});
  EXPECT_EQ(where(condition, x, y).to_vector<int64_t>(), (std::vector<int64_t>{1, -1, 3, 4, -1, 6}));
  EXPECT_EQ(where(condition, to(x, bf16), to(y, bf16)).to_vector<int64_t>(),
            (std::vector<int64_t>{1, -1, 3, 4, -1, 6}));
}

TEST(Elementwise, ConvertsDtypesAndGradients) {
  const Tensor x = vector_of({1.5, -2.25, 0}).set_requires_grad(true);
  const Tensor y = to(x, f32);
  EXPECT_EQ(y.dtype(), f32);
  EXPECT_EQ(y.to_vector<double>(), x.to_vector<double>());
  backward(y, full({3}, 2));
  EXPECT_EQ(x.grad().dtype(), f64);
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{2, 2, 2}));
  EXPECT_TRUE(to(x, f64).same_as(x));
  EXPECT_TRUE(to(x, x.device()).same_as(x));
  EXPECT_FALSE(to(x, boolean).requires_grad());
  EXPECT_EQ(to(x, boolean).to_vector<int64_t>(), (std::vector<int64_t>{1, 1, 0}));
}

TEST(Elementwise, WrongInputsAreNamed) {
  const Tensor x = zeros({2, 3}), d = zeros({2, 3}, f64), whole = zeros({2, 3}, i64);
  EXPECT_ERROR(add(x, d), "add: operands must have one dtype; got f32 and f64; convert one with to()");
  EXPECT_ERROR(mul(x, zeros({2})), "mul: shapes must broadcast; got [2, 3] and [2]");
  EXPECT_ERROR(greater(x, whole), "greater: operands must have one dtype; got f32 and i64");
  EXPECT_ERROR(mul(whole, 0.5), "mul: an i64 tensor takes a whole number; got 0.5; convert with to(x, f32)");
  EXPECT_ERROR(add(whole, 0.5), "add: an i64 tensor takes a whole number; got 0.5");
  EXPECT_ERROR(clamp(x, 1, 0), "clamp: low must not be above high; got 1 and 0");
  EXPECT_ERROR(where(x, x, x), "where: the condition must be bool; got f32");
  EXPECT_ERROR(where(zeros({2, 3}, boolean), x, d), "where: operands must have one dtype; got f32 and f64");
  EXPECT_ERROR(where(zeros({4}, boolean), x, x), "where: shapes must broadcast; got [4] and [2, 3]");
}

TEST(Elementwise, DtypesThatTheCpuDoesNotComputeInAreNamed) {
  set_default_device(cpu);
  const Tensor whole = zeros({2, 3}, i64), bytes = zeros({2, 3}, u8);
  EXPECT_ERROR(div(whole, whole), "div: computes in f32 or f64 on the CPU; got i64");
  EXPECT_ERROR(add(bytes, bytes), "add: computes in f32, f64 or i64 on the CPU; got u8; convert with to(x, f32)");
  EXPECT_ERROR(gelu(whole), "gelu: computes in f32 or f64 on the CPU; got i64");
}

}  // namespace
}  // namespace camo
