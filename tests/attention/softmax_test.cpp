// Scores that are hard on a softmax computed tile by tile.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"

namespace camo {
namespace {

using namespace test;

struct Head {
  int64_t width, queries, keys;
};
/// Heads with so many tokens, and on CUDA some that kernels for other numbers of tokens take.
std::vector<Head> heads(int64_t queries, int64_t keys) {
  std::vector<Head> all;
  for (const int64_t width : {10, 16, 36, 64, 73, 128}) all.push_back({width, queries, keys});
  if (default_device().is_cuda()) all.insert(all.end(), {{64, 400, 410}, {73, 130, 144}});
  return all;
}

Tensor numbers(const std::vector<double>& values, const Shape& shape, DType dtype) {
  return to(to(from_vector(values, shape), default_device()), dtype);
}

/// Keys whose score with a query of ones (scale 1) is slope * (j - middle); all other columns are 0.
Tensor sloping_keys(int64_t keys, int64_t width, double slope, DType dtype) {
  std::vector<double> values(static_cast<size_t>(keys * width), 0);
  for (int64_t j = 0; j < keys; ++j) values[static_cast<size_t>(j * width)] = slope * static_cast<double>(j - keys / 2);
  return numbers(values, {1, keys, 1, width}, dtype);
}

/// Scores from -1e4 to 1e4 that rise or fall with the key: the largest one changes in every tile, and one key takes
/// all.
TEST(FlashSoftmax, SteepSlopes) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(70, 300)) {
      for (const double sign : {1.0, -1.0}) {
        AttentionInputs in(1, queries, keys, 1, width, dtype);
        in.k = sloping_keys(keys, width, sign * 0.5, dtype);
        in.q = full({1, queries, 1, width}, 128, dtype);
        // All queries pull at the winning key, each with an error of its own: 4 * 128 where there are 70.
        expect_agrees(in, {.scale = 1.0}, "steep", 4 * 128 * std::sqrt(static_cast<double>(queries) / 70));
        const AttentionOutputs got = flash(in, {.scale = 1.0});
        const int64_t winner = sign > 0 ? keys - 1 : 0;
        for (const int64_t i : {int64_t{0}, queries / 2, queries - 1}) {
          EXPECT_TRUE(
              all_close(slice(got.y, 1, i, i + 1), slice(in.v, 1, winner, winner + 1), attention_bounds(dtype).output))
              << in.text();
        }
      }
    }
  }
}

/// Powers of two on the inputs are powers of two on the outputs, bit by bit: kernels that multiply f32 as pairs of
/// halves bring numbers into their range first.
TEST(FlashSoftmax, AnyMagnitude) {
  for (const DType dtype : flash_dtypes()) {
    if (dtype == f16 || dtype == bf16) continue;
    for (const auto& [width, tf32] : {std::pair{1, false},
                                      {10, false},
                                      {20, false},
                                      {36, false},
                                      {64, false},
                                      {73, false},
                                      {128, false},
                                      {200, false},
                                      {10, true},
                                      {20, true},
                                      {36, true},
                                      {64, true},
                                      {73, true}}) {
      const Tf32Scope scope(tf32);
      const AttentionInputs in(1, 150, 130, 2, width, dtype);
      AttentionInputs scaled = in;
      scaled.q = in.q * 0x1p12;
      scaled.k = in.k * 0x1p-12;
      scaled.v = in.v * 0x1p30;
      scaled.dy = in.dy * 0x1p-50;
      const AttentionOutputs expected = flash(in), got = flash(scaled);
      EXPECT_TRUE(bitwise_equal(got.y, expected.y * 0x1p30)) << in.text();
      EXPECT_TRUE(bitwise_equal(got.log_sum_exp, expected.log_sum_exp)) << in.text();
      EXPECT_TRUE(bitwise_equal(got.dq, expected.dq * 0x1p-32)) << in.text();
      EXPECT_TRUE(bitwise_equal(got.dk, expected.dk * 0x1p-8)) << in.text();
      EXPECT_TRUE(bitwise_equal(got.dv, expected.dv * 0x1p-50)) << in.text();
    }
  }
}

