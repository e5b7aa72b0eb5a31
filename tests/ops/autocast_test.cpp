// The policy of Autocast, on the device under test.
#include "core/autocast.h"

#include "ops/ops.h"
#include "tests/cuda/cuda_cases.h"

namespace camo {
namespace {

using namespace test;

Tensor leaf(const Shape& shape) { return uniform(shape, f32).set_requires_grad(true); }

TEST(Autocasting, ProductsAreIn16BitAndGradientsInTheirLeafsDtype) {
  for (const DType dtype : {bf16, f16}) {
    const Tensor x = leaf({5, 16}), weight = leaf({8, 16}), bias = leaf({8});
    Tensor y;
    {
      const Autocast scope(dtype);
      y = linear(x, weight, bias);
      EXPECT_EQ(y.dtype(), dtype);
      EXPECT_EQ(matmul(x, y.detach().shape()[0] == 5 ? permute(weight, {1, 0}) : weight).dtype(), dtype);
      EXPECT_EQ(gelu(y).dtype(), dtype);
      EXPECT_EQ((y + y).dtype(), dtype);
      EXPECT_EQ((y * bias).dtype(), f32);
      EXPECT_EQ(concat({y, to(y, f32)}, 1).dtype(), f32);
    }
    EXPECT_EQ(linear(x, weight, bias).dtype(), f32);
    backward(sum(to(y, f32)));
    for (const Tensor& parameter : {x, weight, bias}) EXPECT_EQ(parameter.grad().dtype(), f32);
    const Tensor exact = linear(to(x, cpu), to(weight, cpu), to(bias, cpu)).detach();
    EXPECT_TRUE(all_close(to(to(y.detach(), f32), cpu), exact, 4 * cuda_tolerance(dtype)));
  }
}

// A parameter may come back to the address and version that it had when its copy was made.
TEST(Autocasting, CopiesFollowParametersThatWereMoved) {
  const Tensor weight = leaf({64, 64}), x = full({1, 64}, 1, f32);
  const auto product = [&] {
    const Autocast scope(bf16);
    const NoGrad no_grad;
    return max(to(linear(x, weight), f32)).item();
  };
  const auto replace = [&](double value) {  // as Module::to() does
    Tensor fresh = full({64, 64}, value, f32);
    TensorImpl& impl = *weight.impl();
    impl.storage = fresh.storage();
  };
  for (int i = 1; i < 8; ++i) {
    replace(i);
    if (i % 2 == 0) replace(2 * i);
    EXPECT_EQ(product(), 64 * i * (i % 2 == 0 ? 2 : 1));
  }
}

TEST(Autocasting, ConvolutionAndAttention) {
  const Autocast scope(bf16);
  const Tensor x = leaf({2, 9, 9, 8}), weight = leaf({8, 3, 3, 8}), bias = leaf({8});
  const Tensor y = conv2d(x, weight, bias, {.padding = {1, 1}});
  EXPECT_EQ(y.dtype(), bf16);
  const Tensor tokens = reshape(y, {2, 81, 2, 4});
  EXPECT_EQ(scaled_dot_product_attention(tokens, tokens, tokens).dtype(), bf16);
  backward(sum(to(y, f32)));
  EXPECT_EQ(weight.grad().dtype(), f32);
  EXPECT_EQ(x.grad().dtype(), f32);
}

/// Sizes for which the CPU's library takes other ways than for small ones.
TEST(Autocasting, ConvolutionsOfLargeMapsAgreeWithF32) {
  const auto apply = [](const Tensors& in) { return conv2d(in[0], in[1], in[2], {.padding = {1, 1}}); };
  Tensors wide, narrow;
  for (const Tensor& x : {uniform({2, 70, 64, 8}), uniform({16, 3, 3, 8}), uniform({16})}) {
    narrow.push_back(to(x, bf16));
    wide.push_back(to(rounded(x, bf16), f32));
  }
  const Tensor dy = uniform({2, 70, 64, 16});
  const Tensors expected = output_and_gradients(apply, wide, to(rounded(dy, bf16), f32));
  const Tensors got = output_and_gradients(apply, narrow, to(dy, bf16));
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(all_close(to(got[i], f32), expected[i], cuda_tolerance(bf16))) << "result " << i;
  }
}

TEST(Autocasting, AResidualStreamStaysWide) {
  const Autocast scope(bf16);
  const Tensor x = leaf({4, 24}), weight = leaf({24}), bias = leaf({24}), gamma = leaf({24});
  const Tensor normal = layer_norm(x, weight, bias, 1e-6);
  EXPECT_EQ(normal.dtype(), bf16);
  const Tensor y = scaled_residual(x, normal, gamma);
  EXPECT_EQ(y.dtype(), f32);
  backward(sum(y));
  for (const Tensor& parameter : {x, weight, bias, gamma}) EXPECT_EQ(parameter.grad().dtype(), f32);
}

TEST(Autocasting, MixedLayerNormAndResidualAgreeWithTheCpu) {
  for (const int64_t width : {1, 7, 24, 160, 584, 5000}) {
    for (const DType dtype : {bf16, f16}) {
      const auto apply = [](const Tensors& in) {
        return scaled_residual(in[0], layer_norm(in[0], in[1], in[2], 1e-6), in[3]);
      };
      Tensors wide, narrow;
      for (const Tensor& x : {uniform({67, width}), uniform({width}), uniform({width}), uniform({width})}) {
        wide.push_back(to(rounded(x, f32), cpu));
        narrow.push_back(to(x, f32));
      }
      const Tensor dy = uniform({67, width});
      const Tensors expected = output_and_gradients(apply, wide, to(rounded(dy, f32), cpu));
      const Autocast scope(dtype);
      const Tensors got = output_and_gradients(apply, narrow, to(dy, f32));
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].dtype(), f32);
        EXPECT_TRUE(all_close(to(got[i], cpu), expected[i], 4 * cuda_tolerance(dtype)))
            << name(dtype) << ", width " << width << ", result " << i;
      }
    }
  }
}

