// Products, normalisations, softmax, attention and losses on CUDA: 16-bit numbers, odd widths, misaligned memory, sizes
// that fill the device. The oracle is the CPU in f64 on the same rounded inputs.
#include <cmath>
#include <numeric>

#include "ops/detail/gaussian_blur.h"
#include "ops/detail/gemm_cuda.h"
#include "ops/math_mode.h"
#include "ops/ops.h"
#include "tests/cuda/cuda_test.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

class CudaMath : public CudaTest {
 protected:
  void TearDown() override { set_allow_tf32(false); }
};

Tensor on(const Tensor& x, DType dtype, Device device) {
  Tensor y = empty(x.shape(), dtype, device);
  copy_into(y, x);
  return y;
}

double norm_of(const std::vector<double>& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

/// |a - b| / |b| over all elements: rounding every element of b by half a unit gives at most rounding_of(dtype).
double relative_error(const Tensor& a, const Tensor& b) {
  auto difference = a.to_vector<double>();
  const auto expected = b.to_vector<double>();
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= expected[i];
  const double scale = norm_of(expected);
  return norm_of(difference) / (scale == 0 ? 1 : scale);
}

/// fn on CUDA in a dtype against the CPU in f64, output and gradients; `factor` units in the last place on average.
/// `misaligned` puts every input one element behind an aligned address.
void expect_agrees(const Function& fn, const Tensors& inputs, DType dtype, double factor, bool misaligned = false) {
  Tensors here, wide;
  for (const Tensor& x : inputs) {
    Tensor y = empty(x.shape(), dtype);
    if (misaligned) {
      y = make_view(empty({x.numel() + 1}, dtype), x.shape(), x.shape().contiguous_strides(), 1);
    }
    copy_into(y, x);
    here.push_back(y);
    wide.push_back(on(y, f64, cpu));
  }
  const Tensor dy = on(uniform(output_shape(fn, here), f32), dtype, kGpu);
  const Gradients got = run(fn, here, dy);
  set_default_device(cpu);
  const Gradients expected = run(fn, wide, on(dy, f64, cpu));
  set_default_device(kGpu);
  EXPECT_EQ(got.y.dtype(), dtype);
  EXPECT_TRUE(got.y.is_cuda());
  const double allowed = factor * rounding_of(dtype);
  EXPECT_LE(relative_error(got.y, expected.y), allowed) << name(dtype) << ": output";
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_LE(relative_error(got.grads[i], expected.grads[i]), allowed) << name(dtype) << ": gradient of input " << i;
  }
  const Gradients again = run(fn, here, dy);
  EXPECT_TRUE(bitwise_equal(got.y, again.y)) << name(dtype) << ": output of a second run";
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(bitwise_equal(got.grads[i], again.grads[i])) << name(dtype) << ": gradient of a second run";
  }
}

constexpr DType kTypes[] = {f32, f16, bf16};

/// For long sums: those of f32 round at every step, those of 16-bit numbers are kept in f32.
double sum_factor(DType dtype) { return dtype == f32 ? 60 : 6; }

TEST_F(CudaMath, Linear) {
  const Function fn = [](const Tensors& in) { return linear(in[0], in[1], in[2]); };
  const int64_t sizes[][3] = {
      {1, 1, 1},      {33, 73, 10}, {500, 288, 146}, {3000, 80, 320}, {5, 20, 1},
      {70001, 32, 1}, {999, 80, 1}, {64, 512, 1},    {33, 520, 1}};  // one output: its own kernels
  for (const auto& [rows, in, out] : sizes) {
    SCOPED_TRACE(concat_text(rows, " x ", in, " -> ", out));
    const Tensors inputs{uniform({rows, in}, f32), uniform({out, in}, f32), uniform({out}, f32)};
    for (const DType dtype : kTypes) {
      expect_agrees(fn, inputs, dtype, sum_factor(dtype));
      expect_agrees(fn, inputs, dtype, sum_factor(dtype), true);
    }
  }
}

TEST_F(CudaMath, LinearWithOneOutputOfRowsWithGaps) {
  const Function fn = [](const Tensors& in) { return linear(slice(in[0], 1, 8, 40), in[1]); };
  for (const DType dtype : kTypes) {
    expect_agrees(fn, {uniform({1000, 48}, f32), uniform({1, 32}, f32)}, dtype, sum_factor(dtype));
  }
}

