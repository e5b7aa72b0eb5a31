// The 16-bit CUDA kernels that read rows as aligned windows: their edges, their ranges, their references. The tests of
// flash attention cover values at all sizes; these aim at what only such kernels do.
#include <cmath>
#include <limits>

#include "core/device.h"
#include "ops/attention.h"
#include "ops/attention/flash.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using namespace test;

/// y and the gradient of qkv [B, N, 3, H, D].
struct Attended {
  Tensor y, dqkv;
};
Attended attend(const Tensor& qkv, const Tensor& dy, AttentionBackend backend) {
  const Tensor x = qkv.detach().set_requires_grad(true);
  const Tensors parts = unstack(x, 2);
  const Tensor y = scaled_dot_product_attention(parts[0], parts[1], parts[2], {.backend = backend});
  backward(y, dy);
  return {y.detach(), x.grad()};
}
Tensor in_double(const Tensor& x) { return to(to(x.detach(), cpu), f64); }

class AttentionWindows : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (!default_device().is_cuda()) GTEST_SKIP() << "about kernels of CUDA";
    if (!flash_takes(dtype(), 16)) GTEST_SKIP() << "this GPU has no kernels for it";
  }
  DType dtype() const { return GetParam(); }
  /// Of what is computed, and of rounding it: just above 1, half a unit in the last place is as much again.
  double bound() const { return dtype() == f16 ? 5e-4 + 0x1p-11 : 4e-3 + 0x1p-8; }

  void expect_agrees(const Tensor& qkv, const std::string& what) const {
    const Tensor dy = random_normal({qkv.size(0), qkv.size(1), qkv.size(3), qkv.size(4)}, 1, dtype());
    const Attended got = attend(qkv, dy, AttentionBackend::flash);
    const Attended expected = attend(in_double(qkv), in_double(dy), AttentionBackend::math);
    EXPECT_TRUE(all_close(in_double(got.y), expected.y, bound())) << what << ": output";
    EXPECT_TRUE(all_close(in_double(got.dqkv), expected.dqkv, 2 * bound())) << what << ": gradient";
  }
};

TEST_P(AttentionWindows, EveryOffsetOfAHead) {
  for (const int64_t width : {1, 5, 9, 10, 12, 16, 18, 20, 23, 24, 31, 32, 36, 40, 49, 64, 72, 73}) {
    for (const int64_t tokens : {1, 63, 130, 144, 161}) {
      expect_agrees(random_normal({2, tokens, 3, 8, width}, 1, dtype()), concat_text(tokens, " tokens, width ", width));
    }
  }
}

TEST_P(AttentionWindows, ManyRangesOfQueries) {
  expect_agrees(random_normal({1, 4700, 3, 8, 10}, 1, dtype()), "4700 tokens, width 10");
  expect_agrees(random_normal({1, 2500, 3, 8, 20}, 1, dtype()), "2500 tokens, width 20");
}

/// However the queries of a head are divided among blocks, which follows from the number of heads.
TEST_P(AttentionWindows, GradientsDoNotDependOnTheBatch) {
  for (const int64_t width : {10, 20}) {
    const Tensor qkv = random_normal({1, 1300, 3, 8, width}, 1, dtype());
    const Tensor dy = random_normal({1, 1300, 8, width}, 1, dtype());
    const Tensor alone = attend(qkv, dy, AttentionBackend::flash).dqkv;
    for (const int64_t batch : {2, 4, 8, 16, 19}) {
      const Attended many = attend(concat(Tensors(static_cast<size_t>(batch), qkv), 0),
                                   concat(Tensors(static_cast<size_t>(batch), dy), 0), AttentionBackend::flash);
      for (const int64_t i : {int64_t{0}, batch / 2, batch - 1}) {
        EXPECT_TRUE(bitwise_equal(clone(slice(many.dqkv, 0, i, i + 1)), alone))
            << "width " << width << ", picture " << i << " of " << batch;
      }
    }
  }
}

TEST_P(AttentionWindows, ReferencesAreRaised) {
  // Scores that grow or shrink by 2 with each key, to several hundred: a new reference every few keys.
  for (const double slope : {2.0, -2.0}) {
    for (const int64_t width : {10, 20, 36, 73}) {
      Tensor qkv = random_normal({1, 300, 3, 8, width}, 1, f32);
      std::vector<double> keys(300);
      for (int j = 0; j < 300; ++j)
        keys[static_cast<size_t>(j)] = slope * (j - 150) * std::sqrt(static_cast<double>(width));
      fill(slice(select(qkv, 2, 0), 3, 0, 1), 1);
      copy_into(slice(select(qkv, 2, 1), 3, 0, 1),
                contiguous(expand(reshape(to(from_vector(keys, {300}), f32), {1, 300, 1, 1}), {1, 300, 8, 1})));
      qkv = to(qkv, dtype());
      const Tensors parts = unstack(qkv, 2);
      const Tensor y = scaled_dot_product_attention(parts[0], parts[1], parts[2], {.backend = AttentionBackend::flash});
      const Tensor v = in_double(parts[2]);
      const Tensor expected = scaled_dot_product_attention(in_double(parts[0]), in_double(parts[1]), v,
                                                           {.backend = AttentionBackend::math});
      EXPECT_TRUE(all_close(in_double(y), expected, bound())) << "slope " << slope << ", width " << width;
    }
  }
}

