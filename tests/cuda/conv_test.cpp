// Convolutions on CUDA at the network's sizes, in every dtype and by every implementation, against the CPU in f64.
#include <string>
#include <vector>

#include "ops/conv2d.h"
#include "ops/math_mode.h"
#include "ops/shape_ops.h"
#include "tests/cuda/cuda_cases.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#include "ops/cuda/cudnn_conv.h"
#endif

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::cuda_tolerance;
using test::expect_gpu_agrees;
using test::kGpu;
using test::on_gpu;
using test::output_and_gradients;
using test::uniform;

class CudaConv : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << why_no_cuda();
  }
  void TearDown() override {
    set_cuda_convolution(CudaConvolution::automatic);
    set_allow_tf32(false);
    set_conv_autotune(false);
  }
};

struct Case {
  const char* name;
  Shape x, weight;
  Conv2dOptions options;
};

Conv2dOptions depthwise(int64_t channels, int64_t kernel) {
  return {.padding = {kernel / 2, kernel / 2}, .groups = channels};
}

const std::vector<Case>& depthwise_cases() {
  static const std::vector<Case> cases{
      {"96x96x80 k3", {2, 96, 96, 80}, {80, 3, 3, 1}, depthwise(80, 3)},
      {"48x48x160 k5", {2, 48, 48, 160}, {160, 5, 5, 1}, depthwise(160, 5)},
      {"24x24x288 k7", {2, 24, 24, 288}, {288, 7, 7, 1}, depthwise(288, 7)},
      {"12x12x584 k9", {2, 12, 12, 584}, {584, 9, 9, 1}, depthwise(584, 9)},
      {"12x12x146 k3", {2, 12, 12, 146}, {146, 3, 3, 1}, depthwise(146, 3)},
      {"odd channels, k3", {1, 13, 17, 73}, {73, 3, 3, 1}, depthwise(73, 3)},
      {"odd channels, k5", {1, 13, 17, 19}, {19, 5, 5, 1}, depthwise(19, 5)},
      {"odd channels, k7", {1, 13, 17, 131}, {131, 7, 7, 1}, depthwise(131, 7)},
      {"odd channels, k9", {3, 7, 5, 67}, {67, 9, 9, 1}, depthwise(67, 9)},
      {"128 channels, k9", {1, 12, 12, 128}, {128, 9, 9, 1}, depthwise(128, 9)},
      {"no padding", {2, 11, 10, 24}, {24, 5, 5, 1}, {.groups = 24}},
      {"more padding than kernel", {1, 4, 4, 6}, {6, 3, 3, 1}, {.padding = {4, 3}, .groups = 6}},
      {"a column", {2, 30, 1, 8}, {8, 7, 7, 1}, depthwise(8, 7)},
      {"a row", {2, 1, 31, 8}, {8, 3, 3, 1}, depthwise(8, 3)},
      {"gate 24x24x96", {2, 24, 24, 96}, {24, 3, 3, 4}, depthwise(24, 3)},
      {"gate, odd groups", {1, 9, 7, 292}, {73, 3, 3, 4}, depthwise(73, 3)},
  };
  return cases;
}

