// The caching allocator of the CPU.
#pragma once

#include <cstdint>

#include "core/storage.h"

namespace camo::detail {

/// 64-byte aligned memory, freed with the size that was asked for. Throws ErrorCode::device with the numbers when the
/// system has none left.
void* allocate_cpu(int64_t bytes);
void free_cpu(void* block, int64_t bytes);

MemoryStats cpu_memory_stats();
void reset_cpu_peak();
/// Gives back what is cached, except for the free parts of segments in use.
void release_cached_cpu();

}  // namespace camo::detail
