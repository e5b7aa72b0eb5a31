// CRC-32C (Castagnoli), the checksum of checkpoints and of TensorBoard's files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace camo {

/// The checksum of `bytes` bytes, continued from `crc`, the checksum of what stands before them.
uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0);

}  // namespace camo