const std::vector<Case>& dense_cases() {
  static const std::vector<Case> cases{
      {"stem 4x4/4", {2, 96, 96, 3}, {24, 4, 4, 3}, {.stride = {4, 4}}},
      {"down 2x2/2", {2, 48, 48, 80}, {160, 2, 2, 80}, {.stride = {2, 2}}},
      {"3x3", {2, 24, 24, 96}, {64, 3, 3, 96}, {.padding = {1, 1}}},
      {"3x3, odd channels", {1, 13, 11, 18}, {10, 3, 3, 18}, {.padding = {1, 1}}},
      {"3x3, one output", {1, 24, 24, 48}, {1, 3, 3, 48}, {.padding = {1, 1}}},
      {"3x3, one input", {1, 24, 24, 1}, {16, 3, 3, 1}, {.padding = {1, 1}}},
      {"7x7, two inputs", {1, 24, 24, 2}, {1, 7, 7, 2}, {.padding = {3, 3}}},
      {"3x3 dilated by 4", {1, 24, 24, 32}, {32, 3, 3, 32}, {.padding = {4, 4}, .dilation = {4, 4}}},
      {"3x3, 20 channels", {2, 37, 21, 20}, {20, 3, 3, 20}, {.padding = {1, 1}}},
      {"3x3, 20 channels dilated by 4", {3, 33, 48, 20}, {20, 3, 3, 20}, {.padding = {4, 4}, .dilation = {4, 4}}},
      {"3x3, 40 channels dilated by 3", {2, 20, 19, 40}, {40, 3, 3, 40}, {.padding = {3, 3}, .dilation = {3, 3}}},
      {"3x3, 28 channels dilated by 2", {1, 24, 24, 28}, {28, 3, 3, 28}, {.padding = {2, 2}, .dilation = {2, 2}}},
      {"3x3, 12 channels dilated by 2", {1, 5, 3, 12}, {12, 3, 3, 12}, {.padding = {2, 2}, .dilation = {2, 2}}},
      {"3x3, 4 channels", {1, 17, 16, 4}, {4, 3, 3, 4}, {.padding = {1, 1}}},
      {"rectangular", {2, 15, 17, 8}, {12, 3, 2, 8}, {.stride = {2, 3}, .padding = {1, 0}, .dilation = {1, 2}}},
      {"rest of the map unused", {1, 18, 23, 8}, {16, 4, 4, 8}, {.stride = {4, 4}}},
      {"1x1 strided", {2, 12, 12, 32}, {16, 1, 1, 32}, {.stride = {2, 2}}},
      {"grouped", {2, 12, 12, 32}, {48, 3, 3, 8}, {.padding = {1, 1}, .groups = 4}},
      {"depthwise strided", {1, 17, 17, 24}, {24, 3, 3, 1}, {.stride = {2, 2}, .padding = {1, 1}, .groups = 24}},
      {"depthwise dilated", {1, 17, 17, 24}, {24, 3, 3, 1}, {.padding = {2, 2}, .dilation = {2, 2}, .groups = 24}},
  };
  return cases;
}

struct Choice {
  const char* name;
  CudaConvolution choice;
};
constexpr Choice kChoices[] = {{"automatic", CudaConvolution::automatic},
                               {"cudnn", CudaConvolution::cudnn},
                               {"patches", CudaConvolution::patches},
                               {"direct", CudaConvolution::direct}};

test::MapFunction convolution(const Case& c) {
  return [options = c.options](const Tensors& in) { return conv2d(in[0], in[1], in[2], options); };
}
Tensors inputs_of(const Case& c) { return {uniform(c.x), uniform(c.weight), uniform({c.weight[0]})}; }

void expect_all_dtypes(const std::vector<Case>& cases, const Choice& choice) {
  set_cuda_convolution(choice.choice);
  for (const Case& c : cases) {
    for (const DType dtype : {f32, f64, f16, bf16}) {
      SCOPED_TRACE(concat_text(c.name, ", ", choice.name, ", ", dtype));
      EXPECT_NO_THROW(expect_gpu_agrees(convolution(c), inputs_of(c), dtype, cuda_tolerance(dtype)));
    }
  }
}

TEST_F(CudaConv, DepthwiseMatchesTheCpu) { expect_all_dtypes(depthwise_cases(), kChoices[0]); }
TEST_F(CudaConv, DenseMatchesTheCpu) { expect_all_dtypes(dense_cases(), kChoices[0]); }
TEST_F(CudaConv, CudnnMatchesTheCpuOnDepthwiseProblems) { expect_all_dtypes(depthwise_cases(), kChoices[1]); }
TEST_F(CudaConv, PatchesMatchTheCpu) { expect_all_dtypes(dense_cases(), kChoices[2]); }
TEST_F(CudaConv, DirectMatchesTheCpu) {
  expect_all_dtypes(dense_cases(), kChoices[3]);
  expect_all_dtypes(depthwise_cases(), kChoices[3]);
}

TEST_F(CudaConv, WithoutBias) {
  for (const Case* c : {&depthwise_cases()[1], &depthwise_cases()[14], &dense_cases()[2]}) {
    for (const DType dtype : {f32, f16, bf16}) {
      SCOPED_TRACE(c->name);
      const auto fn = [c](const Tensors& in) { return conv2d(in[0], in[1], {}, c->options); };
      expect_gpu_agrees(fn, {uniform(c->x), uniform(c->weight)}, dtype, cuda_tolerance(dtype));
    }
  }
}

