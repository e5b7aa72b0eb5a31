// Masks, causality, dropout, scale and empty inputs of flash attention.
#include <cmath>
#include <limits>

#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"

namespace camo {
namespace {

using namespace test;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(FlashRules, MasksCausalityScaleAndDropout) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {10, 20, 36, 73, 128}) {
      if (default_device().is_cpu() && width > 20) continue;  // on the CPU one code serves all
      const bool full_list = width == 20;
      for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>{130, 130}, {70, 200}, {200, 70}, {1, 65}}) {
        const AttentionInputs in(2, queries, keys, 3, width, dtype);
        const auto random = [&](const Shape& shape) { return random_normal(shape, 1, dtype); };
        const auto seen = [&](const Shape& shape) { return greater(random_normal(shape), -0.3); };
        expect_agrees(in, {.causal = true}, "causal");
        expect_agrees(in, {.mask = seen({2, 3, queries, keys})}, "boolean mask");
        expect_agrees(in, {.mask = random({3, queries, keys})}, "additive mask");
        expect_agrees(in, {.dropout = 0.3, .dropout_key = {5, 7}}, "dropout");
        expect_agrees(
            in,
            {.mask = seen({2, 1, queries, keys}), .dropout = 0.2, .dropout_key = {1, 9}, .causal = true, .scale = 0.4},
            "everything");
        if (!full_list) continue;
        expect_agrees(in, {.scale = 0.05}, "scale");
        expect_agrees(in, {.scale = -0.3}, "negative scale");
        expect_agrees(in, {.scale = 0.0}, "zero scale");
        expect_agrees(in, {.mask = seen({2, 1, 1, keys})}, "boolean mask of keys");
        expect_agrees(in, {.mask = seen({1, 3, 1, keys})}, "boolean mask of heads");
        expect_agrees(in, {.mask = seen({queries, 1})}, "boolean mask of queries");
        expect_agrees(in, {.mask = seen({keys})}, "boolean mask of one axis");
        expect_agrees(in, {.mask = transpose(seen({2, 3, keys, queries}), 2, 3)}, "boolean mask with odd strides");
        expect_agrees(in, {.mask = random({3, 1, keys}), .causal = true}, "additive mask of heads, causal");
        expect_agrees(in, {.mask = random({1})}, "additive mask of one number");
        expect_agrees(in, {.dropout = 1, .dropout_key = {5, 7}}, "everything dropped");
      }
    }
  }
}

/// As where sequences are padded on the left: the first tiles of some rows are hidden, those of their neighbours not.
TEST(FlashRules, FirstKeysHidden) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {10, 20, 36, 64}) {
      const int64_t queries = 70, keys = 300;
      std::vector<uint8_t> seen(static_cast<size_t>(queries * keys), 1);
      for (size_t i = 0; i < seen.size(); ++i) {
        const size_t query = i / static_cast<size_t>(keys), key = i % static_cast<size_t>(keys);
        if (query >= 16 && key < 64 + query) seen[i] = 0;
      }
      const Tensor mask = to(to(from_vector<uint8_t>(seen, {queries, keys}), default_device()), boolean);
      AttentionInputs in(1, queries, keys, 2, width, dtype);
      expect_agrees(in, {.mask = mask}, "first keys hidden");
      in.q = mul(in.q, full({1}, 0.01, dtype));
      expect_agrees(in, {.mask = mask}, "first keys hidden, small scores");
    }
  }
}

/// The least finite number in an additive mask is no -infinity: rows that have nothing else weigh all keys alike.
/// (Their log-sum-exp holds no more than that number, so their gradients are those of no such row.)
TEST(FlashRules, LeastFiniteMask) {
  for (const DType dtype : flash_dtypes()) {
    if (dtype == f64 || dtype == f16) continue;  // of f32, and what it becomes in bfloat16
    const AttentionInputs in(1, 20, 70, 1, 20, dtype);
    const double least = dtype == f32 ? -3.4028234663852886e38 : -3.3895313892515355e38;
    const AttentionOptions options{.mask = full({20, 70}, least, dtype)};
    const Tensor expected = run_attention(in, options, AttentionBackend::math).y;
    EXPECT_TRUE(all_close(to(flash(in, options).y, f32), to(expected, f32), dtype == f32 ? 1e-6 : 4e-3));
  }
}

/// Their output and the gradients of their queries are 0, their log-sum-exp is -infinity; keys that no query sees have
/// zero gradients.
TEST(FlashRules, RowsAndKeysThatSeeNothing) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {10, 36, 73}) {
      const AttentionInputs in(1, 70, 66, 2, width, dtype);
      std::vector<double> added(70 * 66, 0);
      std::vector<uint8_t> seen(70 * 66, 1);
      for (size_t i = 0; i < 70; ++i) {
        for (size_t j = 0; j < 66; ++j) {
          if ((i < 3 || i >= 5) && j != 65) continue;  // queries 3 and 4 see nothing, key 65 is seen by none
          added[i * 66 + j] = -kInfinity;
          seen[i * 66 + j] = 0;
        }
      }
      const Tensor additive = to(to(from_vector(added, {70, 66}), default_device()), dtype);
      const Tensor boolean_mask = to(to(from_vector<uint8_t>(seen, {70, 66}), default_device()), boolean);
      const auto expect_zero = [&](const Tensor& x) { EXPECT_TRUE(all_close(x, zeros(x.shape(), f64), 0)); };
      for (const Tensor& mask : {additive, boolean_mask}) {
        expect_agrees(in, {.mask = mask});
        const AttentionOutputs got = flash(in, {.mask = mask});
        expect_zero(slice(got.y, 1, 3, 5));
        expect_zero(slice(got.dq, 1, 3, 5));
        expect_zero(slice(got.dk, 1, 65, 66));
        expect_zero(slice(got.dv, 1, 65, 66));
        EXPECT_TRUE(all_close(slice(got.log_sum_exp, 2, 3, 5), full({1, 2, 2}, -kInfinity, f64), 0));
      }
      const AttentionOutputs causal = flash(in, {.causal = true});  // four queries more than keys
      expect_zero(slice(causal.y, 1, 0, 4));
      expect_zero(slice(causal.dq, 1, 0, 4));
      const AttentionOutputs nothing = flash(in, {.mask = zeros({1}, boolean)});
      for (const Tensor& x : {nothing.y, nothing.dq, nothing.dk, nothing.dv}) expect_zero(x);
    }
  }
}

