#include "core/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace camo {

InputFile::InputFile(const std::filesystem::path& path) : name_(path.string()) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block before it is refused
  if (descriptor_ < 0) failed("open");
  struct stat status {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    fail(ErrorCode::checkpoint, name_, ": must be a file; got ",
         known && S_ISDIR(status.st_mode) ? "a folder" : "something else");
  }
  bytes_ = static_cast<uint64_t>(status.st_size);
}

InputFile::InputFile(std::span<const uint8_t> bytes, std::string name)
    : name_(std::move(name)), memory_(bytes.data()), bytes_(bytes.size()) {}

InputFile::InputFile(InputFile&& other) noexcept
    : name_(std::move(other.name_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      memory_(other.memory_),
      bytes_(other.bytes_) {}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void InputFile::read(void* target, uint64_t bytes, uint64_t position) const {
  if (descriptor_ < 0) {
    CAMO_CHECK_CODE(checkpoint, position <= bytes_ && bytes <= bytes_ - position, name_, ": ends at byte ", bytes_,
                    "; got ", bytes, " bytes to read at byte ", position);
    if (bytes > 0) std::memcpy(target, memory_ + position, bytes);
    return;
  }
  constexpr uint64_t kLargest = uint64_t{1} << 30;  // the system reads at most 2 GiB a call
  char* next = static_cast<char*>(target);
  while (bytes > 0) {
    const ssize_t count = ::pread(descriptor_, next, std::min(bytes, kLargest), static_cast<off_t>(position));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) failed("read");
    CAMO_CHECK_CODE(checkpoint, count > 0, name_, ": ends at byte ", position, "; it became shorter while it was read");
    next += count;
    position += static_cast<uint64_t>(count);
    bytes -= static_cast<uint64_t>(count);
  }
}

void InputFile::failed(const char* action) const {
  fail(ErrorCode::checkpoint, name_, ": cannot ", action, ": ", std::strerror(errno));
}

}  // namespace camo
