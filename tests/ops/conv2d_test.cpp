#include "ops/conv2d.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/safetensors.h"
#include "nn/gradcheck.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::uniform;

/// The plain loops inside its scope.
class PlainKernels {
 public:
  PlainKernels() { set_cpu_kernels(CpuKernels::plain); }
  ~PlainKernels() { set_cpu_kernels(CpuKernels::fast); }
};

struct Results {
  Tensor y, dx, dweight, dbias;
};

bool on_cuda() { return default_device().is_cuda(); }

Results run(const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in, const Conv2dOptions& options,
            const Tensor& dy, DType dtype = f64, Device device = default_device()) {
  const auto leaf = [&](const Tensor& t) { return to(to(t.detach(), dtype), device).detach().set_requires_grad(true); };
  const Tensor x = leaf(x_in), weight = leaf(weight_in), bias = bias_in.defined() ? leaf(bias_in) : Tensor();
  const Tensor y = conv2d(x, weight, bias, options);
  backward(y, to(to(dy, dtype), device));
  return {y.detach(), x.grad(), weight.grad(), bias.defined() ? bias.grad() : Tensor()};
}

struct Recorded {
  const char* name;
  Conv2dOptions options;
  bool bias = true;
};

const std::vector<Recorded>& recorded() {
  static const std::vector<Recorded> cases{
      {"dense", {.padding = {1, 1}}},
      {"stem", {.stride = {4, 4}}},
      {"dilated", {.padding = {2, 2}, .dilation = {2, 2}}, false},
      {"rectangular", {.stride = {2, 3}, .padding = {1, 0}, .dilation = {1, 2}}},
      {"depthwise", {.padding = {2, 2}, .groups = 5}},
      {"depthwise_strided", {.stride = {2, 2}, .padding = {1, 1}, .groups = 6}},
      {"gate", {.padding = {1, 1}, .groups = 3}, false},
      {"grouped", {.padding = {1, 1}, .groups = 2}},
      {"pointwise", {}},
  };
  return cases;
}

void expect_recorded(DType dtype, double tolerance) {
  const SafeTensors file = read_safetensors(std::string(CAMO_SOURCE_DIR) + "/tests/golden/ops/conv2d.safetensors");
  for (const Recorded& c : recorded()) {
    SCOPED_TRACE(c.name);
    const auto at = [&](const char* what) { return file.at(std::string("conv.") + c.name + "." + what); };
    const auto expected = [&](const char* what) { return to(at(what), dtype); };
    const Results got = run(at("x"), at("weight"), c.bias ? at("bias") : Tensor(), c.options, at("dy"), dtype);
    EXPECT_TRUE(all_close(got.y, expected("y"), tolerance));
    EXPECT_TRUE(all_close(got.dx, expected("dx"), tolerance));
    EXPECT_TRUE(all_close(got.dweight, expected("dweight"), tolerance));
    if (c.bias) {
      EXPECT_TRUE(all_close(got.dbias, expected("dbias"), tolerance));
    }
  }
}

TEST(Conv2d, HandComputedCorrelation) {
  const Tensor x = from_vector<double>({1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 3, 3, 1});
  const Tensor weight = from_vector<double>({1, 0, 0, -2}, {1, 2, 2, 1});
  const Tensor y = conv2d(x, weight, from_vector<double>({0.5}, {1}));
  EXPECT_TRUE(
      bitwise_equal(y, from_vector<double>({1 - 10 + 0.5, 2 - 12 + 0.5, 4 - 16 + 0.5, 5 - 18 + 0.5}, {1, 2, 2, 1})));
}

TEST(Conv2d, MatchesPyTorchInF64) { expect_recorded(f64, 1e-13); }
TEST(Conv2d, MatchesPyTorchInF32) { expect_recorded(f32, on_cuda() ? 1e-5 : 2e-6); }
TEST(Conv2d, PlainLoopsMatchPyTorch) {
  if (on_cuda()) GTEST_SKIP() << "plain loops are the CPU's";
  const PlainKernels plain;
  expect_recorded(f64, 1e-13);
  expect_recorded(f32, 2e-6);
}

