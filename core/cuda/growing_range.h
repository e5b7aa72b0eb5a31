// Device memory at addresses that follow each other, however often it grows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "core/device.h"

namespace camo::cuda {

/// Addresses are reserved once, as many as the device has memory; memory is put behind them as it is asked for, in the
/// driver's pages (2 MiB), and stays until the range ends. Nothing here waits for the device.
class GrowingRange {
 public:
  /// Null where the driver can't do it.
  static std::unique_ptr<GrowingRange> reserve(Device device);
  /// No work may use the memory any more.
  ~GrowingRange();
  GrowingRange(const GrowingRange&) = delete;
  GrowingRange& operator=(const GrowingRange&) = delete;

  char* begin() const { return reinterpret_cast<char*>(begin_); }
  int64_t bytes() const { return bytes_; }
  /// Adds memory at the end, a multiple of the page size. cudaErrorMemoryAllocation when there is none left.
  cudaError_t grow(int64_t bytes);

 private:
  GrowingRange(Device device, uint64_t begin, int64_t reserved) : device_(device), begin_(begin), reserved_(reserved) {}

  Device device_;
  uint64_t begin_;
  int64_t reserved_, bytes_ = 0;
};

}  // namespace camo::cuda
