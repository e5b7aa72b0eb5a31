#include "core/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "core/atomic_file.h"
#include "core/safetensors_header.h"

namespace camo {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and copied as they are");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kLargestHeader = 100'000'000;

/// A regular file opened for reading.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path) : name_(path.string()) {
    descriptor_ =
        ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block before it is refused
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
  ~InputFile() { ::close(descriptor_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& name() const { return name_; }
  uint64_t bytes() const { return bytes_; }

  void read(void* target, uint64_t bytes, uint64_t position) const {
    constexpr uint64_t kLargest = uint64_t{1} << 30;  // the system reads at most 2 GiB a call
    char* next = static_cast<char*>(target);
    while (bytes > 0) {
      const ssize_t count = ::pread(descriptor_, next, std::min(bytes, kLargest), static_cast<off_t>(position));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) failed("read");
      CAMO_CHECK_CODE(checkpoint, count > 0, name_, ": ends at byte ", position,
                      "; it became shorter while it was read");
      next += count;
      position += static_cast<uint64_t>(count);
      bytes -= static_cast<uint64_t>(count);
    }
  }

 private:
  [[noreturn]] void failed(const char* action) const {
    fail(ErrorCode::checkpoint, name_, ": cannot ", action, ": ", std::strerror(errno));
  }

  std::string name_;
  int descriptor_ = -1;
  uint64_t bytes_ = 0;
};

/// Any other byte in a bool is undefined behaviour.
void check_bools(const Tensor& x, const std::string& name, const std::string& file) {
  const auto* bytes = static_cast<const unsigned char*>(x.raw_data());
  const auto* end = bytes + x.numel();
  const auto* wrong = std::find_if(bytes, end, [](unsigned char byte) { return byte > 1; });
  CAMO_CHECK_CODE(checkpoint, wrong == end, file, ": bool elements must be 0 or 1; got ", int{*wrong}, " in '", name,
                  "', element ", wrong - bytes);
}

}  // namespace

const Tensor* SafeTensors::find(const std::string& name) const {
  for (const auto& [own, tensor] : tensors) {
    if (own == name) return &tensor;
  }
  return nullptr;
}

const Tensor& SafeTensors::at(const std::string& name) const {
  const Tensor* tensor = find(name);
  CAMO_CHECK_CODE(checkpoint, tensor != nullptr, "safetensors: there is no tensor '", name, "' among ", tensors.size());
  return *tensor;
}

SafeTensors read_safetensors(const std::filesystem::path& path) {
  const InputFile file(path);
  CAMO_CHECK_CODE(checkpoint, file.bytes() >= kLengthBytes, file.name(),
                  ": a safetensors file begins with 8 bytes of header length; got ", file.bytes(), " bytes in all");
  uint64_t header_bytes = 0;
  file.read(&header_bytes, kLengthBytes, 0);
  CAMO_CHECK_CODE(checkpoint, header_bytes <= kLargestHeader, file.name(), ": the header must be at most ",
                  kLargestHeader, " bytes; got ", header_bytes, "; is this a safetensors file?");
  CAMO_CHECK_CODE(checkpoint, header_bytes <= file.bytes() - kLengthBytes, file.name(),
                  ": the header must end within the file; got ", header_bytes, " header bytes in a file of ",
                  file.bytes(), "; the file is cut or damaged");
  std::string json(header_bytes, '\0');
  file.read(json.data(), header_bytes, kLengthBytes);
  const uint64_t data_start = kLengthBytes + header_bytes;
  detail::SafeTensorsHeader header = detail::parse_safetensors_header(json, file.bytes() - data_start, file.name());

  SafeTensors content;
  content.metadata = std::move(header.metadata);
  content.tensors.reserve(header.entries.size());
  for (detail::SafeTensorsEntry& entry : header.entries) {
    Tensor tensor = empty(entry.shape, entry.dtype, cpu);
    file.read(tensor.raw_data(), entry.end - entry.begin, data_start + entry.begin);
    if (entry.dtype == boolean) check_bools(tensor, entry.name, file.name());
    content.tensors.emplace_back(std::move(entry.name), std::move(tensor));
  }
  return content;
}

void write_safetensors(const std::filesystem::path& path, const SafeTensors& content) {
  detail::SafeTensorsHeader header{.entries = {}, .metadata = content.metadata};
  uint64_t position = 0;
  for (const auto& [name, tensor] : content.tensors) {
    CAMO_CHECK_CODE(checkpoint, tensor.defined(), "write_safetensors: tensor '", name, "' is undefined");
    const auto bytes = static_cast<uint64_t>(tensor.numel() * size_in_bytes(tensor.dtype()));
    header.entries.push_back({name, tensor.dtype(), tensor.shape(), position, position + bytes});
    position += bytes;
  }
  std::string json = detail::write_safetensors_header(header);
  json.resize((json.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
  const uint64_t header_bytes = json.size();
  CAMO_CHECK_CODE(checkpoint, header_bytes <= kLargestHeader, "write_safetensors: the header must be at most ",
                  kLargestHeader, " bytes; got ", header_bytes, " for ", content.tensors.size(), " tensors");

  AtomicFile file(path);
  file.write(&header_bytes, kLengthBytes);
  file.write(json.data(), json.size());
  for (const auto& [name, tensor] : content.tensors) {
    Tensor bytes = tensor;
    if (!tensor.is_contiguous() || !tensor.device().is_cpu()) {
      bytes = empty(tensor.shape(), tensor.dtype(), cpu);
      copy_into(bytes, tensor);
    }
    file.write(bytes.raw_data(), static_cast<size_t>(bytes.numel() * size_in_bytes(bytes.dtype())));
  }
  file.commit();
}

}  // namespace camo
