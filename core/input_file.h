// A regular file opened for reading at any position, or bytes in memory in its place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace camo {

/// Errors are ErrorCode::checkpoint and name the path and the reason.
class InputFile {
 public:
  /// Refuses what is not a regular file.
  explicit InputFile(const std::filesystem::path& path);
  /// These bytes, which must outlive the file; `name` is for messages.
  InputFile(std::span<const uint8_t> bytes, std::string name);
  InputFile(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  InputFile& operator=(InputFile&&) = delete;
  ~InputFile();

  const std::string& name() const { return name_; }
  uint64_t bytes() const { return bytes_; }

  /// Exactly these bytes. Throws when the file ends before.
  void read(void* target, uint64_t bytes, uint64_t position) const;

 private:
  [[noreturn]] void failed(const char* action) const;

  std::string name_;
  int descriptor_ = -1;
  const uint8_t* memory_ = nullptr;  // used when there is no descriptor
  uint64_t bytes_ = 0;
};

}  // namespace camo
