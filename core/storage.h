// Storage: a block of memory on a device, shared by all views of a tensor, and the allocators behind it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/device.h"

namespace camo {

/// Bytes handed out by a device's allocator.
struct MemoryStats {
  int64_t live_bytes = 0;    // in use by storages now
  int64_t peak_bytes = 0;    // largest live_bytes since the last reset_peak_memory
  int64_t cached_bytes = 0;  // freed and kept for reuse
};

MemoryStats memory_stats(Device device);
void reset_peak_memory(Device device);
/// Gives cached blocks back to the system.
void release_cached_memory(Device device);

/// One allocation, 64-byte aligned, freed with its last owner. Not initialised.
class Storage {
 public:
  /// Throws ErrorCode::device with the numbers when memory runs out.
  Storage(int64_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  /// Counts in-place changes, so that backward notices a saved tensor that changed.
  uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
  std::atomic<uint64_t> version_{0};
};

}  // namespace camo
