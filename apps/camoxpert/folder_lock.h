// One process at a time writes to a folder.
#pragma once

#include <filesystem>

namespace camo::app {

/// Held until destruction or the end of the process, however it ends. Where the file system knows no locks, none is
/// held.
class FolderLock {
 public:
  /// Throws ErrorCode::usage, naming `flag`, when another process (or lock) holds the folder, which must exist.
  FolderLock(const char* flag, const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// Removes the temporary files that killed writers left in a folder; nothing when there is no folder. The caller holds
/// the lock.
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace camo::app
