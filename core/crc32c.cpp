#include "core/crc32c.h"

#include <array>
#include <cstring>

namespace camo {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;  // bits reversed

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[i] = crc;
  }
  return table;
}

uint32_t by_table(const unsigned char* next, size_t bytes, uint32_t state) {
  static constexpr std::array<uint32_t, 256> kTable = make_table();
  for (; bytes > 0; --bytes) state = (state >> 8) ^ kTable[(state ^ *next++) & 0xFF];
  return state;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("sse4.2"))) uint32_t by_instruction(const unsigned char* next, size_t bytes, uint32_t state) {
  uint64_t wide = state;
  for (; bytes >= 8; bytes -= 8, next += 8) {
    uint64_t word = 0;
    std::memcpy(&word, next, 8);
    wide = __builtin_ia32_crc32di(wide, word);
  }
  return by_table(next, bytes, static_cast<uint32_t>(wide));
}
#endif

}  // namespace

uint32_t crc32c(const void* data, size_t bytes, uint32_t crc) {
  const auto* first = static_cast<const unsigned char*>(data);
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) return ~by_instruction(first, bytes, ~crc);
#endif
  return ~by_table(first, bytes, ~crc);
}

}  // namespace camo
