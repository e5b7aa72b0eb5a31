// A regular file opened for reading at any position.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace camo {

/// Errors are ErrorCode::checkpoint and name the path and the reason.
class InputFile {
 public:
  /// Refuses what is not a regular file.
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& name() const { return name_; }
  uint64_t bytes() const { return bytes_; }

  /// Exactly these bytes. Throws when the file ends before.
  void read(void* target, uint64_t bytes, uint64_t position) const;

 private:
  [[noreturn]] void failed(const char* action) const;

  std::string name_;
  int descriptor_ = -1;
  uint64_t bytes_ = 0;
};

}  // namespace camo
