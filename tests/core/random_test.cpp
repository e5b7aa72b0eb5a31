#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/parallel.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

// Known answers of Philox4x32-10 from the authors' Random123 test vectors (kat_vectors).
TEST(Philox, MatchesPublishedVectors) {
  EXPECT_EQ(philox(0, 0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, EveryThreadCountDrawsTheSame) {
  const int before = num_threads();
  std::vector<std::vector<double>> draws;
  for (int threads : {1, 2, 7}) {
    set_num_threads(threads);
    seed_everything(3);
    draws.push_back(random_normal({50000}, 1, f64).to_vector<double>());
  }
  set_num_threads(before);
  EXPECT_EQ(draws[0], draws[1]);
  EXPECT_EQ(draws[0], draws[2]);
}

TEST(Random, CallsDrawFreshNumbers) {
  seed_everything(5);
  const auto first = random_uniform({100}).to_vector<float>();
  const auto second = random_uniform({100}).to_vector<float>();
  EXPECT_NE(first, second);
  seed_everything(5);
  EXPECT_EQ(random_uniform({100}).to_vector<float>(), first);
}

struct Moments {
  double mean = 0, deviation = 0, low = 1e30, high = -1e30;
  explicit Moments(const std::vector<double>& values) {
    for (double v : values) {
      mean += v;
      low = std::min(low, v);
      high = std::max(high, v);
    }
    mean /= static_cast<double>(values.size());
    for (double v : values) deviation += (v - mean) * (v - mean);
    deviation = std::sqrt(deviation / static_cast<double>(values.size()));
  }
};

TEST(Random, UniformFillsItsRange) {
  seed_everything(1);
  const Moments m(random_uniform({100000}, -2, 4, f64).to_vector<double>());
  EXPECT_NEAR(m.mean, 1, 0.03);
  EXPECT_NEAR(m.deviation, 6 / std::sqrt(12.0), 0.02);
  EXPECT_GE(m.low, -2);
  EXPECT_LT(m.high, 4);
}

// 16-bit numbers near the upper end round up.
TEST(Random, UniformStaysBelowItsEnd) {
  seed_everything(1);
  for (const DType dtype : {bf16, f16}) {
    for (const auto& [low, high] : {std::pair(0.0, 1.0), {-1.0, 0.0}, {-3.0, -1.0}}) {
      const std::vector<double> values = random_uniform({20000}, low, high, dtype).to_vector<double>();
      EXPECT_LT(*std::max_element(values.begin(), values.end()), high) << name(dtype);
      EXPECT_GE(*std::min_element(values.begin(), values.end()), low) << name(dtype);
    }
  }
  for (const double value : random_uniform({1000}, 1, 1 + 0x1p-22, f32).to_vector<double>())
    EXPECT_LT(value, 1 + 0x1p-22);
  for (const double value : random_uniform({10}, 2, 2, bf16).to_vector<double>()) EXPECT_EQ(value, 2);
}

TEST(Random, RangesAreChecked) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_ERROR(random_uniform({2}, 1, 0), "low must not be above high, and both finite; got low 1, high 0");
  EXPECT_ERROR(random_uniform({2}, 0, inf), "both finite; got low 0, high inf");
  EXPECT_ERROR(random_uniform({2}, std::nan(""), 1), "got low nan");
  EXPECT_ERROR(random_normal({2}, -1), "random_normal: the deviation must not be negative; got -1");
  EXPECT_ERROR(random_truncated_normal({2}, -1), "random_truncated_normal: the deviation must not be negative; got -1");
  EXPECT_ERROR(random_truncated_normal({2}, 1, 1e-9), "cut must be at least 0.01; got 1e-09");  // would hardly end
}

TEST(Random, NormalHasItsMoments) {
  seed_everything(1);
  const auto values = random_normal({100001}, 3, f64).to_vector<double>();
  const Moments m(values);
  EXPECT_NEAR(m.mean, 0, 0.05);
  EXPECT_NEAR(m.deviation, 3, 0.03);
  const auto within = std::count_if(values.begin(), values.end(), [](double v) { return std::abs(v) < 3; });
  EXPECT_NEAR(static_cast<double>(within) / 100001, 0.6827, 0.005);
}

TEST(Random, TruncatedNormalStaysWithinItsCut) {
  seed_everything(1);
  const Moments m(random_truncated_normal({100000}, 0.02, 2, f64).to_vector<double>());
  EXPECT_NEAR(m.mean, 0, 3e-4);
  EXPECT_NEAR(m.deviation, 0.02 * 0.8796, 2e-4);  // the deviation of a normal cut at two deviations
  EXPECT_GE(m.low, -0.04);
  EXPECT_LE(m.high, 0.04);
  EXPECT_GT(m.high, 0.039);
}

TEST(Random, NeedsAFloatingDtype) { EXPECT_ERROR(random_uniform({2}, 0, 1, i64), "needs a floating dtype; got i64"); }

}  // namespace
}  // namespace camo
