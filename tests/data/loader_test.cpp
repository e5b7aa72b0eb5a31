#include "data/loader.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <thread>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

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

std::vector<Batch> rest_of_epoch(DataLoader& loader) {
  std::vector<Batch> batches;
  while (auto batch = loader.next()) batches.push_back(std::move(*batch));
  return batches;
}

void expect_equal(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].indices, b[i].indices);
    EXPECT_TRUE(test::bitwise_equal(a[i].images, b[i].images));
    EXPECT_TRUE(test::bitwise_equal(a[i].masks, b[i].masks));
  }
}

TEST_F(Loader, EpochHoldsEverySampleOnce) {
  DataLoader loader(samples_, options_);
  EXPECT_EQ(loader.batches_per_epoch(), 4);
  const std::vector<Batch> batches = rest_of_epoch(loader);
  ASSERT_EQ(batches.size(), 4u);
  EXPECT_EQ(batches[0].images.shape(), (Shape{3, 16, 16, 3}));
  EXPECT_EQ(batches[3].masks.shape(), (Shape{2, 16, 16, 1}));
  std::multiset<int64_t> seen;
  for (const Batch& batch : batches) seen.insert(batch.indices.begin(), batch.indices.end());
  EXPECT_EQ(seen.size(), 11u);
  EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 11u);
  for (float value : batches[0].masks.to_vector<float>()) EXPECT_TRUE(value == 0 || value == 1);
  EXPECT_FALSE(loader.next().has_value());
}

TEST_F(Loader, TheSameBatchesForAnyNumberOfWorkers) {
  DataLoader plain(samples_, with_workers(0));
  for (int workers : {1, 4, 8}) {
    DataLoader loader(samples_, with_workers(workers));
    for (int64_t epoch : {0, 3}) {
      plain.start_epoch(epoch);
      loader.start_epoch(epoch);
      expect_equal(rest_of_epoch(loader), rest_of_epoch(plain));
    }
  }
}

TEST_F(Loader, StrongSetIsTheSameForAnyNumberOfWorkers) {
  options_.augment = AugmentationSet::strong;
  for (const int64_t cache_bytes : {0, 16 * 16 * 4 * kCount}) {
    options_.cache_bytes = cache_bytes;
    DataLoader plain(samples_, with_workers(0));
    for (int workers : {1, 4, 8}) {
      DataLoader loader(samples_, with_workers(workers));
      for (int64_t epoch : {0, 3}) {
        plain.start_epoch(epoch);
        const auto expected = rest_of_epoch(plain);
        loader.start_epoch(epoch);
        expect_equal(rest_of_epoch(loader), expected);
        loader.start_epoch(epoch, 2);  // entered in the middle
        expect_equal(rest_of_epoch(loader), {expected.begin() + 2, expected.end()});
      }
    }
  }
}

TEST_F(Loader, StrongSetMixesEachSampleWithTheNextOfItsBatch) {
  options_.augment = AugmentationSet::strong;
  DataLoader loader(samples_, options_);
  int mixed = 0;
  while (const auto batch = loader.next()) {
    const size_t count = batch->indices.size();
    std::vector<ResizedSample> changed;
    std::vector<int> weights;
    for (const int64_t index : batch->indices) {
      const auto drawn = draw_strong_augmentation(options_.seed, 0, index);
      changed.push_back(augment(resize_sample(load_sample(samples_[static_cast<size_t>(index)]), 16), drawn));
      weights.push_back(drawn.mix_weight);
    }
    const std::vector<float> images = batch->images.to_vector<float>(), masks = batch->masks.to_vector<float>();
    for (size_t i = 0; i < count; ++i) {
      std::vector<uint8_t> image(768), mask(256);
      mix(changed[i], changed[(i + 1) % count], weights[i], image.data(), mask.data());
      std::vector<float> expected(768), target(256);
      normalize_mixed(image, mask, expected.data(), target.data());
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), images.begin() + static_cast<ptrdiff_t>(768 * i)));
      EXPECT_TRUE(std::equal(target.begin(), target.end(), masks.begin() + static_cast<ptrdiff_t>(256 * i)));
      const bool whole = std::all_of(target.begin(), target.end(), [](float v) { return v == 0 || v == 1; });
      EXPECT_TRUE(whole || weights[i] < kWholeMix);
      mixed += !whole;
    }
  }
  EXPECT_GT(mixed, 1);
}

