// Flash attention at the sizes of CamoXpert and beyond, against math in f64 on the same device.
#include "ops/attention.h"

#include "core/autograd.h"
#include "ops/shape_ops.h"
#include "tests/cuda/cuda_test.h"

namespace camo {
namespace {

using namespace test;

using CudaAttention = CudaTest;

Tensors output_and_grads(const Tensors& inputs, const Tensor& dy, AttentionBackend backend) {
  Tensors leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.detach().set_requires_grad(true));
  const Tensor y = scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], {.backend = backend});
  backward(y, dy);
  return {y.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
}

TEST_F(CudaAttention, LongSequences) {
  const struct {
    int64_t queries, keys, heads, width;
  } shapes[] = {{9216, 9216, 1, 10}, {2304, 2304, 8, 20}, {9217, 33, 3, 10}, {5, 16384, 2, 64}, {4096, 4096, 1, 128}};
  for (const auto& [queries, keys, heads, width] : shapes) {
    for (const DType dtype : {f32, f16, bf16}) {
      const auto random = [&](int64_t tokens) { return random_normal({1, tokens, heads, width}, 1, dtype); };
      const Tensors inputs{random(queries), random(keys), random(keys)};
      const Tensor dy = random(queries);
      Tensors wide;
      for (const Tensor& x : inputs) wide.push_back(to(x, f64));
      const Tensors got = output_and_grads(inputs, dy, AttentionBackend::flash);
      const Tensors expected = output_and_grads(wide, to(dy, f64), AttentionBackend::math);
      const double bound = dtype == f32 ? 5e-6 : dtype == f16 ? 5e-4 : 4e-3;
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_TRUE(all_close(to(got[i], f64), expected[i], i == 0 ? bound : 2 * bound))
            << concat_text(dtype, ", ", queries, " queries, ", keys, " keys, width ", width, ": ")
            << (i == 0 ? "output" : "gradient ") << i;
      }
    }
  }
}

/// The network's call: slices of one projection, every head and picture, against one head at a time.
TEST_F(CudaAttention, EveryHeadOfABatch) {
  for (const DType dtype : {f32, bf16}) {
    const Tensor qkv = random_normal({4, 576, 3, 8, 36}, 1, dtype);
    const NoGrad guard;
    const AttentionOptions options{.backend = AttentionBackend::flash};
    const auto part = [&](int i) { return select(qkv, 2, i); };
    const Tensor all = scaled_dot_product_attention(part(0), part(1), part(2), options);
    for (const int64_t b : {0, 3}) {
      for (const int64_t h : {0, 1, 7}) {
        const auto head = [&](const Tensor& x) { return clone(slice(slice(x, 0, b, b + 1), 2, h, h + 1)); };
        const Tensor one = scaled_dot_product_attention(head(part(0)), head(part(1)), head(part(2)), options);
        EXPECT_TRUE(bitwise_equal(head(all), one)) << name(dtype) << " picture " << b << " head " << h;
      }
    }
  }
}

TEST_F(CudaAttention, SameBitsFiftyTimes) {
  for (const DType dtype : {f32, bf16}) {
    const auto random = [&] { return random_normal({2, 700, 4, 20}, 1, dtype); };
    const Tensors inputs{random(), random(), random()};
    const Tensor dy = random();
    const Tensors first = output_and_grads(inputs, dy, AttentionBackend::flash);
    for (int run = 0; run < 50; ++run) {
      const Tensors again = output_and_grads(inputs, dy, AttentionBackend::flash);
      for (size_t i = 0; i < first.size(); ++i) ASSERT_TRUE(bitwise_equal(again[i], first[i])) << "run " << run;
    }
  }
}

}  // namespace
}  // namespace camo