TEST(FlashRules, NoKeysAndNoQueries) {
  for (const DType dtype : flash_dtypes()) {
    const AttentionOutputs no_keys = flash({2, 5, 0, 3, 10, dtype});
    EXPECT_TRUE(all_close(no_keys.y, zeros({2, 5, 3, 10}, f64), 0));
    EXPECT_TRUE(all_close(no_keys.log_sum_exp, full({2, 3, 5}, -kInfinity, f64), 0));
    EXPECT_TRUE(all_close(no_keys.dq, zeros({2, 5, 3, 10}, f64), 0));
    const AttentionOutputs no_queries = flash({2, 0, 5, 3, 10, dtype});
    EXPECT_EQ(no_queries.y.numel(), 0);
    EXPECT_TRUE(all_close(no_queries.dk, zeros({2, 5, 3, 10}, f64), 0));
    EXPECT_TRUE(all_close(no_queries.dv, zeros({2, 5, 3, 10}, f64), 0));
  }
}

/// With equal scores and v the identity, the output shows the weights; with dy the identity, dv does.
TEST(FlashRules, DropoutFollowsTheKey) {
  for (const DType dtype : flash_dtypes()) {
    const int64_t tokens = 64, heads = 2;
    AttentionInputs in(2, tokens, tokens, heads, tokens, dtype);
    in.q = zeros(in.q.shape(), dtype);
    std::vector<double> identity(static_cast<size_t>(tokens * tokens), 0);
    for (size_t i = 0; i < 64; ++i) identity[i * 65] = 1;
    const Tensor square = reshape(from_vector(identity, {tokens, tokens}), {1, tokens, 1, tokens});
    in.v = in.dy = to(to(clone(expand(square, in.v.shape())), default_device()), dtype);
    for (const double p : {0.1, 0.5, 0.9}) {
      const AttentionOptions options{.dropout = p, .dropout_key = {11, 3}};
      const AttentionOutputs got = flash(in, options);
      const auto y = got.y.to_vector<double>(), dv = got.dv.to_vector<double>();
      int64_t wrong = 0;
      double kept = 0;
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t i = 0; i < tokens; ++i) {
            for (int64_t j = 0; j < tokens; ++j) {
              const auto element = static_cast<uint64_t>(((b * heads + h) * tokens + i) * tokens + j);
              const bool drops = options.dropout_key.uniform(element) < static_cast<float>(p);
              const auto at = [&](int64_t token, int64_t column) {
                return static_cast<size_t>(((b * tokens + token) * heads + h) * tokens + column);
              };
              wrong += (y[at(i, j)] == 0) != drops || (dv[at(j, i)] == 0) != drops;
              kept += !drops;
            }
          }
        }
      }
      EXPECT_EQ(wrong, 0) << name(dtype) << " p " << p;
      EXPECT_NEAR(kept / static_cast<double>(2 * heads * tokens * tokens), 1 - p, 0.02);
    }
  }
}

TEST(FlashRules, SixteenBitsOnTheCpu) {
  if (default_device().is_cuda()) GTEST_SKIP() << "about the CPU";
  for (const DType dtype : {f16, bf16}) {
    for (const AttentionBackend backend : {AttentionBackend::flash, AttentionBackend::math}) {
      const AttentionInputs in(1, 70, 83, 2, 20, dtype);
      const Tensor mask = random_normal({70, 83}, 1, dtype);
      const AttentionOutputs got = run_attention(in, {.mask = mask}, backend);
      const AttentionReference expected = attention_reference(in.q, in.k, in.v, in.dy, {.mask = mask}, 0, 1);
      const AttentionBounds bounds = attention_bounds(dtype);
      EXPECT_EQ(got.y.dtype(), dtype);
      EXPECT_EQ(got.log_sum_exp.dtype(), f32);
      const auto head = [](const Tensor& x) { return select(select(x, 0, 0), 1, 1); };
      EXPECT_TRUE(all_close(head(got.y), expected.y, bounds.output));
      EXPECT_TRUE(all_close(head(got.dq), expected.dq, bounds.gradient));
      EXPECT_TRUE(all_close(head(got.dk), expected.dk, bounds.gradient));
      EXPECT_TRUE(all_close(head(got.dv), expected.dv, bounds.gradient));
    }
  }
}

}  // namespace
}  // namespace camo