/// Scores that rise gently, so that every tile raises the maximum and all of them count.
TEST(FlashSoftmax, GentleSlopes) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(70, 200)) {
      for (const double slope : {0.0625, -0.0625, 0.25}) {
        AttentionInputs in(1, queries, keys, 1, width, dtype);
        in.k = sloping_keys(keys, width, slope, dtype);
        in.q = full({1, queries, 1, width}, 1, dtype);
        expect_agrees(in, {.scale = 1.0}, "gentle", std::abs(slope) * static_cast<double>(keys / 2));
      }
    }
  }
}

/// Every score far from 0, on either side: what matters is their differences.
TEST(FlashSoftmax, AllScoresFarFromZero) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(33, 150)) {
      for (const double level : {-96.0, 96.0}) {
        AttentionInputs in(1, queries, keys, 1, width, dtype);
        in.k = sloping_keys(keys, width, 0.0078125, dtype);
        fill(select(in.k, 3, width - 1), level);
        in.q = full({1, queries, 1, width}, 1, dtype);
        expect_agrees(in, {.scale = 1.0}, "far from zero", 96);
      }
    }
  }
}

/// Fewer keys than whole tiles, each score far below zero; and queries and keys of zeros.
TEST(FlashSoftmax, HiddenKeysOfATile) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : {10, 20, 36, 64, 73}) {
      for (const int64_t tokens : {50, 100, 400}) {
        if (default_device().is_cpu() && tokens > 100) continue;
        AttentionInputs in(1, tokens, tokens, 1, width, dtype);
        in.q = zeros(in.q.shape(), dtype);
        expect_agrees(in, {}, "queries of zeros");
        in.k = zeros(in.k.shape(), dtype);
        expect_agrees(in, {}, "queries and keys of zeros");
        in.k = sloping_keys(tokens, width, 0.0078125, dtype);
        fill(select(in.k, 3, width - 1), -96);
        in.q = full({1, tokens, 1, width}, 1, dtype);
        expect_agrees(in, {.scale = 1.0}, "far below zero", 96);
      }
    }
  }
}

TEST(FlashSoftmax, OneDominantKey) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(70, 200)) {
      for (const int64_t winner : {int64_t{0}, int64_t{64}, keys - 1}) {
        AttentionInputs in(1, queries, keys, 1, width, dtype);
        in.q = to(abs(in.q), dtype);
        fill(slice(in.k, 1, winner, winner + 1), 30);
        expect_agrees(in, {}, "dominant key", 30);
      }
    }
  }
}

/// A key behind all others counts about as much as they do together: what was summed before it is scaled, and kept.
TEST(FlashSoftmax, OneLateKey) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(70, 300)) {
      for (const double score : {5.25, 6.0}) {
        AttentionInputs in(1, queries, keys, 1, width, dtype);
        in.q = full({1, queries, 1, width}, 1, dtype);
        in.k = zeros({1, keys, 1, width}, dtype);
        fill(slice(slice(in.k, 1, keys - 1, keys), 3, 0, 1), score);
        expect_agrees(in, {.scale = 1.0}, concat_text("late key ", score), score);
      }
    }
  }
}

/// O is the mean of v, and q and k have no gradient of note.
TEST(FlashSoftmax, EqualScores) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(70, 300)) {
      AttentionInputs in(1, queries, keys, 1, width, dtype);
      in.q = zeros({1, queries, 1, width}, dtype);
      expect_agrees(in, {}, "queries of zero");
    }
  }
}

