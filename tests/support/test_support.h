// Shared by all tests: random tensors, comparisons, error checks.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "core/autograd.h"
#include "core/random.h"
#include "core/tensor.h"

namespace camo::test {

/// Uniform in [-1, 1), from a fixed seed and the number of the call within the test.
Tensor uniform(const Shape& shape, DType dtype = f64, double low = -1, double high = 1);

/// Largest |a - b| over all elements, in double. Shapes must agree (a test failure and infinity if not).
double max_difference(const Tensor& a, const Tensor& b);

/// Same shape, dtype and bits.
::testing::AssertionResult bitwise_equal(const Tensor& a, const Tensor& b);

/// |a - b| <= tolerance * max(1, largest |b|) for every element.
::testing::AssertionResult all_close(const Tensor& a, const Tensor& b, double tolerance);

/// A folder of its own, removed at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Where the golden files are: CAMO_GOLDEN_DIR, or the project's tests/golden.
std::filesystem::path golden_dir();
/// One file, by its path in that folder; of the project's own where the folder has none.
std::filesystem::path golden_file(const std::string& name);

}  // namespace camo::test

/// The statement throws camo::Error whose text contains `text`.
#define EXPECT_ERROR(statement, text)                                                                          \
  do {                                                                                                         \
    try {                                                                                                      \
      statement;                                                                                               \
      ADD_FAILURE() << #statement " threw nothing; expected an error with: " << (text);                        \
    } catch (const camo::Error& error) {                                                                       \
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << "got the error: " << error.what(); \
    }                                                                                                          \
  } while (false)