TEST_F(Loader, EpochsAndSeedsDiffer) {
  DataLoader loader(samples_, options_);
  const auto first = rest_of_epoch(loader);
  loader.start_epoch(1);
  const auto second = rest_of_epoch(loader);
  EXPECT_NE(first[0].indices, second[0].indices);
  EXPECT_EQ(loader.epoch(), 1);
  EXPECT_NE(epoch_order(50, true, 1, 0), epoch_order(50, true, 2, 0));
}

TEST_F(Loader, WithoutShuffleAndAugmentationSamplesComeInOrder) {
  options_.shuffle = false;
  options_.augment = AugmentationSet::off;
  DataLoader loader(samples_, options_);
  const Batch batch = *loader.next();
  EXPECT_EQ(batch.indices, (std::vector<int64_t>{0, 1, 2}));
  const ResizedSample expected = resize_sample(load_sample(samples_[1]), 16);
  const std::vector<float> masks = batch.masks.to_vector<float>();
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(masks[256 + i], expected.mask.pixels[i]);
}

TEST_F(Loader, ResumesInTheMiddleOfAnEpoch) {
  DataLoader loader(samples_, options_);
  loader.start_epoch(2);
  loader.next();
  loader.next();
  const int64_t epoch = loader.epoch(), position = loader.next_batch();
  EXPECT_EQ(position, 2);
  DataLoader resumed(samples_, with_workers(3));
  resumed.start_epoch(epoch, position);
  expect_equal(rest_of_epoch(resumed), rest_of_epoch(loader));
  resumed.start_epoch(epoch, 4);
  EXPECT_FALSE(resumed.next().has_value());
  EXPECT_ERROR(resumed.start_epoch(0, 5), "starts within its 4 batches; got epoch 0, batch 5");
}

TEST_F(Loader, DropLastLeavesOutThePartialBatch) {
  options_.drop_last = true;
  DataLoader loader(samples_, options_);
  EXPECT_EQ(loader.batches_per_epoch(), 3);
  EXPECT_EQ(rest_of_epoch(loader).size(), 3u);
}

TEST_F(Loader, EveryProcessGetsItsPart) {
  options_.world_size = 2;
  std::multiset<int64_t> seen;
  for (int rank = 0; rank < 2; ++rank) {
    options_.rank = rank;
    DataLoader loader(samples_, options_);
    EXPECT_EQ(loader.batches_per_epoch(), 2);
    for (const Batch& batch : rest_of_epoch(loader)) {
      EXPECT_EQ(batch.indices.size(), 3u);
      seen.insert(batch.indices.begin(), batch.indices.end());
    }
  }
  EXPECT_EQ(seen.size(), 12u);  // one sample fills up the last batch
  EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 11u);
}

TEST_F(Loader, CacheGivesTheSameBatchesWithoutTheFiles) {
  options_.cache_bytes = 16 * 16 * 4 * kCount;
  DataLoader cached(samples_, options_);
  EXPECT_TRUE(cached.is_caching());
  const auto first = rest_of_epoch(cached);
  for (int i = 0; i < kCount; ++i) damage(i);
  cached.start_epoch(0);
  expect_equal(rest_of_epoch(cached), first);
  options_.cache_bytes -= 1;
  EXPECT_FALSE(DataLoader(samples_, options_).is_caching());
}

TEST_F(Loader, ABadFileReachesTheCallerByName) {
  options_.shuffle = false;
  damage(4);
  for (int workers : {0, 2}) {
    DataLoader loader(samples_, with_workers(workers));
    EXPECT_EQ(loader.next()->indices.front(), 0);
    EXPECT_ERROR(loader.next(), "s04.jpg: not a JPEG, PNG or BMP picture");
    EXPECT_EQ(loader.next()->indices.front(), 6);
  }
}

TEST_F(Loader, BadFilesAreReplacedUpToALimit) {
  options_.shuffle = false;
  options_.max_bad_images = 2;
  damage(4);
  damage(5);
  for (int workers : {0, 3}) {
    std::vector<std::string> messages;
    LoaderOptions options = with_workers(workers);
    options.on_bad_image = [&](const std::string& message) { messages.push_back(message); };
    DataLoader loader(samples_, options);
    for (int64_t epoch : {0, 1}) {
      loader.start_epoch(epoch);
      const auto batches = rest_of_epoch(loader);
      EXPECT_EQ(batches[1].indices, (std::vector<int64_t>{3, 6, 6}));
    }
    ASSERT_EQ(messages.size(), 2u);
    EXPECT_NE(messages[0].find("s04.jpg"), std::string::npos);
  }
  damage(9);
  DataLoader loader(samples_, with_workers(2));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(loader.next().has_value());
  EXPECT_ERROR(loader.next(), "after 2 other bad images, which is as many as may be skipped");
}

