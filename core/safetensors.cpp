#include "core/safetensors.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/atomic_file.h"
#include "core/safetensors_header.h"

namespace camo {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and copied as they are");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kLargestHeader = 100'000'000;

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

SafeTensorsFile::SafeTensorsFile(InputFile file) : TensorFile(file), file_(std::move(file)) {
  CAMO_CHECK_CODE(checkpoint, file_.bytes() >= kLengthBytes, file_.name(),
                  ": a safetensors file begins with 8 bytes of header length; got ", file_.bytes(), " bytes in all");
  uint64_t header_bytes = 0;
  file_.read(&header_bytes, kLengthBytes, 0);
  CAMO_CHECK_CODE(checkpoint, header_bytes <= kLargestHeader, file_.name(), ": the header must be at most ",
                  kLargestHeader, " bytes; got ", header_bytes, "; is this a safetensors file?");
  CAMO_CHECK_CODE(checkpoint, header_bytes <= file_.bytes() - kLengthBytes, file_.name(),
                  ": the header must end within the file; got ", header_bytes, " header bytes in a file of ",
                  file_.bytes(), "; the file is cut or damaged");
  std::string json(header_bytes, '\0');
  file_.read(json.data(), header_bytes, kLengthBytes);
  const uint64_t data_start = kLengthBytes + header_bytes;
  detail::SafeTensorsHeader header = detail::parse_safetensors_header(json, file_.bytes() - data_start, file_.name());
  metadata_ = std::move(header.metadata);
  for (detail::SafeTensorsEntry& entry : header.entries) {
    begins_.push_back(data_start + entry.begin);
    tensors_.push_back({std::move(entry.name), entry.dtype, std::string(name(entry.dtype)), entry.shape});
  }
}

Tensor SafeTensorsFile::read(size_t index) const {
  const TensorInfo& info = tensors_[index];
  Tensor tensor = empty(info.shape, info.dtype, cpu);
  read_into(index, tensor);
  return tensor;
}

void SafeTensorsFile::read_into(size_t index, const Tensor& target) const {
  const TensorInfo& info = tensors_[index];
  file_.read(target.raw_data(), info.bytes(), begins_[index]);
  target.storage()->bump_version();
  if (info.dtype == boolean) check_bools(target, info.name, file_.name());
}

void SafeTensorsFile::read_pieces(size_t index, FunctionRef<void(std::span<const std::byte>)> take) const {
  constexpr uint64_t kPieceBytes = uint64_t{256} << 10;  // stays in a second-level cache
  const uint64_t bytes = tensors_[index].bytes();
  std::vector<std::byte> piece(std::min(bytes, kPieceBytes));
  for (uint64_t done = 0; done < bytes; done += kPieceBytes) {
    const uint64_t count = std::min(bytes - done, kPieceBytes);
    file_.read(piece.data(), count, begins_[index] + done);
    take({piece.data(), count});
  }
}

SafeTensors read_safetensors(const std::filesystem::path& path) {
  const SafeTensorsFile file{InputFile(path)};
  SafeTensors content{.tensors = {}, .metadata = file.metadata()};
  content.tensors.reserve(file.tensors().size());
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    content.tensors.emplace_back(file.tensors()[i].name, file.read(i));
  }
  return content;
}

std::string detail::safetensors_head(const SafeTensors& content) {
  SafeTensorsHeader header{.entries = {}, .metadata = content.metadata};
  uint64_t position = 0;
  for (const auto& [name, tensor] : content.tensors) {
    CAMO_CHECK_CODE(checkpoint, tensor.defined(), "write_safetensors: tensor '", name, "' is undefined");
    const auto bytes = static_cast<uint64_t>(tensor.numel() * size_in_bytes(tensor.dtype()));
    header.entries.push_back({name, tensor.dtype(), tensor.shape(), position, position + bytes});
    position += bytes;
  }
  std::string json = write_safetensors_header(header);
  json.resize((json.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
  const uint64_t header_bytes = json.size();
  CAMO_CHECK_CODE(checkpoint, header_bytes <= kLargestHeader, "write_safetensors: the header must be at most ",
                  kLargestHeader, " bytes; got ", header_bytes, " for ", content.tensors.size(), " tensors");
  return std::string(reinterpret_cast<const char*>(&header_bytes), kLengthBytes) + json;
}

void write_safetensors(const std::filesystem::path& path, const SafeTensors& content) {
  const std::string head = detail::safetensors_head(content);
  AtomicFile file(path);
  file.write(head.data(), head.size());
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