TEST_F(CudaMath, Matmul) {
  const Function fn = [](const Tensors& in) { return matmul(in[0], in[1]); };
  for (const DType dtype : kTypes) {
    expect_agrees(fn, {uniform({3, 4, 21, 17}, f32), uniform({3, 4, 17, 9}, f32)}, dtype, sum_factor(dtype));
    expect_agrees(fn, {uniform({3, 1, 64, 40}, f32), uniform({4, 40, 32}, f32)}, dtype, sum_factor(dtype));
    expect_agrees(fn, {uniform({2, 3, 50, 24}, f32), uniform({24, 72}, f32)}, dtype, sum_factor(dtype));
    // Heads of [B, L, h, d] as cross-covariance attention takes them: two levels of batches, both operands strided.
    expect_agrees(
        [](const Tensors& in) {
          return matmul(permute(in[0], {0, 2, 3, 1}), permute(in[1], {0, 2, 1, 3}));
        },
        {uniform({3, 100, 4, 22}, f32), uniform({3, 100, 4, 22}, f32)}, dtype, sum_factor(dtype));
  }
}

// Heads of [B, L, h, d]: q^T k over a long axis, then a product with a long one, and the gradients of both.
TEST_F(CudaMath, ProductsBetweenTheChannelsOfHeads) {
  const int64_t sizes[][4] = {{2, 2304, 3, 20}, {3, 576, 2, 36}, {2, 144, 2, 73}, {2, 700, 2, 80},  // most of a kernel
                              {2, 81, 2, 81},   {2, 7, 3, 1},    {2, 1, 2, 5},    {3, 2, 2, 3}};
  const Function covariance = [](const Tensors& in) {
    return matmul(permute(in[0], {0, 2, 3, 1}), permute(in[1], {0, 2, 1, 3}));
  };
  const Function mix = [](const Tensors& in) { return matmul(permute(in[0], {0, 2, 1, 3}), in[1]); };
  const Function mix_transposed = [](const Tensors& in) { return matmul(in[1], permute(in[0], {0, 2, 3, 1})); };
  for (const auto& [batch, length, heads, width] : sizes) {
    SCOPED_TRACE(concat_text(batch, " x ", length, " x ", heads, " x ", width));
    const Tensor x = uniform({batch, length, heads, width}, f32), y = uniform({batch, length, heads, width}, f32);
    const Tensor weights = uniform({batch, heads, width, width}, f32);
    for (const DType dtype : kTypes) {
      expect_agrees(covariance, {x, y}, dtype, sum_factor(dtype));
      expect_agrees(mix, {x, weights}, dtype, sum_factor(dtype));
      expect_agrees(mix_transposed, {x, weights}, dtype, sum_factor(dtype));
    }
  }
}

TEST_F(CudaMath, Tf32IsASwitch) {
  const Tensor a = uniform({256, 512}, f32), b = uniform({512, 256}, f32);
  const Tensor expected = matmul(on(a, f64, cpu), on(b, f64, cpu));
  EXPECT_LE(relative_error(matmul(a, b), expected), 1e-6);
  set_allow_tf32(true);
  const double error = relative_error(matmul(a, b), expected);
  EXPECT_LE(error, 1e-3);
  EXPECT_GT(error, 1e-5);
}

TEST_F(CudaMath, PlansAreReused) {
  const auto step = [](int64_t rows) { matmul(zeros({rows, 24}), zeros({24, 31})); };
  step(77);
  const int64_t before = detail::gemm_cuda_plan_count();
  for (int i = 0; i < 3; ++i) step(77);
  EXPECT_EQ(detail::gemm_cuda_plan_count(), before);
  step(78);
  EXPECT_EQ(detail::gemm_cuda_plan_count(), before + 1);
}

