// A folder of pairs that loaders read.
#pragma once

#include "data/loader.h"
#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {

class Loader : public ::testing::Test {
 protected:
  static constexpr int kCount = 11;

  void SetUp() override {
    test::write_pairs(folder_.path(), kCount);
    samples_ = find_dataset(folder_.path().string(), Split::all).samples;
    options_.image_size = 16;
    options_.batch_size = 3;
    options_.seed = 5;
  }

  LoaderOptions with_workers(int workers) const {
    LoaderOptions options = options_;
    options.workers = workers;
    return options;
  }

  void damage(int index) const { test::write_bytes(samples_[static_cast<size_t>(index)].image, test::to_bytes("no")); }

  test::TemporaryFolder folder_;
  std::vector<Sample> samples_;
  LoaderOptions options_;
};

inline std::vector<Batch> rest_of_epoch(DataLoader& loader) {
  std::vector<Batch> batches;
  while (auto batch = loader.next()) batches.push_back(std::move(*batch));
  return batches;
}

inline void expect_equal(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].indices, b[i].indices);
    EXPECT_TRUE(test::bitwise_equal(a[i].images, b[i].images));
    EXPECT_TRUE(test::bitwise_equal(a[i].masks, b[i].masks));
  }
}

}  // namespace camo