TEST(Autocasting, AnInnerScopeOfF32ComputesExactly) {
  const Tensor x = leaf({5, 16}), weight = leaf({8, 16});
  const Tensor exact = linear(x, weight).detach();
  const Autocast scope(bf16);
  {
    const Autocast full(f32);
    EXPECT_TRUE(bitwise_equal(linear(x, weight).detach(), exact));
    EXPECT_EQ(linear(to(x, bf16), weight).dtype(), f32);
  }
  EXPECT_EQ(linear(x, weight).dtype(), bf16);
}

TEST(Autocasting, CopiesOfParametersFollowChanges) {
  const Tensor x = uniform({5, 16}, f32), weight = leaf({8, 16});
  const Autocast scope(bf16);
  const Tensor before = linear(x, weight).detach();
  fill(weight, 0);
  EXPECT_TRUE(all_close(linear(x, weight).detach(), zeros_like(before), 0));
}

TEST(Autocasting, CheckpointsRepeatTheirPrecision) {
  const Tensor x = leaf({5, 16}), weight = leaf({16, 16});
  const auto apply = [&](const Tensors& in) { return gelu(linear(gelu(linear(in[0], weight)), weight)); };
  Tensors gradients;
  for (const bool checkpointed : {false, true}) {
    x.set_grad({});
    weight.set_grad({});
    Tensor y;
    {
      const Autocast scope(bf16);
      y = checkpointed ? checkpoint(apply, {x}) : apply({x});
    }
    EXPECT_EQ(y.dtype(), bf16);
    backward(sum(to(y, f32)));
    gradients.push_back(clone(x.grad()));
    gradients.push_back(clone(weight.grad()));
  }
  EXPECT_TRUE(bitwise_equal(gradients[0], gradients[2]));
  EXPECT_TRUE(bitwise_equal(gradients[1], gradients[3]));
}

}  // namespace
}  // namespace camo
