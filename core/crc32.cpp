#include "core/crc32.h"

#include <array>
#include <bit>
#include <cstring>

namespace camo {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as little-endian numbers");

constexpr size_t kSlices = 8;  // bytes a step
using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

/// tables[s][b]: what byte b, followed by s zero bytes, adds to the remainder.
constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t remainder = b;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0xEDB88320u : 0);
    tables[0][b] = remainder;
  }
  for (size_t s = 1; s < kSlices; ++s) {
    for (size_t b = 0; b < 256; ++b) {
      const uint32_t before = tables[s - 1][b];
      tables[s][b] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}
constexpr Tables kTables = make_tables();

}  // namespace

uint32_t crc32(const void* data, size_t bytes, uint32_t previous) {
  const auto* next = static_cast<const unsigned char*>(data);
  uint32_t remainder = ~previous;
  for (; bytes >= kSlices; bytes -= kSlices, next += kSlices) {
    uint64_t word = 0;
    std::memcpy(&word, next, kSlices);
    word ^= remainder;
    remainder = 0;
    for (size_t s = 0; s < kSlices; ++s) remainder ^= kTables[kSlices - 1 - s][(word >> (8 * s)) & 0xff];
  }
  for (; bytes > 0; --bytes, ++next) remainder = (remainder >> 8) ^ kTables[0][(remainder ^ *next) & 0xff];
  return ~remainder;
}

}  // namespace camo
