#include "core/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "core/file_calls.h"
#include "core/safetensors.h"

namespace camo {

FileCalls& file_calls() {
  static FileCalls calls{
      .open = [](const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); },
      .write = ::write,
      .fsync = ::fsync,
      .close = ::close,
      .rename = std::rename,
  };
  return calls;
}

namespace {

namespace fs = std::filesystem;

/// A device, a pipe, or what these names stand for: nothing that a rename may take the place of.
bool is_no_plain_file(const fs::path& path) {
  const std::string name = path.string();
  if (name.starts_with("/dev/fd/") || name.starts_with("/dev/std") || name.starts_with("/proc/")) return true;
  std::error_code ignored;
  const fs::file_type type = fs::status(path, ignored).type();
  return type == fs::file_type::character || type == fs::file_type::block || type == fs::file_type::fifo;
}

fs::path behind_links(const fs::path& path) {
  std::error_code failed;
  if (!fs::is_symlink(path, failed)) return path;
  const fs::path target = fs::canonical(path, failed);
  return failed ? path : target;
}

}  // namespace

AtomicFile::AtomicFile(const fs::path& path)
    : path_(is_no_plain_file(path) ? path : behind_links(path)),
      folder_(path_.has_parent_path() ? path_.parent_path() : fs::path(".")),
      in_place_(is_no_plain_file(path)) {
  if (in_place_) {
    descriptor_ = file_calls().open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC, 0);
    if (descriptor_ < 0) failed("open it");
    return;
  }
  constexpr size_t kLongest = 200;  // of what file systems allow, 255, some bytes are left for the suffix
  const fs::path start = folder_ / path_.filename().string().substr(0, kLongest);
  static std::atomic<unsigned> counter{0};
  constexpr int kAttempts = 1000;  // names left behind by a process that died with our id are passed over
  for (int attempt = 0; attempt < kAttempts && descriptor_ < 0; ++attempt) {
    temporary_ = concat_text(start.string(), ".tmp-", int64_t{::getpid()}, "-", counter.fetch_add(1));
    descriptor_ = file_calls().open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) failed("open a temporary file");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) file_calls().close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::failed(const char* action) const {
  const int reason = errno;
  fail(ErrorCode::checkpoint, path_.string(), ": cannot ", action, ": ", std::strerror(reason),
       "; the file was not changed");
}

void AtomicFile::write(const void* data, size_t bytes) {
  constexpr size_t kLargest = size_t{1} << 30;  // the system writes at most 2 GiB a call
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = file_calls().write(descriptor_, next, std::min(bytes, kLargest));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) failed("write");
    next += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (file_calls().fsync(descriptor_) != 0 && !in_place_) failed("sync");  // pipes can't be synced
  const int closed = file_calls().close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) failed("close");
  if (in_place_) return;
  if (file_calls().rename(temporary_.c_str(), path_.c_str()) != 0) failed("rename");
  temporary_.clear();
  const int folder = file_calls().open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (folder < 0) return;  // the folder may be written but not read: the rename itself is done
  const int synced = file_calls().fsync(folder);
  const int reason = errno;
  file_calls().close(folder);
  CAMO_CHECK_CODE(checkpoint, synced == 0 || reason == EINVAL,  // EINVAL: a file system that syncs no folders
                  path_.string(), ": cannot sync its folder: ", std::strerror(reason),
                  "; the new file is whole, but a loss of power may bring the old one back");
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

}  // namespace camo