TEST_F(CudaMath, LayerNorm) {
  const Function fn = [](const Tensors& in) { return layer_norm(in[0], in[1], in[2], 1e-6); };
  for (const int64_t width : {1, 2, 10, 18, 20, 24, 48, 73, 80, 88, 146, 160, 168, 288, 584, 1001, 2336}) {
    SCOPED_TRACE(width);
    const Tensors inputs{uniform({131, width}, f32, -1, 3), uniform({width}, f32), uniform({width}, f32)};
    for (const DType dtype : kTypes) {
      if (width > 2) expect_agrees(fn, inputs, dtype, 8);
      if (width == 80) expect_agrees(fn, inputs, dtype, 8, true);
    }
  }
  expect_agrees(fn, {uniform({20000, 88}, f32), uniform({88}, f32), uniform({88}, f32)}, f32, 8);
}

TEST_F(CudaMath, LayerNormWithWideParameters) {
  const Tensor weight = uniform({48}, f32), bias = uniform({48}, f32);
  for (const DType dtype : {f16, bf16}) {
    const Tensor x = on(uniform({100, 48}, f32), dtype, kGpu);
    x.set_requires_grad(true);
    const Tensor w = clone(weight);
    w.set_requires_grad(true);
    const Tensor y = layer_norm(x, w, bias, 1e-6);
    EXPECT_EQ(y.dtype(), dtype);
    EXPECT_LE(relative_error(y, layer_norm(on(x, f64, cpu), on(weight, f64, cpu), on(bias, f64, cpu), 1e-6)),
              2 * rounding_of(dtype));
    backward(y, on(uniform({100, 48}, f32), dtype, kGpu));
    EXPECT_EQ(w.grad().dtype(), f32);
    EXPECT_EQ(x.grad().dtype(), dtype);
  }
}

TEST_F(CudaMath, BatchNorm) {
  for (const bool training : {true, false}) {
    const Function fn = [training](const Tensors& in) {
      const Shape channels{in[0].size(-1)};
      const Tensor mean = full(channels, 0.3, in[0].dtype(), in[0].device());
      const Tensor variance = full(channels, 0.8, in[0].dtype(), in[0].device());
      return batch_norm(in[0], in[1], in[2], mean, variance, {.training = training});
    };
    for (const int64_t width : {1, 10, 73, 80, 288}) {
      SCOPED_TRACE(concat_text(width, training ? ", training" : ", evaluation"));
      const Tensors inputs{uniform({2, 40, 41, width}, f32, -1, 3), uniform({width}, f32), uniform({width}, f32)};
      for (const DType dtype : kTypes) expect_agrees(fn, inputs, dtype, 16);
    }
  }
}

TEST_F(CudaMath, BatchNormKeepsItsPrecisionFarFromZero) {
  const Tensor x = uniform({50000, 24}, f32, 999, 1001);
  fill(make_view(x, {24}, {1}, 0), 0);  // the first row lies far from the mean
  const Tensor mean = zeros({24}), variance = ones({24});
  const Tensor wide_mean = zeros({24}, f64, cpu), wide_variance = ones({24}, f64, cpu);
  batch_norm(x, ones({24}), zeros({24}), mean, variance, {.training = true, .momentum = 1});
  batch_norm(on(x, f64, cpu), ones({24}, f64, cpu), zeros({24}, f64, cpu), wide_mean, wide_variance,
             {.training = true, .momentum = 1});
  EXPECT_LE(relative_error(mean, wide_mean), 1e-6);
  EXPECT_LE(relative_error(variance, wide_variance), 1e-4);
}

TEST_F(CudaMath, Softmax) {
  for (const int64_t width : {1, 7, 64, 73, 500, 1000, 2304, 5001}) {
    for (const DType dtype : kTypes) {
      SCOPED_TRACE(concat_text(width, " ", dtype));
      const Tensors inputs{uniform({67, width}, f32, -4, 4)};
      if (width > 1) {
        expect_agrees([](const Tensors& in) { return softmax(in[0], 1); }, inputs, dtype, 16);
        expect_agrees([](const Tensors& in) { return log_softmax(in[0], 1); }, inputs, dtype, 16);
      }
      expect_agrees([](const Tensors& in) { return softmax(in[0], 0); }, inputs, dtype, 16);
    }
  }
}

TEST_F(CudaMath, L2Normalize) {
  for (const DType dtype : kTypes) {
    const Function tokens = [](const Tensors& in) { return l2_normalize(slice(in[0], 2, 1, 3), 1); };
    expect_agrees(tokens, {uniform({3, 700, 5, 22}, f32)}, dtype, 8);
    for (const int axis : {0, 1, 2}) {
      expect_agrees([axis](const Tensors& in) { return l2_normalize(in[0], axis); }, {uniform({9, 130, 33}, f32)},
                    dtype, 8);
    }
  }
}