TEST_P(AttentionWindows, NeighbourHeadsAreIsolated) {
  for (const int64_t width : {10, 20, 36, 73}) {
    const Tensor qkv = random_normal({1, 130, 3, 8, width}, 1, dtype());
    const Tensor dy = random_normal({1, 130, 8, width}, 1, dtype());
    const Attended expected = attend(qkv, dy, AttentionBackend::flash);
    for (const double poison : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      const Tensor broken = clone(qkv), broken_dy = clone(dy);
      for (const int64_t head : {0, 3, 7}) {
        fill(select(broken, 3, head), poison);
        fill(select(broken_dy, 2, head), poison);
      }
      const Attended got = attend(broken, broken_dy, AttentionBackend::flash);
      for (const int64_t head : {1, 2, 4, 5, 6}) {
        EXPECT_TRUE(bitwise_equal(clone(select(got.y, 2, head)), clone(select(expected.y, 2, head)))) << width;
        EXPECT_TRUE(bitwise_equal(clone(select(got.dqkv, 3, head)), clone(select(expected.dqkv, 3, head)))) << width;
      }
    }
  }
}

TEST_P(AttentionWindows, SameBitsEveryTime) {
  for (const auto& [tokens, width] : {std::pair<int64_t, int64_t>{4700, 10}, {700, 20}, {576, 36}, {144, 73}}) {
    const Tensor qkv = random_normal({2, tokens, 3, 8, width}, 1, dtype());
    const Tensor dy = random_normal({2, tokens, 8, width}, 1, dtype());
    const Attended first = attend(qkv, dy, AttentionBackend::flash);
    for (int i = 0; i < 10; ++i) {
      const Attended again = attend(qkv, dy, AttentionBackend::flash);
      EXPECT_TRUE(bitwise_equal(again.y, first.y));
      EXPECT_TRUE(bitwise_equal(again.dqkv, first.dqkv)) << tokens << " tokens, width " << width;
    }
  }
}

/// Where rows lie is a matter of memory: dense, fused, or at places that windows do not reach, which are copied.
TEST_P(AttentionWindows, SameBitsInEveryLayout) {
  for (const auto& [tokens, width] : {std::pair<int64_t, int64_t>{2500, 10}, {161, 20}, {576, 36}, {144, 73}}) {
    const Tensor qkv = random_normal({2, tokens, 3, 8, width}, 1, dtype());
    const Tensor dy = random_normal({2, tokens, 8, width}, 1, dtype());
    const Attended expected = attend(qkv, dy, AttentionBackend::flash);
    const Tensor odd = empty({2, tokens, 8 * width + 1}, dtype());  // rows begin anywhere
    const Tensor k_odd = make_view(odd, dy.shape(), {tokens * (8 * width + 1), 8 * width + 1, width, 1}, 0);
    const Tensors parts = unstack(qkv, 2);
    copy_into(k_odd, parts[1]);
    Tensors in = {clone(parts[0]), k_odd.detach(), clone(parts[2])};
    for (Tensor& x : in) x.set_requires_grad(true);
    const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.backend = AttentionBackend::flash});
    backward(y, dy);
    EXPECT_TRUE(bitwise_equal(y.detach(), expected.y)) << tokens << " tokens, width " << width;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(bitwise_equal(clone(in[i].grad()), clone(select(expected.dqkv, 2, static_cast<int64_t>(i)))))
          << tokens << " tokens, width " << width << ", gradient " << i;
    }
  }
}

TEST_P(AttentionWindows, SelectAndUnstackAgree) {
  const Tensor qkv = random_normal({2, 70, 3, 8, 10}, 1, dtype()), dy = random_normal({2, 70, 8, 10}, 1, dtype());
  const Tensor x = qkv.detach().set_requires_grad(true);
  const AttentionOptions options{.backend = AttentionBackend::flash};
  backward(scaled_dot_product_attention(select(x, 2, 0), select(x, 2, 1), select(x, 2, 2), options), dy);
  EXPECT_TRUE(bitwise_equal(x.grad(), attend(qkv, dy, AttentionBackend::flash).dqkv));
}

INSTANTIATE_TEST_SUITE_P(, AttentionWindows, ::testing::Values(f16, bf16),
                         [](const auto& chosen) { return std::string(name(chosen.param)); });

}  // namespace
}  // namespace camo
