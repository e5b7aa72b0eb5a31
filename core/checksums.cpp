#include "core/checksums.h"

#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/crc32c.h"
#include "core/parallel.h"

namespace camo {
namespace {

constexpr const char* kTensors = "checksums";           // a JSON object: name -> eight hexadecimal digits
constexpr const char* kMetadata = "checksum_metadata";  // of all other metadata

uint32_t text_checksum(std::string_view text, uint32_t crc = 0) { return crc32c(text.data(), text.size(), crc); }

std::string hexadecimal(uint32_t value) {
  char digits[8];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value, 16).ptr;
  const std::string text(digits, end);
  return std::string(sizeof(digits) - text.size(), '0') + text;
}

/// Of what stands in front of a tensor's bytes.
uint32_t head_checksum(const std::string& name, DType dtype, const Shape& shape) {
  return text_checksum(concat_text(name, " ", dtype, " ", shape));
}

std::string tensor_checksum(const std::string& name, const Tensor& tensor) {
  CAMO_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(),
             "checksums: tensors must be contiguous and on the CPU; got '", name, "' on ", tensor.device());
  return hexadecimal(crc32c(tensor.raw_data(), static_cast<size_t>(tensor.numel() * size_in_bytes(tensor.dtype())),
                            head_checksum(name, tensor.dtype(), tensor.shape())));
}

std::string tensor_checksum(const TensorFile& file, size_t index) {
  const TensorInfo& info = file.tensors()[index];
  uint32_t crc = head_checksum(info.name, info.dtype, info.shape);
  file.read_pieces(index, [&](std::span<const std::byte> piece) { crc = crc32c(piece.data(), piece.size(), crc); });
  return hexadecimal(crc);
}

std::string metadata_checksum(const std::map<std::string, std::string>& metadata) {
  uint32_t crc = 0;
  for (const auto& [key, value] : metadata) {
    if (key == kMetadata) continue;
    crc = text_checksum(concat_text(key, " ", value.size(), " "), crc);
    crc = text_checksum(value, crc);
  }
  return hexadecimal(crc);
}

/// Of all tensors, in their order.
std::vector<std::string> tensor_checksums(size_t count, const std::function<std::string(size_t)>& checksum_of) {
  std::vector<std::string> sums(count);
  parallel_for(static_cast<int64_t>(count), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] = checksum_of(static_cast<size_t>(i));
  });
  return sums;
}

std::vector<std::string> tensor_checksums(const SafeTensors& file) {
  return tensor_checksums(file.tensors.size(),
                          [&](size_t i) { return tensor_checksum(file.tensors[i].first, file.tensors[i].second); });
}

/// Compares with what the metadata say; compute() is called once they are known to be sound.
bool verify(const std::map<std::string, std::string>& metadata, const std::filesystem::path& path, size_t count,
            const std::function<const std::string&(size_t)>& name_of,
            const std::function<std::vector<std::string>()>& compute) {
  const auto stored = metadata.find(kTensors), own = metadata.find(kMetadata);
  if (stored == metadata.end() && own == metadata.end()) return false;
  CAMO_CHECK_CODE(checkpoint, stored != metadata.end() && own != metadata.end(), path.string(),
                  ": metadata must have both '", kTensors, "' and '", kMetadata, "', or neither; the file is damaged");
  CAMO_CHECK_CODE(checkpoint, own->second == metadata_checksum(metadata), path.string(),
                  ": the metadata do not have the checksum that was stored with them; the file is damaged");
  const nlohmann::json object = nlohmann::json::parse(stored->second, nullptr, false);
  CAMO_CHECK_CODE(checkpoint, object.is_object() && object.size() == count, path.string(),
                  ": must have one checksum for each of its ", count, " tensors; got ",
                  object.is_object() ? object.size() : 0);
  const std::vector<std::string> sums = compute();
  for (size_t i = 0; i < sums.size(); ++i) {
    const auto found = object.find(name_of(i));
    CAMO_CHECK_CODE(checkpoint, found != object.end() && *found == sums[i], path.string(), ": tensor '", name_of(i),
                    "' does not have the checksum that was stored with it; the file is damaged");
  }
  return true;
}

}  // namespace

void add_checksums(SafeTensors& file) {
  const std::vector<std::string> sums = tensor_checksums(file);
  nlohmann::json object = nlohmann::json::object();
  for (size_t i = 0; i < sums.size(); ++i) object[file.tensors[i].first] = sums[i];
  try {
    file.metadata[kTensors] = object.dump();
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::checkpoint, "add_checksums: names must be UTF-8; ", error.what());
  }
  file.metadata[kMetadata] = metadata_checksum(file.metadata);
}

bool verify_checksums(const SafeTensors& file, const std::filesystem::path& path) {
  return verify(
      file.metadata, path, file.tensors.size(), [&](size_t i) -> const std::string& { return file.tensors[i].first; },
      [&] { return tensor_checksums(file); });
}

bool verify_checksums(const TensorFile& file) {
  return verify(
      file.metadata(), file.path(), file.tensors().size(),
      [&](size_t i) -> const std::string& { return file.tensors()[i].name; },
      [&] { return tensor_checksums(file.tensors().size(), [&](size_t i) { return tensor_checksum(file, i); }); });
}

}  // namespace camo
