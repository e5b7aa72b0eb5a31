// Every registered gradient case on the device under test against the CPU in f64: values and gradients, in f32, f16 and
// bf16.
//
// All runs see the same inputs and output gradients, rounded to the precision under test. In f32 the error may be twice
// that of the CPU in f32, plus some units in the last place of the largest value. In 16 bits, where sums are in f32 but
// each operation of a case rounds its result, it may be a few roundings of the largest value.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <optional>

#include "nn/gradcheck.h"
#include "ops/elementwise.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

constexpr double kUnits = 8;      // of 2^-23, beside twice the CPU's error
constexpr double kRoundings = 8;  // of a 16-bit type, half a unit in the last place each

const std::vector<GradientCase>& cases() {
  static const std::vector<GradientCase> all = all_gradient_cases();
  return all;
}

class DefaultDevice {
 public:
  explicit DefaultDevice(Device device) : before_(default_device()) { set_default_device(device); }
  ~DefaultDevice() { set_default_device(before_); }

 private:
  Device before_;
};

/// x in another dtype on another device, with the same strides and offset.
Tensor transfer(const Tensor& x, DType dtype, Device device) {
  const int64_t elements = x.storage()->bytes() / size_in_bytes(x.dtype());
  const Tensor y = make_view(empty({elements}, dtype, device), x.shape(), x.strides(), x.offset());
  copy_into(y, to(to(x, dtype), device));
  return y;
}

/// Of a case: the floating outputs, then the gradients of the floating inputs (empty where there is none).
using Results = std::vector<std::vector<double>>;

Results run(const GradientCase& entry, DType precision, DType dtype, Device device) {
  const Tensors inputs = [&] {
    const DefaultDevice scope(cpu);
    return entry.inputs();
  }();
  const DefaultDevice scope(device);
  Tensors leaves;
  for (const Tensor& input : inputs) {
    if (!input.defined() || !is_floating(input.dtype())) {
      leaves.push_back(input.defined() ? to(input, device) : input);
      continue;
    }
    const Tensor values = transfer(input, precision, cpu);
    leaves.push_back(transfer(values, dtype, device));
    leaves.back().set_requires_grad(true);
  }
  const Tensors outputs = entry.fn(leaves);
  Tensors connected, weights;
  Results results;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!is_floating(outputs[i].dtype())) continue;
    results.push_back(outputs[i].to_vector<double>());
    if (!outputs[i].requires_grad()) continue;
    const RandomKey key{99, i};
    std::vector<double> values(static_cast<size_t>(outputs[i].numel()));
    for (size_t j = 0; j < values.size(); ++j) values[j] = 2 * double{key.uniform(j)} - 1;
    connected.push_back(outputs[i]);
    weights.push_back(to(to(to(from_vector(values, outputs[i].shape(), cpu), precision), outputs[i].dtype()), device));
  }
  backward(connected, weights);
  for (const Tensor& leaf : leaves) {
    if (!leaf.defined() || !is_floating(leaf.dtype())) continue;
    results.push_back(leaf.grad().defined() ? leaf.grad().to_vector<double>() : std::vector<double>());
  }
  return results;
}

/// Largest difference; infinite where only one of two values is finite.
double largest_error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double difference = std::abs(a[i] - b[i]);
    worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(worst, difference);
  }
  return worst;
}

/// Inputs and output gradients are of the order of 1, so that errors of that many roundings are natural.
double scale_of(const std::vector<double>& values) {
  double scale = 1;
  for (const double value : values) {
    if (std::isfinite(value)) scale = std::max(scale, std::abs(value));
  }
  return scale;
}

class DtypeAgreement : public ::testing::TestWithParam<size_t> {
 protected:
  DtypeAgreement() : device_(default_device()) {}
  const GradientCase& entry() const { return cases()[GetParam()]; }

  void expect_within_roundings(DType dtype, double rounding) const {
    const Results exact = run(entry(), dtype, f64, cpu);
    std::optional<Results> got;
    try {
      got = run(entry(), dtype, dtype, device_);
    } catch (const Error& error) {
      if (device_.is_cpu() || std::string(error.what()).find("computes in") == std::string::npos) throw;
      GTEST_SKIP() << error.what();  // an operation that refuses 16-bit tensors
    }
    ASSERT_EQ(got->size(), exact.size());
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_LE(largest_error((*got)[i], exact[i]), kRoundings * rounding * scale_of(exact[i])) << "result " << i;
    }
  }

  const Device device_;
};

TEST_P(DtypeAgreement, SinglePrecision) {
  const Results exact = run(entry(), f32, f64, cpu), plain = run(entry(), f32, f32, cpu);
  const Results got = run(entry(), f32, f32, device_);
  ASSERT_EQ(got.size(), exact.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_LE(largest_error(got[i], exact[i]),
              2 * largest_error(plain[i], exact[i]) + kUnits * 0x1p-23 * scale_of(exact[i]))
        << "result " << i << "; the CPU's error is " << largest_error(plain[i], exact[i]);
  }
}

TEST_P(DtypeAgreement, DoublePrecision) {
  const Results exact = run(entry(), f64, f64, cpu), got = run(entry(), f64, f64, device_);
  ASSERT_EQ(got.size(), exact.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_LE(largest_error(got[i], exact[i]), 1e-12 * scale_of(exact[i])) << "result " << i;
  }
}

TEST_P(DtypeAgreement, HalfPrecision) { expect_within_roundings(f16, 0x1p-11); }

TEST_P(DtypeAgreement, BFloat16) { expect_within_roundings(bf16, 0x1p-8); }

INSTANTIATE_TEST_SUITE_P(All, DtypeAgreement, ::testing::Range(size_t{0}, cases().size()),
                         [](const ::testing::TestParamInfo<size_t>& param) {
                           const GradientCase& entry = cases()[param.param];
                           std::string name = std::to_string(param.param) + "_" + entry.op + "_" + entry.variant;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

/// The comparison itself, on any machine: the CPU in f32 is near the CPU in f64, and all results are there.
TEST(DtypeAgreementOnTheCpu, SinglePrecisionIsNearDouble) {
  for (const GradientCase& entry : cases()) {
    const Results exact = run(entry, f32, f64, cpu), plain = run(entry, f32, f32, cpu);
    ASSERT_EQ(plain.size(), exact.size()) << entry.op;
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_LE(largest_error(plain[i], exact[i]), 1e-4 * scale_of(exact[i])) << entry.op << ", " << entry.variant;
    }
  }
}

}  // namespace
}  // namespace camo