TEST_F(CudaMath, Attention) {
  Tensor seen = greater(uniform({2, 1, 1, 70}, f32), -0.5);
  for (const AttentionOptions& options :
       {AttentionOptions{}, AttentionOptions{.causal = true}, AttentionOptions{.dropout = 0.2, .dropout_key = {1, 2}},
        AttentionOptions{.mask = seen}}) {
    const Function fn = [&](const Tensors& in) {
      AttentionOptions local = options;
      if (local.mask.defined()) local.mask = on(seen, boolean, in[0].device());
      return scaled_dot_product_attention(in[0], in[1], in[2], local);
    };
    const Tensors inputs{uniform({2, 65, 3, 20}, f32), uniform({2, 70, 3, 20}, f32), uniform({2, 70, 3, 20}, f32)};
    for (const DType dtype : kTypes) expect_agrees(fn, inputs, dtype, 4 * sum_factor(dtype));
  }
  const Function fn = [](const Tensors& in) { return scaled_dot_product_attention(in[0], in[1], in[2]); };
  const Tensors many{uniform({2, 600, 4, 32}, f32), uniform({2, 600, 4, 32}, f32), uniform({2, 600, 4, 32}, f32)};
  for (const DType dtype : kTypes) expect_agrees(fn, many, dtype, 4 * sum_factor(dtype));
}

TEST_F(CudaMath, Losses) {
  const std::function<Tensor(const Tensor&, const Tensor&)> losses[] = {
      bce_with_logits, [](const Tensor& x, const Tensor& t) { return iou_loss(x, t); },
      [](const Tensor& x, const Tensor& t) { return dice_loss(x, t); }};
  const Tensor t = uniform({3, 150, 151, 1}, f32, 0, 1);
  for (const auto& loss : losses) {
    const Function fn = [&](const Tensors& in) {
      const Tensor rounded = on(on(t, bf16, cpu), in[0].dtype(), in[0].device());  // the same in every dtype
      return loss(in[0], rounded);
    };
    for (const DType dtype : {f32, bf16}) expect_agrees(fn, {uniform({3, 150, 151, 1}, f32, -4, 4)}, dtype, 8);
  }
}

TEST_F(CudaMath, FiltersOfMaps) {
  const Function filters[] = {
      [](const Tensors& in) { return sobel_x(in[0]); }, [](const Tensors& in) { return sobel_y(in[0]); },
      [](const Tensors& in) { return laplacian(in[0]); }, [](const Tensors& in) { return edge_magnitude(in[0], 1e-3); },
      [](const Tensors& in) { return detail::gaussian_blur(in[0], 11, 1.5); }};
  for (const auto& fn : filters) {
    for (const int64_t channels : {1, 3, 10, 24}) {
      for (const DType dtype : kTypes) expect_agrees(fn, {uniform({2, 37, 29, channels}, f32)}, dtype, 16);
    }
  }
}

TEST_F(CudaMath, OperandsOnTwoDevices) {
  const Tensor here = zeros({3, 3}), there = zeros({3, 3}, f32, cpu), row = zeros({3}, f32, cpu);
  EXPECT_ERROR(matmul(here, there), "matmul: operands must be on one device; got cuda:0 and cpu");
  EXPECT_ERROR(linear(here, there), "linear: operands must be on one device");
  EXPECT_ERROR(layer_norm(here, row, row, 1e-6), "layer_norm: operands must be on one device");
  EXPECT_ERROR(batch_norm(here, row, row, row, row, {}), "batch_norm: operands must be on one device");
  EXPECT_ERROR(bce_with_logits(here, there), "bce_with_logits: operands must be on one device");
  EXPECT_ERROR(iou_loss(here, there), "iou_loss: operands must be on one device");
  const Tensor q = zeros({1, 3, 2, 4}), k = zeros({1, 3, 2, 4}, f32, cpu);
  EXPECT_ERROR(scaled_dot_product_attention(q, k, k), "scaled_dot_product_attention: operands must be on one device");
}

}  // namespace
}  // namespace camo
