// Changes that keep a file's structure, so that what lies behind checksums and lengths is reached.
#include <algorithm>
#include <cstring>
#include <random>

#include "core/error.h"
#include "core/pth/zip_archive.h"
#include "tests/fuzz/targets.h"
#include "tests/support/crafted_zip.h"

namespace camo::fuzz {
namespace {

using test::CraftedZip;
using Random = std::mt19937_64;

constexpr uint64_t kNumbers[] = {0,          1,          2,           3,          4,          5,
                                 7,          8,          9,           0x7f,       0x80,       0xff,
                                 0x100,      0x7fff,     0xffff,      0x10000,    0x7fffffff, 0x80000000,
                                 0xfffffffe, 0xffffffff, 0x100000000, 1ull << 61, 1ull << 62, (1ull << 63) - 1,
                                 1ull << 63, ~0ull - 1,  ~0ull};

size_t below(Random& random, size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(random() % limit); }
uint64_t number(Random& random) {
  return kNumbers[below(random, std::size(kNumbers))] + (random() % 4 == 0 ? random() % 3 : 0);
}

/// One or more small changes to any bytes.
std::string mutate_bytes(std::string bytes, Random& random) {
  const size_t changes = 1 + below(random, 4);
  for (size_t i = 0; i < changes; ++i) {
    const size_t at = below(random, bytes.size() + 1);
    switch (below(random, 6)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(random, 8)));
        break;
      case 1:
        if (at < bytes.size()) bytes[at] = static_cast<char>(random());
        break;
      case 2: bytes.insert(at, 1 + below(random, 8), static_cast<char>(random())); break;
      case 3: bytes.erase(at, 1 + below(random, 16)); break;
      case 4: {
        const uint64_t value = number(random);
        const size_t width = size_t{1} << below(random, 4);
        for (size_t b = 0; b < width && at + b < bytes.size(); ++b) bytes[at + b] = static_cast<char>(value >> (8 * b));
        break;
      }
      default: {
        const std::string piece = bytes.substr(below(random, bytes.size() + 1), 1 + below(random, 32));
        bytes.insert(at, piece);
      }
    }
  }
  return bytes;
}

/// Replaces one decimal number of a text.
std::string mutate_decimal(std::string text, Random& random) {
  std::vector<size_t> starts;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_digit = text[i] >= '0' && text[i] <= '9', follows = i > 0 && text[i - 1] >= '0' && text[i - 1] <= '9';
    if (is_digit && !follows) starts.push_back(i);
  }
  if (starts.empty()) return mutate_bytes(std::move(text), random);
  const size_t begin = starts[below(random, starts.size())];
  const size_t end = std::min(text.find_first_not_of("0123456789", begin), text.size());
  return text.replace(begin, end - begin, std::to_string(number(random)));
}

/// A pickle with one instruction's number changed, an instruction exchanged, or a piece repeated.
std::string mutate_pickle(std::string pickle, Random& random) {
  constexpr std::string_view kInstructions =
      "(N\x88\x89KMJ\x8aGX\x8c\x8d]})te\x85\x86\x87"
      "asuqr\x94hjc\x93\x95QR\x81"
      "b.";
  if (pickle.size() < 4) return mutate_bytes(std::move(pickle), random);
  const size_t at = 2 + below(random, pickle.size() - 3);
  switch (below(random, 4)) {
    case 0: {  // the next small number: an extent, a stride, an offset
      const size_t found = pickle.find('K', at);
      if (found == std::string::npos || found + 1 >= pickle.size()) break;
      const uint64_t value = number(random);
      return pickle.replace(found, 2,
                            value < 0x80000000 && random() % 2 == 0 ? "J" + test::raw(static_cast<uint32_t>(value))
                                                                    : "\x8a\x08" + test::raw(value));
    }
    case 1: pickle[at] = kInstructions[below(random, kInstructions.size())]; return pickle;
    case 2: {
      const std::string piece = pickle.substr(at, 1 + below(random, 64));
      const size_t times = 1 + below(random, random() % 16 == 0 ? 1000 : 3);
      for (size_t i = 0; i < times; ++i) pickle.insert(at, piece);
      return pickle;
    }
    default: break;
  }
  return mutate_bytes(std::move(pickle), random);
}

template <class Record>
void mutate_record(Record& record, Random& random) {
  std::string bytes(reinterpret_cast<const char*>(&record), sizeof record);
  const size_t at = below(random, bytes.size());
  const uint64_t value = number(random);
  const size_t width = std::min(bytes.size() - at, size_t{1} << below(random, 4));
  std::memcpy(bytes.data() + at, &value, width);
  std::memcpy(&record, bytes.data(), sizeof record);
}

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

std::string mutate_safetensors(const std::string& bytes, uint64_t seed) {
  Random random(seed);
  uint64_t length = 0;
  if (bytes.size() >= sizeof length) std::memcpy(&length, bytes.data(), sizeof length);
  if (bytes.size() < sizeof length || length > bytes.size() - sizeof length || random() % 8 == 0) {
    return mutate_bytes(bytes, random);
  }
  std::string json = bytes.substr(sizeof length, length), data = bytes.substr(sizeof length + length);
  if (random() % 4 == 0) data = mutate_bytes(data, random);
  else json = random() % 2 == 0 ? mutate_decimal(json, random) : mutate_bytes(json, random);
  return test::raw(static_cast<uint64_t>(json.size())) + json + data;
}

std::string mutate_pth(const std::string& bytes, uint64_t seed) {
  Random random(seed);
  if (random() % 8 == 0) return mutate_bytes(bytes, random);
  CraftedZip zip;
  try {
    const MemoryFile file(bytes_of(bytes));
    const detail::ZipArchive archive(file.path());
    for (const detail::ZipEntry& entry : archive.entries()) zip.add(entry.name, archive.read(entry));
  } catch (const Error&) {
    return mutate_bytes(bytes, random);
  }
  if (zip.entries.empty()) return mutate_bytes(bytes, random);
  size_t chosen = below(random, zip.entries.size());
  const uint64_t kind = random() % 8;
  if (kind < 4) {  // most of what there is to get wrong is in the pickle
    for (size_t i = 0; i < zip.entries.size(); ++i) {
      if (zip.entries[i].name.ends_with("data.pkl")) chosen = i;
    }
    zip.entries[chosen].data = mutate_pickle(zip.entries[chosen].data, random);
  } else if (kind == 4) {
    zip.entries[chosen].data = mutate_bytes(zip.entries[chosen].data, random);
  } else if (kind == 5) {
    if (random() % 2 == 0) zip.entries.erase(zip.entries.begin() + static_cast<std::ptrdiff_t>(chosen));
    else zip.add(zip.entries[chosen].name + (random() % 2 == 0 ? "" : "0"), zip.entries[chosen].data);
  }
  zip.has_zip64 = random() % 2 == 0;
  zip.layout();
  if (kind >= 6 && !zip.entries.empty()) {
    CraftedZip::Entry& entry = zip.entries[below(random, zip.entries.size())];
    switch (below(random, 5)) {
      case 0: mutate_record(entry.local, random); break;
      case 1: mutate_record(entry.central, random); break;
      case 2: mutate_record(zip.wide, random); break;
      case 3: mutate_record(zip.locator, random); break;
      default: mutate_record(zip.end, random);
    }
  }
  return zip.str();
}

}  // namespace camo::fuzz
