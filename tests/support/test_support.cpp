#include "tests/support/test_support.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

namespace camo::test {
namespace {

/// Restarts the numbering of uniform() with every test, so that a test draws the same numbers alone and among others.
class CallCounter : public ::testing::EmptyTestEventListener {
 public:
  static CallCounter& instance() {
    static CallCounter* counter = [] {
      auto* made = new CallCounter;  // owned by GoogleTest
      ::testing::UnitTest::GetInstance()->listeners().Append(made);
      return made;
    }();
    return *counter;
  }
  void OnTestStart(const ::testing::TestInfo&) override { calls_ = 0; }
  uint64_t next() { return calls_++; }

 private:
  uint64_t calls_ = 0;
};

std::string index_text(int64_t flat, const Shape& shape) {
  Shape index = shape;
  for (int axis = shape.size() - 1; axis >= 0; --axis) {
    index[axis] = flat % shape[axis];
    flat /= shape[axis];
  }
  return index.str();
}

double difference(double a, double b) {
  if (a == b) return 0;  // equal infinities too
  const double d = std::abs(a - b);
  return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}

Tensor on_cpu(const Tensor& x) {
  Tensor y = empty(x.shape(), x.dtype(), cpu);
  copy_into(y, x);
  return y;
}

}  // namespace

Tensor uniform(const Shape& shape, DType dtype, double low, double high) {
  const RandomKey key{20240607, CallCounter::instance().next()};
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = low + (high - low) * double{key.uniform(i)};
  Tensor y = empty(shape, dtype);
  copy_into(y, from_vector(values, shape));
  return y;
}

double max_difference(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) {
    ADD_FAILURE() << "shapes differ: " << a.shape().str() << " and " << b.shape().str();
    return std::numeric_limits<double>::infinity();
  }
  const auto va = a.to_vector<double>(), vb = b.to_vector<double>();
  double worst = 0;
  for (size_t i = 0; i < va.size(); ++i) worst = std::max(worst, difference(va[i], vb[i]));
  return worst;
}

::testing::AssertionResult bitwise_equal(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) {
    return ::testing::AssertionFailure() << concat_text(a.dtype(), " ", a.shape(), " is not ", b.dtype(), " ",
                                                        b.shape());
  }
  const Tensor ca = on_cpu(a), cb = on_cpu(b);
  const auto size = static_cast<size_t>(size_in_bytes(a.dtype()));
  const auto *pa = static_cast<const std::byte*>(ca.raw_data()), *pb = static_cast<const std::byte*>(cb.raw_data());
  for (int64_t i = 0; i < a.numel(); ++i) {
    const size_t at = static_cast<size_t>(i) * size;
    if (std::memcmp(pa + at, pb + at, size) != 0) {
      return ::testing::AssertionFailure()
             << "element " << index_text(i, a.shape()) << " differs: " << ca.to_vector<double>()[static_cast<size_t>(i)]
             << " and " << cb.to_vector<double>()[static_cast<size_t>(i)];
    }
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult all_close(const Tensor& a, const Tensor& b, double tolerance) {
  if (a.shape() != b.shape()) {
    return ::testing::AssertionFailure() << "shapes differ: " << a.shape().str() << " and " << b.shape().str();
  }
  const auto va = a.to_vector<double>(), vb = b.to_vector<double>();
  double scale = 1, worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < va.size(); ++i) {
    if (std::isfinite(vb[i])) scale = std::max(scale, std::abs(vb[i]));
    if (const double d = difference(va[i], vb[i]); d > worst) worst = d, at = i;
  }
  if (worst <= tolerance * scale) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "element " << index_text(static_cast<int64_t>(at), a.shape()) << ": "
                                       << va[at] << " and " << vb[at] << " differ by " << worst << ", allowed "
                                       << tolerance * scale;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "camo_test_XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) fail(ErrorCode::general, "test: cannot make a folder ", pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path golden_dir() {
  const char* folder = std::getenv("CAMO_GOLDEN_DIR");
  return folder != nullptr ? std::filesystem::path(folder)
                           : std::filesystem::path(CAMO_SOURCE_DIR) / "tests" / "golden";
}

std::filesystem::path golden_file(const std::string& name) {
  const std::filesystem::path path = golden_dir() / name;
  return std::filesystem::exists(path) ? path : std::filesystem::path(CAMO_SOURCE_DIR) / "tests" / "golden" / name;
}

}  // namespace camo::test
