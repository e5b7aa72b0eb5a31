// Batches of a loader on the device that trains.
#pragma once

#include <memory>
#include <optional>

#include "data/loader.h"

namespace camo {

/// Augments and normalises a raw batch on the device where its tensors lie, with the bits that the loader would have
/// computed. A batch that is not raw comes back as it is.
Batch normalize_batch(const Batch& batch);

/// Hands out a loader's batches on a device, normalised. For a GPU the loader should make raw batches: they travel as
/// bytes, through pinned memory and the copy stream, while the GPU computes. Use from one thread, and outlive neither
/// the loader nor the device.
class DeviceBatches {
 public:
  DeviceBatches(DataLoader& loader, Device device);
  ~DeviceBatches();
  DeviceBatches(const DeviceBatches&) = delete;
  DeviceBatches& operator=(const DeviceBatches&) = delete;

  /// The loader's next batch, nothing after its last. Waits for files, not for the device.
  std::optional<Batch> next();
  /// Seconds that next() has spent in the loader so far: waiting for files.
  double seconds_waited() const { return seconds_waited_; }

 private:
  class Upload;
  DataLoader& loader_;
  Device device_;
  double seconds_waited_ = 0;
  std::unique_ptr<Upload> upload_;
};

}  // namespace camo