TEST_F(CudaConv, MisalignedTensors) {
  for (const Case* c : {&depthwise_cases()[0], &depthwise_cases()[5], &depthwise_cases()[14], &dense_cases()[1],
                        &dense_cases()[2], &dense_cases()[11], &dense_cases()[17]}) {
    for (const DType dtype : {f32, f64, f16, bf16}) {
      SCOPED_TRACE(c->name);
      EXPECT_NO_THROW(expect_gpu_agrees(convolution(*c), inputs_of(*c), dtype, cuda_tolerance(dtype), 1));
    }
  }
}

TEST_F(CudaConv, Tf32RoundsInputsOnly) {
  set_allow_tf32(true);
  for (const Case& c : dense_cases()) {
    SCOPED_TRACE(c.name);
    expect_gpu_agrees(convolution(c), inputs_of(c), f32, 2e-3);
  }
}

TEST_F(CudaConv, AutotunedPlansGiveTheSame) {
  set_conv_autotune(true);
  for (const Case& c : dense_cases()) {
    SCOPED_TRACE(c.name);
    for (const DType dtype : {f32, bf16}) {
      EXPECT_NO_THROW(expect_gpu_agrees(convolution(c), inputs_of(c), dtype, cuda_tolerance(dtype)));
    }
  }
}

TEST_F(CudaConv, SameBitsEveryTime) {
  for (const std::vector<Case>* cases : {&depthwise_cases(), &dense_cases()}) {
    for (const Case& c : *cases) {
      const Tensors inputs = inputs_of(c);
      const Tensor dy = uniform(convolution(c)(inputs).shape());
      for (const DType dtype : {f32, bf16}) {
        const auto all = [&] {
          Tensors narrow;
          for (const Tensor& x : inputs) narrow.push_back(on_gpu(x, dtype));
          return output_and_gradients(convolution(c), narrow, on_gpu(dy, dtype));
        };
        const Tensors first = all(), second = all();
        for (size_t i = 0; i < first.size(); ++i)
          EXPECT_TRUE(bitwise_equal(first[i], second[i])) << c.name << ", result " << i;
      }
    }
  }
}

TEST_F(CudaConv, FullBatchDepthwiseSumsManyPixels) {
  const Case c{"16x96x96x80 k3", {16, 96, 96, 80}, {80, 3, 3, 1}, depthwise(80, 3)};
  expect_gpu_agrees(convolution(c), inputs_of(c), f32, 2e-5);
  expect_gpu_agrees(convolution(c), inputs_of(c), bf16, cuda_tolerance(bf16));
}

/// Without TF32 large batches go to cuDNN in parts, here of 9 and 4 images.
TEST_F(CudaConv, LargeBatchesAgreeInF32) {
  const Case c{"13x160x160x256", {13, 160, 160, 256}, {16, 3, 3, 256}, {.padding = {1, 1}}};
  const Tensor x = on_gpu(uniform(c.x, f32), f32), weight = on_gpu(uniform(c.weight, f32), f32);
  const Tensor y = conv2d(x, weight, {}, c.options), dy = on_gpu(uniform(y.shape(), f32), f32);
  x.set_requires_grad(true);
  backward(conv2d(x, weight, {}, c.options), dy);
  for (const int64_t image : {0, 5, 12}) {
    const Tensor one = slice(x.detach(), 0, image, image + 1).detach();
    const Tensor leaf = clone(one);
    leaf.set_requires_grad(true);
    const Tensor alone = conv2d(leaf, weight, {}, c.options);
    backward(alone, contiguous(slice(dy, 0, image, image + 1)));
    EXPECT_TRUE(all_close(slice(y, 0, image, image + 1), alone.detach(), 1e-5)) << "image " << image;
    EXPECT_TRUE(all_close(slice(x.grad(), 0, image, image + 1), leaf.grad(), 1e-5)) << "image " << image;
  }
}

#ifdef CAMO_WITH_CUDA
detail::ConvProblem problem_of(const Case& c) {
  const auto [stride, padding, dilation, groups] = c.options;
  const auto out = [](int64_t extent, int64_t kernel, int64_t s, int64_t p, int64_t d) {
    return (extent + 2 * p - d * (kernel - 1) - 1) / s + 1;
  };
  return {.n = c.x[0],
          .h = c.x[1],
          .w = c.x[2],
          .c = c.x[3],
          .o = c.weight[0],
          .kh = c.weight[1],
          .kw = c.weight[2],
          .oh = out(c.x[1], c.weight[1], stride[0], padding[0], dilation[0]),
          .ow = out(c.x[2], c.weight[2], stride[1], padding[1], dilation[1]),
          .stride_h = stride[0],
          .stride_w = stride[1],
          .padding_h = padding[0],
          .padding_w = padding[1],
          .dilation_h = dilation[0],
          .dilation_w = dilation[1],
          .groups = groups};
}

