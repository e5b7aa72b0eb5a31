// Flash attention against the reference at every kind of size, batch and layout.
#include <algorithm>
#include <cmath>

#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"

namespace camo {
namespace {

using namespace test;

TEST(FlashSizes, EveryWidth) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {1,  2,  7,  8,  10, 16, 17, 20,  24,  32,  33,  36,  40,  41,  48,
                                64, 65, 72, 73, 80, 81, 96, 121, 128, 129, 160, 191, 192, 255, 256}) {
      if (flash_takes(dtype, width)) expect_agrees({2, 70, 83, 2, width, dtype});
    }
  }
}

/// Side by side, heads of odd widths begin anywhere in their pieces of 16 bytes, and take more of them than most.
TEST(FlashSizes, OddWidthsSideBySide) {
  const bool on_gpu = default_device().is_cuda();
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {59, 61, 62, 63, 75, 77, 78, 79, 251, 253, 254, 255}) {
      if (!flash_takes(dtype, width)) continue;
      for (const int64_t tokens : {100, width < 64 ? 400 : 144, width < 64 ? 704 : 288}) {
        if (tokens > 100 && (!on_gpu || width > 250)) continue;  // kernels for short sequences
        expect_agrees(AttentionInputs{1, tokens, tokens, 8, width, dtype}.as(Layout::fused));
      }
    }
  }
}

TEST(FlashSizes, EveryTokenCount) {
  constexpr int64_t kWidths[] = {1, 8, 10, 16, 20, 24, 32, 36, 40, 64, 72, 73, 80, 96, 128};
  for (const DType dtype : flash_dtypes()) {
    size_t turn = 0;
    for (const int64_t tokens : {1, 2, 7, 15, 16, 17, 63, 64, 65, 121, 127, 128, 129, 143, 144, 145, 191, 192, 193}) {
      for (int repeat = 0; repeat < (default_device().is_cuda() ? 3 : 1); ++repeat) {
        expect_agrees(AttentionInputs{1, tokens, tokens, 3, kWidths[turn++ % 15], dtype}.as(Layout::fused));
      }
      const int64_t width = kWidths[turn++ % 15];
      expect_agrees({1, tokens, 33, 1, width, dtype});
      expect_agrees({3, 5, tokens, 1, width, dtype});
      expect_agrees({1, 130, tokens, 1, width, dtype});
    }
    for (const int64_t tokens : {400, 484, 576, 676}) {
      expect_agrees(AttentionInputs{1, tokens, tokens, 2, 64, dtype}.as(Layout::fused));
      expect_agrees({1, tokens, tokens, 1, kWidths[turn++ % 15], dtype});
    }
  }
}

TEST(FlashSizes, StagesOfTheNetwork) {
  constexpr std::pair<int64_t, int64_t> kStages[] = {{2304, 10}, {2305, 20}, {576, 36}, {144, 73}};  // tokens, width
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [tokens, width] : kStages) {
      expect_agrees(AttentionInputs{1, tokens, tokens, 1, width, dtype}.as(Layout::fused));
    }
  }
}

/// Around the sizes at which keys and values of a head stay in shared memory, with heads at every place.
TEST(FlashSizes, HeadsThatJustFit) {
  constexpr struct {
    int64_t queries, keys, heads, width;
  } kShapes[] = {{400, 720, 2, 64}, {720, 400, 2, 64}, {721, 721, 2, 64}, {399, 400, 2, 64}, {400, 400, 8, 49},
                 {433, 419, 8, 50}, {500, 640, 3, 57}, {401, 401, 8, 60}, {144, 144, 8, 73}, {129, 144, 8, 73},
                 {144, 129, 3, 80}, {130, 131, 5, 67}, {145, 144, 2, 73}, {128, 144, 2, 73}};
  for (const DType dtype : flash_dtypes()) {
    if (size_in_bytes(dtype) != 2) continue;
    for (const auto& [queries, keys, heads, width] : kShapes) {
      expect_agrees(AttentionInputs{1, queries, keys, heads, width, dtype}.as(Layout::fused));
    }
  }
}

TEST(FlashSizes, LongSequences) {
  if (default_device().is_cpu()) GTEST_SKIP() << "minutes on a CPU";
  constexpr struct {
    int64_t queries, keys, heads, width;
  } kShapes[] = {{9216, 9216, 8, 10},  {9217, 9217, 3, 10}, {5, 16384, 2, 64},
                 {4096, 4096, 2, 128}, {4097, 4095, 2, 64}, {2304, 2304, 8, 20}};
  for (const DType dtype : flash_dtypes()) {
    expect_agrees({1, 9216, 33, 3, 10, dtype});
    for (const auto& [queries, keys, heads, width] : kShapes) {
      // Only flash and the reference: the scores of math would fill the memory.
      const AttentionInputs in(1, queries, keys, heads, width, dtype);
      const AttentionOutputs got = flash(in);
      const AttentionReference expected = attention_reference(in.q, in.k, in.v, in.dy, {}, 0, heads - 1);
      const AttentionBounds bounds = attention_bounds(dtype);
      SCOPED_TRACE(in.text());
      const auto head = [&](const Tensor& x) { return select(select(x, 0, 0), 1, heads - 1); };
      EXPECT_TRUE(all_close(head(got.y), expected.y, bounds.output));
      EXPECT_TRUE(
          all_close(select(select(got.log_sum_exp, 0, 0), 0, heads - 1), expected.log_sum_exp, bounds.log_sum_exp));
      EXPECT_TRUE(all_close(head(got.dq), expected.dq, bounds.gradient));
      EXPECT_TRUE(all_close(head(got.dk), expected.dk, bounds.gradient));
      EXPECT_TRUE(all_close(head(got.dv), expected.dv, bounds.gradient));
    }
  }
}

TEST(FlashSizes, EveryBatchAndHeadCount) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t batch : {1, 2, 3, 16, 32}) {
      for (const int64_t heads : {1, 3, 8}) {
        expect_agrees(AttentionInputs{batch, 33, 33, heads, 20, dtype}.as(Layout::fused));
      }
    }
    expect_agrees(AttentionInputs{16, 144, 144, 8, 73, dtype}.as(Layout::fused));
    if (default_device().is_cuda()) expect_agrees(AttentionInputs{16, 576, 576, 8, 36, dtype}.as(Layout::fused));
  }
}

TEST(FlashSizes, EveryLayout) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {1, 8, 10, 20, 36, 64, 73, 80, 128}) {
      const AttentionInputs square(2, 144, 144, 3, width, dtype), wide(2, 70, 97, 3, width, dtype);
      for (const Layout layout : kLayouts) {
        expect_agrees(square.as(layout));
        expect_agrees(wide.as(layout));
      }
    }
  }
}

/// The figures of the published implementation, whose standard attention is compared in f32.
TEST(FlashSizes, StandardAttentionOfTheSeed) {
  for (const int64_t tokens : {400, 484, 576, 676}) {
    const AttentionInputs in(default_device().is_cuda() ? 4 : 1, tokens, tokens, 8, 64, f32);
    const auto got = flash(in).y.to_vector<double>();
    const auto standard = run_attention(in, {}, AttentionBackend::math).y.to_vector<double>();
    double most = 0, sum = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      most = std::max(most, std::abs(got[i] - standard[i]));
      sum += std::abs(got[i] - standard[i]);
    }
    EXPECT_LE(most, 1.2e-5) << tokens;
    EXPECT_LE(sum / static_cast<double>(got.size()), 3.4e-7) << tokens;
  }
}

}  // namespace
}  // namespace camo
