// The caching allocator of CUDA devices.
#pragma once

#include <cstdint>

#include "core/storage.h"

namespace camo::cuda {

/// Memory on a device, reused in the order of its compute stream: a block freed by the host may be handed out at once,
/// because work that still uses it is ahead in the stream. Retries after giving cached memory back; then throws
/// ErrorCode::device with what was asked, live and cached, and which flags to lower.
void* allocate(int64_t bytes, Device device);
void free(void* block, Device device);

MemoryStats stats(Device device);
void reset_peak(Device device);
void release_cached(Device device);

}  // namespace camo::cuda
