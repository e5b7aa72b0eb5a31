// CRC-32 as in ZIP, gzip and PNG (ISO 3309, reflected polynomial 0xEDB88320).
#pragma once

#include <cstddef>
#include <cstdint>

namespace camo {

/// The checksum of `bytes` bytes; `previous` is that of what stands before them.
uint32_t crc32(const void* data, size_t bytes, uint32_t previous = 0);

}  // namespace camo
