// DataLoader: batches of a data set, decoded ahead by worker threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "data/dataset.h"
#include "data/strong_augmentation.h"
#include "data/transforms.h"

namespace camo {

/// Random changes of the pictures: none, mirror and quarter turns, or the strong set.
enum class AugmentationSet { off, light, strong };
/// From its name, as --aug takes it; throws ErrorCode::usage on others.
AugmentationSet parse_augmentation_set(const std::string& name);

struct LoaderOptions {
  int image_size = 384;
  int64_t batch_size = 8;
  static constexpr int kMostWorkers = 256;
  int workers = 2;           // 0: next() decodes in the calling thread
  int prefetch_batches = 4;  // ready or in work beyond the one handed out last
  bool shuffle = true;       // another order in every epoch
  AugmentationSet augment = AugmentationSet::light;
  AugmentationOptions augmentation = {};
  StrongAugmentationOptions strong_augmentation = {};
  // Batches hold 8-bit pixels that are neither normalised nor mirrored and turned yet: normalize_batch() does it, on
  // any device.
  bool raw = false;
  bool drop_last = false;  // leave out a last batch that is not full
  uint64_t seed = 0;
  int64_t cache_bytes = 0;  // keep resized samples in memory when all of them fit into this many bytes
  // Files that can't be decoded: up to so many are replaced by the sample that follows in the epoch's order; one more
  // is an error. 0: the first one is an error.
  int64_t max_bad_images = 0;
  // Told the message of each replaced file, once, from the thread that calls next().
  std::function<void(const std::string& message)> on_bad_image = {};
  // Data-parallel training: this process takes every batch's part number `rank` of `world_size`; batch_size counts one
  // part. A last batch that does not fill all parts is filled up from the epoch's start, or dropped.
  int rank = 0;
  int world_size = 1;
};

/// On the CPU, as the loader makes them.
struct Batch {
  Tensor images;                            // [B, S, S, 3] f32, normalised; u8 when raw
  Tensor masks;                             // [B, S, S, 1] f32, 0 to 1 (between only by mix-up); u8 when raw
  std::vector<int64_t> indices;             // of the samples, in the data set's order
  std::vector<Augmentation> augmentations;  // still to be done; empty unless raw
  int mask_levels = 1;                      // raw masks hold 0 to mask_levels for 0 to 1
};

/// What a batch holds depends only on (samples, options, epoch, batch number): not on the number of workers, nor on
/// where an epoch was entered. Use from one thread. May be destroyed at any time.
class DataLoader {
 public:
  /// Throws ErrorCode::usage on options out of range, ::data without samples, ::general without threads. Reads no file.
  DataLoader(std::vector<Sample> samples, LoaderOptions options);
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  int64_t sample_count() const;
  int64_t batches_per_epoch() const;
  /// Whether resized samples are kept in memory.
  bool is_caching() const;

  /// Starts an epoch, at one of its batches when resuming; whatever was prefetched before is dropped. The workers begin
  /// at once. A loader starts in epoch 0.
  void start_epoch(int64_t epoch, int64_t first_batch = 0);
  /// The next batch of the epoch, nothing after its last. Throws what went wrong with a batch's files; the call after
  /// that goes on with the following batch.
  std::optional<Batch> next();

  /// Number in the epoch of the batch that next() will return: with the epoch, the position to resume from.
  int64_t next_batch() const;
  int64_t epoch() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// Sample indices of an epoch: 0..count-1, shuffled by (seed, epoch) when asked for.
std::vector<int64_t> epoch_order(int64_t count, bool shuffle, uint64_t seed, int64_t epoch);

}  // namespace camo
