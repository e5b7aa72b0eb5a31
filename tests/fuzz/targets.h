// What reads bytes from outside, one function per format: for libFuzzer, for the replay of the corpora in the tests,
// and for files mutated by structure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace camo::fuzz {

/// Runs over any bytes. Returns whether they were accepted; a typed error (camo::Error, or CLI11's for configurations)
/// is a refusal. Every other exception goes through, and is a finding as a crash is.
struct Target {
  std::string_view name;  // also of its folder in tests/fuzz/corpus
  bool (*run)(std::span<const uint8_t> bytes);
  /// A change that keeps the file's structure: checksums, lengths and offsets fit again more often than not. Null:
  /// none.
  std::string (*mutate)(const std::string& bytes, uint64_t seed);
};

/// safetensors, pth, checkpoint, configuration, picture.
const std::array<Target, 5>& targets();
const Target& target(std::string_view name);

/// A file in memory that exists while this lives.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const uint8_t> bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  int descriptor_;
  std::string path_;
};

std::string mutate_safetensors(const std::string& bytes, uint64_t seed);
std::string mutate_pth(const std::string& bytes, uint64_t seed);

}  // namespace camo::fuzz
