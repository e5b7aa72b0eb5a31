// The safetensors file format (https://github.com/huggingface/safetensors): strict reading, atomic writing.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/input_file.h"
#include "core/tensor.h"
#include "core/tensor_file.h"

namespace camo {

/// Named tensors in file order, and the file's metadata.
struct SafeTensors {
  std::vector<std::pair<std::string, Tensor>> tensors;
  std::map<std::string, std::string> metadata;

  /// Null when there is no such tensor.
  const Tensor* find(const std::string& name) const;
  /// Throws ErrorCode::checkpoint naming the tensor when there is none.
  const Tensor& at(const std::string& name) const;
};

/// Reads F32, F64, F16, BF16, I64, U8 and BOOL tensors to the CPU. Header length, JSON, duplicate keys, dtypes, shapes,
/// offsets, overlaps, gaps and overflow are checked before any tensor is allocated; the header is at most 100 MB.
/// Errors are ErrorCode::checkpoint and name the file, the rule, and the tensor or byte offset.
SafeTensors read_safetensors(const std::filesystem::path& path);

/// The same file, its tensors read when asked for.
class SafeTensorsFile : public TensorFile {
 public:
  explicit SafeTensorsFile(InputFile file);
  std::string format() const override { return "safetensors"; }
  Tensor read(size_t index) const override;
  void read_into(size_t index, const Tensor& target) const override;
  void read_pieces(size_t index, FunctionRef<void(std::span<const std::byte>)> take) const override;

 private:
  InputFile file_;
  std::vector<uint64_t> begins_;  // of the data, in the file
};

/// Atomic (core/atomic_file.h). The same content gives the same bytes: tensors in the order given, metadata sorted by
/// key. Data are aligned to 8 bytes.
void write_safetensors(const std::filesystem::path& path, const SafeTensors& content);

}  // namespace camo