TEST(Conv2d, PlainLoopsHaveTheSameGradients) {
  if (on_cuda()) GTEST_SKIP() << "plain loops are the CPU's";
  const PlainKernels plain;
  for (const GradientCase& c : conv_gradient_cases()) {
    if (c.op != "conv2d") continue;
    const GradcheckResult result = gradcheck(c.fn, c.inputs(), c.options);
    EXPECT_TRUE(result.ok) << c.variant << ": " << result.message;
  }
}

TEST(Conv2d, FastPathsMatchPlainLoops) {
  struct Case {
    const char* name;
    Shape x, weight;
    Conv2dOptions options;
  };
  const Case cases[] = {
      {"3x3, large map", {1, 64, 130, 6}, {5, 3, 3, 6}, {.padding = {1, 1}}},
      {"2x4 dilated, large map", {2, 65, 67, 3}, {4, 2, 4, 3}, {.padding = {0, 2}, .dilation = {2, 1}}},
      {"large map, 64 channels", {2, 64, 65, 64}, {8, 3, 3, 64}, {.padding = {1, 1}}},
      {"large map, 80 channels, strided", {2, 130, 131, 80}, {7, 3, 2, 80}, {.stride = {2, 1}, .padding = {1, 0}}},
      {"stem", {2, 16, 20, 3}, {24, 4, 4, 3}, {.stride = {4, 4}}},
      {"stem, rest of the map unused", {1, 18, 23, 3}, {24, 4, 4, 3}, {.stride = {4, 4}}},
      {"down", {2, 8, 9, 24}, {48, 2, 2, 24}, {.stride = {2, 2}}},
      {"3x3", {1, 9, 7, 26}, {20, 3, 3, 26}, {.padding = {1, 1}}},
      {"3x3 dilated", {1, 9, 7, 6}, {6, 3, 3, 6}, {.padding = {4, 4}, .dilation = {4, 4}}},
      {"depthwise 3", {2, 9, 7, 24}, {24, 3, 3, 1}, {.padding = {1, 1}, .groups = 24}},
      {"depthwise 5", {2, 9, 7, 48}, {48, 5, 5, 1}, {.padding = {2, 2}, .groups = 48}},
      {"depthwise 7", {1, 5, 9, 42}, {42, 7, 7, 1}, {.padding = {3, 3}, .groups = 42}},
      {"depthwise 9", {2, 4, 4, 88}, {88, 9, 9, 1}, {.padding = {4, 4}, .groups = 88}},
      {"depthwise, more padding than kernel", {1, 4, 4, 6}, {6, 3, 3, 1}, {.padding = {4, 3}, .groups = 6}},
      {"depthwise strided", {1, 9, 9, 20}, {20, 3, 3, 1}, {.stride = {2, 2}, .padding = {1, 1}, .groups = 20}},
      {"depthwise dilated", {1, 9, 9, 20}, {20, 3, 3, 1}, {.padding = {2, 2}, .dilation = {2, 2}, .groups = 20}},
      {"depthwise, kernel wider than the map", {1, 2, 1, 17}, {17, 7, 7, 1}, {.padding = {3, 3}, .groups = 17}},
      {"gate", {2, 6, 7, 24}, {6, 3, 3, 4}, {.padding = {1, 1}, .groups = 6}},
      {"gate, strided", {1, 7, 8, 20}, {5, 3, 3, 4}, {.stride = {2, 1}, .padding = {1, 1}, .groups = 5}},
      {"grouped", {1, 6, 5, 12}, {9, 3, 3, 4}, {.padding = {1, 1}, .groups = 3}},
      {"pointwise", {2, 5, 6, 20}, {9, 1, 1, 20}, {}},
      {"pointwise, strided", {2, 5, 6, 20}, {9, 1, 1, 20}, {.stride = {2, 2}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const Tensor x = uniform(c.x), weight = uniform(c.weight), bias = uniform({c.weight[0]});
    const Tensor dy = uniform(conv2d(x, weight, bias, c.options).shape());
    Results plain;
    {
      const PlainKernels scope;
      plain = run(x, weight, bias, c.options, dy, f64, cpu);
    }
    for (DType dtype : {f64, f32}) {
      const double tolerance = dtype == f64 ? 1e-13 : (on_cuda() ? 1e-5 : 3e-6);
      const Results fast = run(x, weight, bias, c.options, dy, dtype);
      EXPECT_TRUE(all_close(to(fast.y, f64), plain.y, tolerance));
      EXPECT_TRUE(all_close(to(fast.dx, f64), plain.dx, tolerance));
      // cuDNN adds the products of all pixels one after the other: of thousands, PyTorch's errors reach 9e-6 as well.
      const auto pixels = static_cast<double>(dy.numel() / c.weight[0]);
      const double summed = dtype == f32 && on_cuda() ? std::max(tolerance, 0x1p-22 * std::sqrt(pixels)) : tolerance;
      EXPECT_TRUE(all_close(to(fast.dweight, f64), plain.dweight, summed));
      EXPECT_TRUE(all_close(to(fast.dbias, f64), plain.dbias, tolerance));
    }
  }
}

TEST(Conv2d, WindowsGatheredInSeveralPartsGiveTheSame) {
  // 60 x 60 windows of 9 * 200 elements: more than are laid out at once.
  const Tensor x = uniform({2, 60, 60, 200}), weight = uniform({2, 3, 3, 200});
  const Conv2dOptions options{.padding = {1, 1}};
  const Tensor dy = uniform({2, 60, 60, 2});
  const Results fast = run(x, weight, {}, options, dy);
  const PlainKernels plain;
  const Results expected = run(x, weight, {}, options, dy, f64, cpu);
  EXPECT_TRUE(all_close(fast.y, expected.y, 1e-13));
  EXPECT_TRUE(all_close(fast.dx, expected.dx, 1e-13));
  EXPECT_TRUE(all_close(fast.dweight, expected.dweight, 1e-13));
}

TEST(Conv2d, DoesNotDependOnThreads) {
  const Tensor x = uniform({2, 12, 11, 88}), weight = uniform({88, 7, 7, 1}), bias = uniform({88});
  const Tensor gate = uniform({22, 3, 3, 4});
  const Tensor large = uniform({1, 96, 97, 64}), dense = uniform({3, 3, 3, 64}), dense_dy = uniform({1, 96, 97, 3});
  const Tensor dy = uniform({2, 12, 11, 88}), gate_dy = uniform({2, 12, 11, 22});
  const auto all = [&] {
    const Results a = run(x, weight, bias, {.padding = {3, 3}, .groups = 88}, dy, f32);
    const Results b = run(x, gate, {}, {.padding = {1, 1}, .groups = 22}, gate_dy, f32);
    const Results c = run(large, dense, {}, {.padding = {1, 1}}, dense_dy, f32);
    return Tensors{a.y, a.dx, a.dweight, a.dbias, b.y, b.dx, b.dweight, c.y, c.dx, c.dweight};
  };
  const int before = num_threads();
  set_num_threads(1);
  const Tensors one = all();
  set_num_threads(3);
  const Tensors three = all();
  set_num_threads(before);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(bitwise_equal(one[i], three[i])) << "result " << i;
}

TEST(Conv2d, StridedInputs) {
  const Tensor x = uniform({2, 6, 5, 7}), weight = uniform({4, 3, 3, 7});
  const Tensor x_view = permute(clone(permute(x, {0, 3, 1, 2})), {0, 2, 3, 1});
  const Tensor weight_view = permute(clone(permute(weight, {0, 3, 1, 2})), {0, 2, 3, 1});
  EXPECT_TRUE(bitwise_equal(conv2d(x_view, weight_view), conv2d(x, weight)));
  const Tensor part = slice(x, 3, 1, 5), depthwise = uniform({4, 3, 3, 1});
  EXPECT_TRUE(
      bitwise_equal(conv2d(part, depthwise, {}, {.groups = 4}), conv2d(clone(part), depthwise, {}, {.groups = 4})));
}

TEST(Conv2d, EmptyBatch) {
  const Tensor x = zeros({0, 6, 5, 3}).set_requires_grad(true);
  const Tensor weight = ones({4, 3, 3, 3}).set_requires_grad(true), bias = ones({4}).set_requires_grad(true);
  const Tensor y = conv2d(x, weight, bias, {.padding = {1, 1}});
  EXPECT_EQ(y.shape(), Shape({0, 6, 5, 4}));
  backward(y, zeros(y.shape()));
  EXPECT_TRUE(bitwise_equal(weight.grad(), zeros({4, 3, 3, 3})));
  EXPECT_TRUE(bitwise_equal(bias.grad(), zeros({4})));
  EXPECT_EQ(x.grad().shape(), x.shape());
}

TEST(Conv2d, ComputesOnlyWantedGradients) {
  const Tensor x = uniform({1, 5, 5, 2}), weight = uniform({3, 3, 3, 2}), bias = uniform({3});
  bias.set_requires_grad(true);
  const Tensor y = conv2d(x, weight, bias);
  backward(y, ones(y.shape(), f64));
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
  EXPECT_TRUE(bitwise_equal(bias.grad(), full({3}, 9, f64)));
}

TEST(Conv2d, RejectsWrongArguments) {
  const Tensor x = zeros({1, 6, 6, 4}), weight = zeros({8, 3, 3, 4});
  EXPECT_ERROR(conv2d(zeros({6, 6, 4}), weight), "conv2d: x must be [N, H, W, C]; got [6, 6, 4]");
  EXPECT_ERROR(conv2d(x, zeros({8, 4})), "conv2d: weight must be [O, KH, KW, C / groups]; got [8, 4]");
  EXPECT_ERROR(conv2d(x, zeros({8, 3, 3, 4}, f64)), "conv2d: x and weight must share dtype and device; got x f32");
  EXPECT_ERROR(conv2d(x, zeros({8, 3, 3, 3})), "expects 3 input channels; got x [1, 6, 6, 4] with 4");
  EXPECT_ERROR(conv2d(x, weight, {}, {.groups = 3}),
               "conv2d: groups must divide the channels of x and of y; got groups 3");
  EXPECT_ERROR(conv2d(x, weight, {}, {.groups = 0}), "got groups 0");
  EXPECT_ERROR(conv2d(x, weight, {}, {.stride = {0, 1}}), "conv2d: strides must be at least 1; got 0, 1");
  EXPECT_ERROR(conv2d(x, weight, {}, {.dilation = {1, 0}}), "conv2d: dilations must be at least 1; got 1, 0");
  EXPECT_ERROR(conv2d(x, weight, {}, {.padding = {-1, 0}}), "conv2d: paddings must not be negative; got -1, 0");
  EXPECT_ERROR(conv2d(x, weight, {}, {.dilation = {3, 3}}), "got kernel 7 x 7, padded input 6 x 6");
  EXPECT_ERROR(conv2d(x, zeros({8, 0, 3, 4})), "conv2d: the kernel must not be empty; got weight [8, 0, 3, 4]");
  EXPECT_ERROR(conv2d(x, weight, zeros({4})), "conv2d: bias must be [8], the outputs of weight; got bias [4]");
  EXPECT_ERROR(conv2d(x, weight, zeros({8}, f64)), "conv2d: bias must share dtype and device of x; got bias f64");
  EXPECT_ERROR(conv2d(zeros({1, 6, 6, 4}, i64), zeros({8, 3, 3, 4}, i64)), "conv2d: computes in f");
}

// Gradients in front of a batch norm add up to almost nothing: rounding errors of the sum are all that is left.
TEST(Conv2d, BiasGradientIsAccurateInSinglePrecision) {
  const Tensor dy = test::uniform({3, 64, 96, 8}, f32);
  Tensor bias[2];
  for (const DType dtype : {f32, f64}) {
    Tensor b = zeros({8}, dtype);
    b.set_requires_grad(true);
    const Tensor x = zeros({3, 64, 96, 8}, dtype), weight = zeros({8, 3, 3, 8}, dtype);
    Tensor w = clone(weight);
    w.set_requires_grad(true);
    backward(conv2d(x, w, b, {.padding = {1, 1}}), to(dy, dtype));
    bias[dtype == f64] = b.grad();
  }
  EXPECT_LT(test::max_difference(to(bias[0], f64), bias[1]), 2e-5);
}

}  // namespace
}  // namespace camo
