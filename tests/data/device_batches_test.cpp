#include "data/device_batches.h"

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

class DeviceBatchesOf : public ::testing::TestWithParam<AugmentationSet> {};

TEST_P(DeviceBatchesOf, RawBatchesBecomeTheLoadersOwn) {
  const test::TemporaryFolder folder;
  test::write_pairs(folder.path(), 9);
  const std::vector<Sample> samples = find_dataset(folder.path().string(), Split::all).samples;
  LoaderOptions options;
  options.image_size = 17;
  options.batch_size = 2;
  options.seed = 5;
  options.augment = GetParam();
  options.augmentation = {.flip_probability = 0.5, .rotation_probability = 0.8};
  DataLoader plain(samples, options);
  options.raw = true;
  DataLoader raw(samples, options);
  DeviceBatches batches(raw, default_device());
  int count = 0;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    plain.start_epoch(epoch);
    raw.start_epoch(epoch);
    while (const auto wanted = plain.next()) {
      const auto batch = batches.next();
      ASSERT_TRUE(batch.has_value());
      EXPECT_EQ(batch->images.device(), default_device());
      EXPECT_EQ(batch->indices, wanted->indices);
      EXPECT_TRUE(test::bitwise_equal(batch->images, wanted->images));
      EXPECT_TRUE(test::bitwise_equal(batch->masks, wanted->masks));
      ++count;
    }
    EXPECT_FALSE(batches.next().has_value());
  }
  EXPECT_EQ(count, 10);
}

INSTANTIATE_TEST_SUITE_P(Sets, DeviceBatchesOf,
                         ::testing::Values(AugmentationSet::off, AugmentationSet::light, AugmentationSet::strong));

TEST(DeviceBatches, BatchesThatAreNotRawPassThrough) {
  const test::TemporaryFolder folder;
  test::write_pairs(folder.path(), 3);
  LoaderOptions options;
  options.image_size = 8;
  options.batch_size = 3;
  options.shuffle = false;
  options.augment = AugmentationSet::off;
  DataLoader loader(find_dataset(folder.path().string(), Split::all).samples, options);
  DeviceBatches batches(loader, default_device());
  const auto batch = batches.next();
  EXPECT_EQ(batch->images.dtype(), f32);
  EXPECT_EQ(batch->images.device(), default_device());
}

TEST(NormalizeBatch, ChecksItsShapes) {
  const Batch batch{zeros({2, 4, 4, 3}, u8), zeros({2, 4, 4, 1}, u8), {}, {}};
  EXPECT_ERROR(normalize_batch(batch), "needs u8 images [B, S, S, 3], masks [B, S, S, 1] and B augmentations");
}

}  // namespace
}  // namespace camo
