#include "core/tensor_file.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/pth/pth.h"
#include "core/safetensors.h"

namespace camo {

void TensorFile::read_into(size_t index, const Tensor& target) const { copy_into(target, read(index)); }

void TensorFile::read_pieces(size_t index, FunctionRef<void(std::span<const std::byte>)> take) const {
  const Tensor tensor = read(index);
  take({static_cast<const std::byte*>(tensor.raw_data()), tensors_[index].bytes()});
}

std::unique_ptr<TensorFile> open_tensor_file(InputFile file) {
  // PyTorch before 1.6 begins with this number as a pickle of its own.
  constexpr std::string_view kOldMagic = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
  std::array<char, 16> start{};
  const uint64_t bytes = std::min<uint64_t>(start.size(), file.bytes());
  file.read(start.data(), bytes, 0);
  const std::string_view head(start.data(), bytes);
  const auto refuse = [&](const char* what) {
    fail(ErrorCode::checkpoint, file.name(), ": must be a .safetensors file, or a .pth file of PyTorch 1.6 or newer; ",
         "got ", what);
  };
  const char* const resave = "; load and save it again with a newer PyTorch";
  if (head.starts_with("PK\x03\x04")) return std::make_unique<PthFile>(std::move(file));
  if (head.starts_with(kOldMagic)) refuse(concat_text("a file of PyTorch before 1.6", resave).c_str());
  if (head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) refuse("a bare pickle");
  if (head.starts_with("\x89HDF")) refuse("an HDF5 file");
  if (head.starts_with("\x1f\x8b")) refuse("a gzip file");
  if (head.empty()) refuse("an empty file");
  return std::make_unique<SafeTensorsFile>(std::move(file));
}

std::unique_ptr<TensorFile> open_tensor_file(const std::filesystem::path& path) {
  return open_tensor_file(InputFile(path));
}

}  // namespace camo