/// Nothing depends on it for correctness, but without an engine the network's convolutions would be slow.
TEST_F(CudaConv, CudnnHasEnginesForDenseProblems) {
  for (const Case& c : dense_cases()) {
    if (c.options.groups > 1) continue;
    const detail::ConvProblem p = problem_of(c);
    for (const DType dtype : {f32, f16, bf16}) {
      const Tensor x = zeros(c.x, dtype, kGpu), weight = zeros(c.weight, dtype, kGpu);
      const Tensor y = zeros({p.n, p.oh, p.ow, p.o}, dtype, kGpu);
      EXPECT_TRUE(cuda::cudnn_conv(cuda::ConvPass::forward, p, x, weight, {}, y)) << cuda::cudnn_refusal();
      EXPECT_TRUE(cuda::cudnn_conv(cuda::ConvPass::backward_data, p, x, weight, {}, y)) << cuda::cudnn_refusal();
      EXPECT_TRUE(cuda::cudnn_conv(cuda::ConvPass::backward_weight, p, x, weight, {}, y)) << cuda::cudnn_refusal();
    }
  }
}
#endif

#ifdef CAMO_WITH_CUDA
/// Maps of 2^32 elements, whose sizes multiplied are 2^64; rows beyond 2^31 are those of a small map.
TEST_F(CudaConv, MapsOfMoreThan2To31Elements) {
  constexpr int64_t kSide = 8192, kChannels = 64, kSlab = 1024;
  if (test::free_device_bytes() < int64_t{40} << 30) GTEST_SKIP() << "needs 40 GiB of free memory";
  const NoGrad no_grad;
  const Tensor weight = uniform({kChannels, 3, 3, kChannels}, bf16, -0.05, 0.05);
  const Tensor x = empty({1, kSide, kSide, kChannels}, bf16);
  for (int64_t row = 0; row < kSide; row += kSlab) {
    const Tensor line = uniform({1, 1, kSide, kChannels}, bf16);
    copy_into(slice(x, 1, row, row + kSlab), expand(line, {1, kSlab, kSide, kChannels}));
  }
  const Tensor y = conv2d(x, weight, {}, {.padding = {1, 1}});
  for (const int64_t row : {int64_t{0}, 3 * kSlab, 4 * kSlab, 7 * kSlab, kSide - 8}) {
    const int64_t first = std::max<int64_t>(0, row - 8), last = std::min(kSide, row + 8), skip = first == 0 ? 0 : 1;
    const Tensor part = conv2d(contiguous(slice(x, 1, first, last)), weight, {}, {.padding = {1, 1}});
    const Tensor got = slice(y, 1, first + skip, last - 1), wanted = slice(part, 1, skip, last - first - 1);
    EXPECT_TRUE(all_close(contiguous(got), contiguous(wanted), 0x1p-7)) << "row " << row;
  }
}

/// The kernels by tiles take more shared memory in f32 than every GPU has.
TEST_F(CudaConv, DepthwiseF32OfEverySize) {
  for (const int64_t side : {3, 5, 7, 9}) {
    for (const int64_t width : {12, 30}) {
      const Conv2dOptions options{.padding = {side / 2, side / 2}, .groups = 8};
      expect_gpu_agrees([=](const Tensors& in) { return conv2d(in[0], in[1], in[2], options); },
                        {uniform({2, 9, width, 8}), uniform({8, side, side, 1}), uniform({8})}, f32, 1e-5);
    }
  }
}
#endif

TEST_F(CudaConv, RejectsTensorsOnDifferentDevices) {
  const Tensor x = zeros({1, 6, 6, 4}, f32, kGpu), weight = zeros({8, 3, 3, 4}, f32, cpu);
  EXPECT_ERROR(conv2d(x, weight), "conv2d: x and weight must share dtype and device; got x f32 on cuda:0");
  EXPECT_ERROR(conv2d(zeros({1, 6, 6, 4}, i64, kGpu), zeros({8, 3, 3, 4}, i64, kGpu)),
               "conv2d: computes in floating dtypes; got i64");
}

}  // namespace
}  // namespace camo
