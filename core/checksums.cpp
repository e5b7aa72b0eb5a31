#include "core/checksums.h"

#include <charconv>
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

std::string tensor_checksum(const std::string& name, const Tensor& tensor) {
  CAMO_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(),
             "checksums: tensors must be contiguous and on the CPU; got '", name, "' on ", tensor.device());
  const uint32_t head = text_checksum(concat_text(name, " ", tensor.dtype(), " ", tensor.shape()));
  return hexadecimal(
      crc32c(tensor.raw_data(), static_cast<size_t>(tensor.numel() * size_in_bytes(tensor.dtype())), head));
}

std::string metadata_checksum(const SafeTensors& file) {
  uint32_t crc = 0;
  for (const auto& [key, value] : file.metadata) {
    if (key == kMetadata) continue;
    crc = text_checksum(concat_text(key, " ", value.size(), " "), crc);
    crc = text_checksum(value, crc);
  }
  return hexadecimal(crc);
}

/// Of all tensors, in their order.
std::vector<std::string> tensor_checksums(const SafeTensors& file) {
  std::vector<std::string> sums(file.tensors.size());
  parallel_for(static_cast<int64_t>(sums.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [name, tensor] = file.tensors[static_cast<size_t>(i)];
      sums[static_cast<size_t>(i)] = tensor_checksum(name, tensor);
    }
  });
  return sums;
}

}  // namespace

void add_checksums(SafeTensors& file) {
  const std::vector<std::string> sums = tensor_checksums(file);
  nlohmann::json object = nlohmann::json::object();
  for (size_t i = 0; i < sums.size(); ++i) object[file.tensors[i].first] = sums[i];
  file.metadata[kTensors] = object.dump();
  file.metadata[kMetadata] = metadata_checksum(file);
}

bool verify_checksums(const SafeTensors& file, const std::filesystem::path& path) {
  const auto stored = file.metadata.find(kTensors), own = file.metadata.find(kMetadata);
  if (stored == file.metadata.end() && own == file.metadata.end()) return false;
  CAMO_CHECK_CODE(checkpoint, stored != file.metadata.end() && own != file.metadata.end(), path.string(),
                  ": metadata must have both '", kTensors, "' and '", kMetadata, "', or neither; the file is damaged");
  CAMO_CHECK_CODE(checkpoint, own->second == metadata_checksum(file), path.string(),
                  ": the metadata do not have the checksum that was stored with them; the file is damaged");
  const nlohmann::json object = nlohmann::json::parse(stored->second, nullptr, false);
  CAMO_CHECK_CODE(checkpoint, object.is_object() && object.size() == file.tensors.size(), path.string(),
                  ": must have one checksum for each of its ", file.tensors.size(), " tensors; got ",
                  object.is_object() ? object.size() : 0);
  const std::vector<std::string> sums = tensor_checksums(file);
  for (size_t i = 0; i < sums.size(); ++i) {
    const std::string& name = file.tensors[i].first;
    const auto found = object.find(name);
    CAMO_CHECK_CODE(checkpoint, found != object.end() && *found == sums[i], path.string(), ": tensor '", name,
                    "' does not have the checksum that was stored with it; the file is damaged");
  }
  return true;
}

}  // namespace camo