TEST_F(Loader, StrongSetReplacesBadFilesToo) {
  options_.shuffle = false;
  options_.augment = AugmentationSet::strong;
  damage(4);
  for (int workers : {0, 2}) {
    DataLoader strict(samples_, with_workers(workers));
    strict.next();
    EXPECT_ERROR(strict.next(), "s04.jpg: not a JPEG, PNG or BMP picture");
    EXPECT_EQ(strict.next()->indices.front(), 6);
    LoaderOptions options = with_workers(workers);
    options.max_bad_images = 1;
    DataLoader tolerant(samples_, options);
    tolerant.next();
    EXPECT_EQ(tolerant.next()->indices, (std::vector<int64_t>{3, 5, 5}));
  }
}

TEST_F(Loader, AllFilesBad) {
  options_.max_bad_images = 100;
  for (int i = 0; i < kCount; ++i) damage(i);
  DataLoader loader(samples_, options_);
  EXPECT_ERROR(loader.next(), "none of the 11 samples can be read");
}

TEST_F(Loader, SizeMismatchIsABadImage) {
  encode_png(samples_[0].mask, Image(3, 3, 1));
  options_.shuffle = false;
  DataLoader loader(samples_, options_);
  EXPECT_ERROR(loader.next(), "a mask must have its picture's size");
}

TEST_F(Loader, MayEndAtAnyTime) {
  for (int taken = 0; taken < 4; ++taken) {
    for (int workers : {0, 1, 4}) {
      LoaderOptions options = with_workers(workers);
      options.batch_size = 1;
      options.prefetch_batches = 1 + taken;
      DataLoader loader(samples_, options);
      for (int i = 0; i < taken; ++i) loader.next();
    }
  }
}

TEST_F(Loader, MayBeRestartedAtAnyTime) {
  DataLoader plain(samples_, with_workers(0));
  DataLoader loader(samples_, with_workers(4));
  for (int64_t epoch = 0; epoch < 20; ++epoch) {
    plain.start_epoch(epoch, epoch % 4);
    loader.start_epoch(epoch, epoch % 4);
    EXPECT_EQ(loader.next()->indices, plain.next()->indices);
  }
}

TEST_F(Loader, PrefetchIsBounded) {
  LoaderOptions options = with_workers(2);
  options.batch_size = 1;
  options.prefetch_batches = 2;
  options.shuffle = false;
  DataLoader loader(samples_, options);
  loader.next();
  // Batches 1 and 2 may be in work now; what is beyond must not have been read yet when it is damaged here.
  damage(8);
  for (int i = 1; i < 8; ++i) EXPECT_TRUE(loader.next().has_value());
  EXPECT_ERROR(loader.next(), "s08.jpg");
}

TEST_F(Loader, ChecksItsOptions) {
  EXPECT_ERROR(DataLoader({}, options_), "data loader: at least one sample is needed");
  const auto with = [&](auto change) {
    LoaderOptions options = options_;
    change(options);
    return options;
  };
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) { o.batch_size = 0; })), "batch size must be at least 1; got 0");
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) { o.workers = -1; })),
               "number of workers must be within 0 and 256");
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) { o.image_size = 0; })), "image size must be within 1 and 32768");
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) { o.prefetch_batches = 0; })), "to prefetch must be at least 1");
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) { o.max_bad_images = -1; })), "must not be negative; got -1");
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) { o.rank = 1; })), "rank must be below the world size; got 1");
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) { o.world_size = 0; })), "world size must be at least 1; got 0");
  EXPECT_ERROR(DataLoader(samples_, with([](auto& o) {
                            o.augment = AugmentationSet::strong;
                            o.strong_augmentation.mix_alpha = 2;
                          })),
               "mix-up's alpha must be within 0.01 and 1; got 2");
  EXPECT_ERROR(parse_augmentation_set("heavy"), "--aug: must be off, light or strong; got heavy");
}

}  // namespace
}  // namespace camo
