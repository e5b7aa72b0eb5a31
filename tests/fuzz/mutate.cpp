#include "tests/fuzz/mutate.h"

#include <iterator>
#include <vector>

namespace camo::fuzz {
namespace {

constexpr uint64_t kNumbers[] = {0,          1,          2,           3,          4,          5,
                                 7,          8,          9,           0x7f,       0x80,       0xff,
                                 0x100,      0x7fff,     0xffff,      0x10000,    0x7fffffff, 0x80000000,
                                 0xfffffffe, 0xffffffff, 0x100000000, 1ull << 61, 1ull << 62, (1ull << 63) - 1,
                                 1ull << 63, ~0ull - 1,  ~0ull};

}  // namespace

uint64_t Random::number() { return kNumbers[below(std::size(kNumbers))] + (one_in(4) ? below(3) : 0); }

std::string mutate_bytes(std::string bytes, Random& random) {
  const size_t changes = 1 + random.below(4);
  for (size_t i = 0; i < changes; ++i) {
    const size_t at = random.below(bytes.size() + 1);
    switch (random.below(6)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
        break;
      case 1:
        if (at < bytes.size()) bytes[at] = static_cast<char>(random());
        break;
      case 2: bytes.insert(at, 1 + random.below(8), static_cast<char>(random())); break;
      case 3: bytes.erase(at, 1 + random.below(16)); break;
      case 4: {
        const uint64_t value = random.number();
        const size_t width = size_t{1} << random.below(4);
        for (size_t b = 0; b < width && at + b < bytes.size(); ++b) bytes[at + b] = static_cast<char>(value >> (8 * b));
        break;
      }
      default: {
        const std::string piece = bytes.substr(random.below(bytes.size() + 1), 1 + random.below(32));
        bytes.insert(at, piece);
      }
    }
  }
  return bytes;
}

std::string mutate_decimal(std::string text, Random& random) {
  std::vector<size_t> starts;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_digit = text[i] >= '0' && text[i] <= '9', follows = i > 0 && text[i - 1] >= '0' && text[i - 1] <= '9';
    if (is_digit && !follows) starts.push_back(i);
  }
  if (starts.empty()) return mutate_bytes(std::move(text), random);
  const size_t begin = starts[random.below(starts.size())];
  const size_t end = std::min(text.find_first_not_of("0123456789", begin), text.size());
  return text.replace(begin, end - begin, std::to_string(random.number()));
}

}  // namespace camo::fuzz
