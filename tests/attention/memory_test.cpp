// What flash attention reads and writes: nothing out of bounds, nothing uninitialised, no neighbour, and O(N) in all.
#include <cmath>
#include <limits>

#include "core/memory_check.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"

namespace camo {
namespace {

using namespace test;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

void expect_same_bits(const AttentionOutputs& got, const AttentionOutputs& expected) {
  const char* const names[] = {"output", "log-sum-exp", "gradient of q", "gradient of k", "gradient of v"};
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(bitwise_equal(got.all()[i], expected.all()[i])) << names[i];
}

TEST(FlashMemory, PoisonAndGuards) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {1, 10, 20, 36, 64, 73, 128, 200}) {
      if (!flash_takes(dtype, width)) continue;
      std::vector<std::pair<int64_t, int64_t>> tokens = {{1, 1}, {70, 70}, {129, 193}, {145, 15}};
      if (width == 64) tokens.emplace_back(400, 417);
      if (width == 73) tokens.emplace_back(129, 144);
      for (const auto& [queries, keys] : tokens) {
        const AttentionInputs in(2, queries, keys, 3, width, dtype);
        for (const AttentionOptions& options :
             {AttentionOptions{}, AttentionOptions{.dropout = 0.2, .dropout_key = {3, 4}, .causal = true}}) {
          SCOPED_TRACE(in.text());
          const AttentionOutputs expected = flash(in, options);
          const MemoryCheck check;
          {
            const AttentionInputs guarded = in.as(Layout::fused);
            expect_same_bits(flash(in.as(Layout::dense), options), expected);  // fresh outputs and workspaces are NaN
            flash(guarded, options);
          }
          EXPECT_GT(check.checked(), 5);
          EXPECT_EQ(check.damaged(), 0);
        }
      }
    }
  }
}

/// Other pictures and heads are not touched by NaN and infinity in one head, in any layout.
TEST(FlashMemory, HeadsAreIsolated) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [tokens, width] :
         {std::pair<int64_t, int64_t>{145, 8}, {145, 10}, {145, 20}, {145, 36}, {400, 64}, {145, 73}, {144, 73}}) {
      for (const Layout layout : kLayouts) {
        for (const double poison : {kNaN, std::numeric_limits<double>::infinity()}) {
          const AttentionInputs in = AttentionInputs(2, tokens, tokens, 3, width, dtype).as(layout);
          SCOPED_TRACE(in.text());
          const AttentionOutputs expected = flash(in);
          const AttentionInputs broken = in.as(layout);
          for (const Tensor& x : {broken.q, broken.k, broken.v, broken.dy}) fill(select(select(x, 2, 1), 0, 0), poison);
          const AttentionOutputs got = flash(broken);
          for (size_t i = 0; i < 5; ++i) {
            const int head_axis = i == 1 ? 1 : 2;
            const auto others = [&](const Tensor& x) {
              return Tensors{select(x, 0, 1), select(x, head_axis, 0), select(x, head_axis, 2)};
            };
            for (size_t j = 0; j < 3; ++j) {
              EXPECT_TRUE(bitwise_equal(clone(others(got.all()[i])[j]), clone(others(expected.all()[i])[j])))
                  << "result " << i << ", part " << j;
            }
          }
        }
      }
    }
  }
}

TEST(FlashMemory, InputsStayAsTheyAre) {
  for (const DType dtype : flash_dtypes()) {
    const AttentionInputs in = AttentionInputs(2, 70, 70, 3, 20, dtype).as(Layout::fused);
    const AttentionInputs before = in.as(Layout::dense);
    flash(in);
    EXPECT_TRUE(bitwise_equal(clone(in.q), before.q));
    EXPECT_TRUE(bitwise_equal(clone(in.k), before.k));
    EXPECT_TRUE(bitwise_equal(clone(in.v), before.v));
    EXPECT_TRUE(bitwise_equal(clone(in.dy), before.dy));
  }
}

/// One small call of every width class and kernel with and without rules: what compute-sanitizer runs
/// (docs/ATTENTION.md).
TEST(FlashMemory, SmallCalls) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [tokens, width] : {std::pair<int64_t, int64_t>{49, 10},
                                        {49, 20},
                                        {49, 36},
                                        {49, 64},
                                        {400, 64},
                                        {49, 73},
                                        {144, 73},
                                        {49, 128},
                                        {49, 256}}) {
      if (!flash_takes(dtype, width) || (tokens > 49 && size_in_bytes(dtype) > 2)) continue;
      const AttentionInputs in = AttentionInputs(1, tokens, tokens, 2, width, dtype).as(Layout::fused);
      for (const AttentionOptions& options :
           {AttentionOptions{}, AttentionOptions{.dropout = 0.2, .dropout_key = {3, 4}, .causal = true}}) {
        EXPECT_TRUE(bitwise_equal(flash(in, options).dq, flash(in, options).dq)) << in.text();
      }
      if (dtype != f32) continue;
      const Tf32Scope scope(true);
      EXPECT_TRUE(bitwise_equal(flash(in).dq, flash(in).dq)) << in.text() << ", TF32";
    }
  }
}

/// The most memory of a forward and backward pass, beyond the inputs.
int64_t peak_bytes(int64_t tokens, DType dtype) {
  const AttentionInputs in(1, tokens, tokens, 1, 16, dtype);
  const Device device = default_device();
  reset_peak_memory(device);
  const int64_t before = memory_stats(device).live_bytes;
  flash(in);
  return memory_stats(device).peak_bytes - before;
}

TEST(FlashMemory, GrowsLinearly) {
  for (const DType dtype : flash_dtypes()) {
    const int64_t few = peak_bytes(4096, dtype), many = peak_bytes(8192, dtype);
    EXPECT_LT(many, few * 9 / 4) << name(dtype);
    // A dozen tensors of q's size, and a few numbers of each row.
    EXPECT_LT(many, 8192 * (12 * 16 * size_in_bytes(dtype) + 5 * size_in_bytes(f32))) << name(dtype);
  }
}

}  // namespace
}  // namespace camo
