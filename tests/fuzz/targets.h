// What reads bytes from outside, one target per format: for libFuzzer, for the replay of the corpora in the tests,
// and for files mutated by structure. Each is reached through memory: files would take most of the time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace camo::fuzz {

struct Target {
  std::string_view name;  // also of its folder in tests/fuzz/corpus
  /// Runs over any bytes. Returns whether they were accepted; a typed error (camo::Error, or CLI11's for
  /// configurations) is a refusal. Every other exception goes through, and is a finding as a crash is.
  bool (*run)(std::span<const uint8_t> bytes);
  /// A change that keeps the file's structure: checksums, lengths and offsets fit again more often than not.
  std::string (*mutate)(const std::string& bytes, uint64_t seed);
};

Target safetensors_target();
Target pth_target();
Target checkpoint_target();
Target configuration_target();
Target picture_target();

}  // namespace camo::fuzz
