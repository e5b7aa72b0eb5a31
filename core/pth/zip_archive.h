// Reading ZIP archives as PyTorch writes them: stored entries, ZIP64. Strict: whatever two readers could understand
// differently is refused.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/input_file.h"

namespace camo::detail {

struct ZipEntry {
  std::string name;
  uint64_t header = 0;  // offset of the local header in the file
  uint64_t begin = 0;   // offset of the data
  uint64_t bytes = 0;
  uint32_t crc = 0;
};

class ZipArchive {
 public:
  /// Reads the directory and the header of every entry. Counts and sizes are checked against the file's size before
  /// anything is allocated for them; the two directories and all headers must agree; nothing may overlap. Errors are
  /// ErrorCode::checkpoint and name the file, the rule and the byte offset.
  explicit ZipArchive(InputFile file);

  const InputFile& file() const { return file_; }
  /// In the order of their data.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// Null when there is no such entry.
  const ZipEntry* find(const std::string& name) const;

  /// All bytes of an entry.
  std::string read(const ZipEntry& entry) const;
  /// Reads every entry once and compares the checksums.
  void verify() const;

 private:
  InputFile file_;
  std::vector<ZipEntry> entries_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace camo::detail
