// A file of named tensors, opened: what it holds is known and checked, the data are read when asked for. So a file can
// be loaded into a network with little more memory than the network itself.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/function_ref.h"
#include "core/input_file.h"
#include "core/tensor.h"

namespace camo {

struct TensorInfo {
  std::string name;         // groups are separated by '/': "model_state_dict/stem_0.weight"
  DType dtype = f32;        // of what read() returns
  std::string stored_type;  // in the file: also "i32", "i16" and "i8", which are read as i64
  Shape shape;

  /// Of what read() returns.
  uint64_t bytes() const { return static_cast<uint64_t>(shape.numel() * size_in_bytes(dtype)); }
};

class TensorFile {
 public:
  virtual ~TensorFile() = default;

  /// "safetensors" or "pth".
  virtual std::string format() const = 0;
  /// In file order; of a .pth in the order of its dicts.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// Texts and numbers besides the tensors, by the same kind of name.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }
  /// A contiguous tensor on the CPU.
  virtual Tensor read(size_t index) const = 0;
  /// The same into a contiguous tensor on the CPU of this shape and dtype.
  virtual void read_into(size_t index, const Tensor& target) const;
  /// Hands out the bytes that read() returns, in their order and a piece at a time.
  virtual void read_pieces(size_t index, FunctionRef<void(std::span<const std::byte>)> take) const;

 protected:
  explicit TensorFile(const InputFile& file) : path_(file.name()) {}

  std::filesystem::path path_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Opens a .safetensors or .pth file by its content, and checks all but the values of tensors: structure, sizes, and
/// the checksums of a .pth. Throws ErrorCode::checkpoint naming the file, the rule and the byte offset; files that
/// PyTorch wrote before version 1.6, TorchScript archives and others are refused by name.
std::unique_ptr<TensorFile> open_tensor_file(InputFile file);
std::unique_ptr<TensorFile> open_tensor_file(const std::filesystem::path& path);

}  // namespace camo
