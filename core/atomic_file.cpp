#include "core/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "core/safetensors.h"

namespace camo {

AtomicFile::AtomicFile(const std::filesystem::path& path)
    : path_(path), folder_(path.has_parent_path() ? path.parent_path() : std::filesystem::path(".")) {
  static std::atomic<unsigned> counter{0};
  constexpr int kAttempts = 1000;  // names left behind by a process that died with our id are passed over
  for (int attempt = 0; attempt < kAttempts && descriptor_ < 0; ++attempt) {
    temporary_ = concat_text(path_.string(), ".tmp-", int64_t{::getpid()}, "-", counter.fetch_add(1));
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) failed("open a temporary file");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
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
    const ssize_t written = ::write(descriptor_, next, std::min(bytes, kLargest));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) failed("write");
    next += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) failed("sync");
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) failed("close");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) failed("rename");
  temporary_.clear();
  const int folder = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;  // the folder may be written but not read: the rename itself is done
  ::fsync(folder);
  ::close(folder);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

}  // namespace camo
