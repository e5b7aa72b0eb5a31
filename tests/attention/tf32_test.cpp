// f32 where TF32 is allowed, which sm_90a has kernels of its own for. Elsewhere the same calls are exact.
#include <cmath>

#include "core/memory_check.h"
#include "ops/attention/flash.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"

namespace camo {
namespace {

using namespace test;

struct FlashTf32 : ::testing::Test {
  void SetUp() override {
    if (default_device().is_cpu()) GTEST_SKIP() << "TF32 is a matter of GPUs";
    if (!flash_takes(f32, 16)) GTEST_SKIP() << "no flash kernel for f32 on this GPU";
  }
  static bool is_rounded(int64_t width, bool plain = true) {
    return flash::kernel_of({default_device(), f32, 64, 64, width, plain}) == flash::Kernel::rounded;
  }
};

TEST_F(FlashTf32, EveryWidth) {
  const Tf32Scope scope(true);
  for (const int64_t width : {1, 2, 3, 8, 10, 15, 16, 17, 20, 23, 24, 31, 36, 39, 40, 41, 48, 49, 64, 65, 73, 80, 81}) {
    expect_agrees({2, 70, 83, 2, width, f32});
    expect_agrees(AttentionInputs{1, 145, 145, 3, width, f32}.as(Layout::fused));
  }
}

TEST_F(FlashTf32, EveryTokenCount) {
  const Tf32Scope scope(true);
  constexpr int64_t kWidths[] = {10, 20, 36, 64, 73};
  size_t turn = 0;
  for (const int64_t tokens : {16, 17, 63, 64, 65, 127, 128, 129, 144, 191, 192, 193, 256, 257, 400, 576, 676}) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      expect_agrees(AttentionInputs{1, tokens, tokens, 3, kWidths[turn++ % 5], f32}.as(Layout::fused));
    }
    expect_agrees({1, 130, tokens, 1, kWidths[turn++ % 5], f32});
    expect_agrees({2, tokens, 70, 1, kWidths[turn++ % 5], f32});
  }
  expect_agrees(AttentionInputs{1, 2304, 2304, 1, 10, f32}.as(Layout::fused));
}

TEST_F(FlashTf32, EveryLayout) {
  const Tf32Scope scope(true);
  for (const int64_t width : {10, 20, 36, 64, 73}) {
    for (const Layout layout : kLayouts) expect_agrees(AttentionInputs(2, 144, 144, 3, width, f32).as(layout));
  }
}

/// A projection with a bias: what all keys have in common, a row of dS that does not sum to 0 would multiply.
TEST_F(FlashTf32, CommonOffsets) {
  const Tf32Scope scope(true);
  for (const int64_t width : {10, 20, 36, 64}) {
    AttentionInputs in(1, 400, 400, 2, width, f32);
    const Tensor offset = random_normal({1, 1, 1, width}, 2, f32);
    in.k = in.k + offset;
    in.v = in.v + offset;
    expect_agrees(in, {}, "with common offsets");
  }
}

/// The gradients of queries whose dy is small are exact relative to themselves.
TEST_F(FlashTf32, MagnitudesOfRowsMayDiffer) {
  const Tf32Scope scope(true);
  for (const int64_t width : {10, 64}) {
    const AttentionInputs in(1, 256, 256, 2, width, f32);
    for (const Tensor& x : {in.v, in.dy}) {
      for (int64_t tile = 0; tile < 4; ++tile) {
        const Tensor rows = slice(x, 1, 64 * tile, 64 * tile + 64);
        copy_into(rows, rows * std::ldexp(1.0, static_cast<int>(-20 * tile)));
      }
    }
    const AttentionOutputs got = test::flash(in);
    const AttentionReference expected = attention_reference(in.q, in.k, in.v, in.dy, {}, 0, 0);
    const Tensor mine = to(to(select(select(got.dq, 0, 0), 1, 0), cpu), f64);
    for (int64_t tile = 0; tile < 4; ++tile) {
      double largest = 0;
      for (const double x : slice(expected.dq, 0, 64 * tile, 64 * tile + 64).to_vector<double>()) {
        largest = std::max(largest, std::abs(x));
      }
      const double unit = 1 / largest;
      EXPECT_TRUE(all_close(slice(mine, 0, 64 * tile, 64 * tile + 64) * unit,
                            slice(expected.dq, 0, 64 * tile, 64 * tile + 64) * unit, 4e-3))
          << in.text() << ", tile " << tile;
    }
  }
}

/// Rules, wider heads and those of one or two columns keep 22 bits.
TEST_F(FlashTf32, OtherCallsAreExact) {
  EXPECT_FALSE(is_rounded(64));
  const auto error_of = [](int64_t width, const AttentionOptions& options) {
    const AttentionInputs in(1, 130, 130, 1, width, f32);
    const Tf32Scope scope(true);
    const Tensor got = to(to(select(select(test::flash(in, options).y, 0, 0), 1, 0), cpu), f64);
    const Tensor expected = attention_reference(in.q, in.k, in.v, {}, options, 0, 0).y;
    double most = 0;
    const auto a = got.to_vector<double>(), b = expected.to_vector<double>();
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
    return most;
  };
  for (const int64_t width : {1, 2, 81, 128}) {
    if (!flash_takes(f32, width)) continue;
    EXPECT_LT(error_of(width, {}), 5e-6) << width;
  }
  EXPECT_LT(error_of(64, {.causal = true}), 5e-6);
  EXPECT_LT(error_of(64, {.dropout = 0.1, .dropout_key = {1, 2}}), 5e-6);
  {
    const Tf32Scope scope(true);
    if (!is_rounded(64)) return;  // no Hopper GPU
    EXPECT_FALSE(is_rounded(64, false));
    EXPECT_FALSE(is_rounded(2));
    EXPECT_FALSE(is_rounded(81));
    const auto kernel = [](int64_t tokens) { return flash::kernel_of({default_device(), f32, tokens, tokens, 73}); };
    EXPECT_EQ(kernel(144), flash::Kernel::mma);  // whole heads
    EXPECT_EQ(kernel(145), flash::Kernel::rounded);
  }
  EXPECT_GT(error_of(64, {}), 2e-5);  // so few bits were asked for
}

/// Fresh memory and gaps are NaN, guards stay, and a head gives the same bits in any company.
TEST_F(FlashTf32, MemoryAndNeighbours) {
  const Tf32Scope scope(true);
  for (const int64_t width : {3, 10, 20, 36, 64, 73}) {
    for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>{1, 1}, {70, 70}, {129, 193}, {145, 15}}) {
      const AttentionInputs in(2, queries, keys, 3, width, f32);
      SCOPED_TRACE(in.text());
      const AttentionOutputs expected = test::flash(in);
      {
        const MemoryCheck check;
        const AttentionOutputs got = test::flash(in.as(Layout::padded));
        for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(bitwise_equal(got.all()[i], expected.all()[i])) << i;
        EXPECT_EQ(check.damaged(), 0);
      }
      AttentionInputs alone = in;
      for (Tensor* x : {&alone.q, &alone.k, &alone.v, &alone.dy}) *x = clone(slice(slice(*x, 0, 1, 2), 2, 2, 3));
      const AttentionOutputs one = test::flash(alone);
      const auto last = [](const Tensor& x, int head_axis) { return clone(slice(slice(x, 0, 1, 2), head_axis, 2, 3)); };
      for (size_t i = 0; i < 5; ++i) {
        EXPECT_TRUE(bitwise_equal(one.all()[i], last(expected.all()[i], i == 1 ? 1 : 2))) << i;
      }
    }
  }
}

}  // namespace
}  // namespace camo
