#include "data/loader.h"

#include <algorithm>
#include <map>
#include <set>

#include "loader_fixture.h"

namespace camo {
namespace {

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

TEST_F(Loader, LightSetChangesEachSampleByItsOwnDraw) {
  DataLoader loader(samples_, options_);
  loader.start_epoch(2);
  int changed = 0;
  while (const auto batch = loader.next()) {
    const std::vector<float> images = batch->images.to_vector<float>(), masks = batch->masks.to_vector<float>();
    for (size_t i = 0; i < batch->indices.size(); ++i) {
      const int64_t index = batch->indices[i];
      const Augmentation drawn = draw_augmentation(options_.seed, 2, index);
      changed += drawn != Augmentation{};
      std::vector<float> image(768), mask(256);
      write_sample(resize_sample(load_sample(samples_[static_cast<size_t>(index)]), 16), drawn, image.data(),
                   mask.data());
      EXPECT_TRUE(std::equal(image.begin(), image.end(), images.begin() + static_cast<ptrdiff_t>(768 * i)));
      EXPECT_TRUE(std::equal(mask.begin(), mask.end(), masks.begin() + static_cast<ptrdiff_t>(256 * i)));
    }
  }
  EXPECT_GT(changed, 2);
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
  loader.start_epoch(2);
  int mixed = 0;
  while (const auto batch = loader.next()) {
    const size_t count = batch->indices.size();
    std::vector<ResizedSample> changed;
    std::vector<int> weights;
    for (const int64_t index : batch->indices) {
      const auto drawn = draw_strong_augmentation(options_.seed, 2, index);
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

TEST_F(Loader, EveryOrderIsEquallyLikely) {
  constexpr int kEpochs = 12000;
  std::map<std::vector<int64_t>, int> seen;
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) ++seen[epoch_order(4, true, 11, epoch)];
  EXPECT_EQ(seen.size(), 24u);
  for (const auto& [order, count] : seen) EXPECT_NEAR(count, kEpochs / 24, 110);  // 5 deviations
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
    const auto batches = rest_of_epoch(loader);
    for (const Batch& batch : batches) {
      EXPECT_EQ(batch.indices.size(), 3u);
      seen.insert(batch.indices.begin(), batch.indices.end());
    }
    if (rank == 1) {
      EXPECT_EQ(batches.back().indices.back(), epoch_order(kCount, true, options_.seed, 0).front());
    }
  }
  EXPECT_EQ(seen.size(), 12u);  // one sample fills up the last batch
  EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 11u);
  options_.drop_last = true;
  EXPECT_EQ(DataLoader(samples_, options_).batches_per_epoch(), 1);
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

// A run goes on as it began, also when a file is mended under it.
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