/// Numbers near the largest of f16, in v and in the scores.
TEST(FlashSoftmax, NearTheLargestHalf) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(33, 150)) {
      AttentionInputs in(1, queries, keys, 1, width, dtype);
      in.v = full({1, keys, 1, width}, 65024, dtype);  // exact in f16 and bf16
      const Tensor y = flash(in).y;
      EXPECT_TRUE(all_close(y, full({1, queries, 1, width}, 65024, f64), attention_bounds(dtype).output)) << in.text();
      in.v = random_normal({1, keys, 1, width}, 1, dtype);
      in.q = full({1, queries, 1, width}, 60000, dtype);  // scores beyond f16: they live in f32
      in.k = sloping_keys(keys, width, 0.5, dtype);
      EXPECT_TRUE(all_close(slice(flash(in, {.scale = 1.0}).y, 1, 0, 1), slice(in.v, 1, keys - 1, keys),
                            attention_bounds(dtype).output));
    }
  }
}

/// One vector added to every key changes neither the output nor the gradient of q. All numbers are exact in bf16.
TEST(FlashSoftmax, ShiftOfAllKeys) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(70, 200)) {
      AttentionInputs in(1, queries, keys, 1, width, dtype);
      const auto eighths = [&](const Tensor& x) {
        std::vector<double> values = to(clone(x), cpu).to_vector<double>();
        for (double& value : values) value = std::round(std::clamp(value, -2.0, 2.0) * 8) / 8;
        return numbers(values, x.shape(), dtype);
      };
      in.k = eighths(in.k);
      AttentionInputs shifted = in;
      shifted.k = clone(in.k);
      add_into(shifted.k, clone(expand(eighths(random_normal({1, 1, 1, width}, 1, dtype)), in.k.shape())));
      const AttentionOutputs got = flash(shifted), expected = flash(in);
      const AttentionBounds bounds = attention_bounds(dtype);
      EXPECT_TRUE(all_close(got.y, expected.y, 2 * bounds.output)) << in.text();
      EXPECT_TRUE(all_close(got.dq, expected.dq, 2 * bounds.gradient)) << in.text();
      EXPECT_TRUE(all_close(got.dv, expected.dv, 2 * bounds.gradient)) << in.text();
    }
  }
}

/// Queries from tiny to large: a kernel that changes its way to compute with their size has to agree on both sides.
TEST(FlashSoftmax, EveryMagnitude) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, queries, keys] : heads(130, 150)) {
      const AttentionInputs base(1, queries, keys, 1, width, dtype);
      for (const double factor : {0.0078125, 0.5, 2.0, 4.0, 8.0, 16.0, 64.0}) {
        AttentionInputs in = base;
        in.q = base.q * factor;
        SCOPED_TRACE(in.text() + concat_text(", queries times ", factor));
        const AttentionOutputs got = flash(in);
        if (size_in_bytes(dtype) == 2) {
          expect_explained(in, got);
          continue;
        }
        // Rounding of scores grows with them: an f32 computation is no better than 2^-24 of the largest score.
        const AttentionOutputs plain = run_attention(in, {}, AttentionBackend::math);
        const AttentionReference expected = attention_reference(in.q, in.k, in.v, in.dy, {}, 0, 0);
        const AttentionBounds bounds = attention_bounds(dtype);
        const auto head = [](const Tensor& x) { return select(select(x, 0, 0), 1, 0); };
        const double error = max_difference(head(got.y), expected.y);
        EXPECT_LE(error,
                  std::max(2 * max_difference(head(plain.y), expected.y), bounds.output * std::max(1.0, factor / 2)));
        for (const auto& [mine, math, exact] : {std::tuple{got.dq, plain.dq, expected.dq},
                                                {got.dk, plain.dk, expected.dk},
                                                {got.dv, plain.dv, expected.dv}}) {
          double scale = 1;
          for (const double value : exact.to_vector<double>()) scale = std::max(scale, std::abs(value));
          EXPECT_LE(max_difference(head(mine), exact), std::max(3 * max_difference(head(math), exact),
                                                                bounds.gradient * scale * std::max(1.0, factor / 2)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace camo
