// Random changes, shared by the targets.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace camo::fuzz {

/// SplitMix64: a generator that costs nothing to seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t operator()() {
    uint64_t bits = state_ += 0x9E3779B97F4A7C15;
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
    return bits ^ (bits >> 31);
  }
  /// Below a limit; 0 when the limit is.
  size_t below(size_t limit) { return limit == 0 ? 0 : static_cast<size_t>((*this)() % limit); }
  /// One in so many times.
  bool one_in(size_t count) { return below(count) == 0; }
  /// A number at or near the end of some range.
  uint64_t number();

 private:
  uint64_t state_;
};

/// One or more small changes to any bytes.
std::string mutate_bytes(std::string bytes, Random& random);

/// Replaces one decimal number of a text, or changes its bytes when there is none.
std::string mutate_decimal(std::string text, Random& random);

/// Overwrites one field, or a part of it, of a record.
template <class Record>
void mutate_record(Record& record, Random& random) {
  const size_t at = random.below(sizeof record);
  const uint64_t value = random.number();
  std::memcpy(reinterpret_cast<char*>(&record) + at, &value,
              std::min(sizeof record - at, size_t{1} << random.below(4)));
}

inline std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace camo::fuzz
