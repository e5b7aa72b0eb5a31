// A file that appears whole or not at all.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace camo {

/// Writes to a temporary file beside `path`; commit() syncs it, renames it to `path` and syncs the folder: `path` is
/// either the old or the whole new file. Without commit() nothing stays. A link to a file stays a link. What is no
/// regular file (/dev/stdout, a pipe) can't be replaced and is written at once. Errors are ErrorCode::checkpoint and
/// name the path and the reason.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit();

 private:
  [[noreturn]] void failed(const char* action) const;

  std::filesystem::path path_, folder_;
  bool in_place_;
  std::string temporary_;  // empty once there is none to remove
  int descriptor_ = -1;
};

/// A file of these bytes, the same way.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace camo
