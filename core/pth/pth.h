// The .pth files of PyTorch 1.6 and newer: a ZIP archive with one pickle and one entry per storage.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/tensor_file.h"

namespace camo {

namespace detail {
class ZipArchive;
class PickleTree;
struct PickledTensor;
struct PickleValue;
}  // namespace detail

/// Reads tensors at any depth of dicts and lists; keys on the way are joined by '/'. Views of any strides, shared
/// storages and all element types of the table in pickle_names.cpp are read; each tensor becomes a contiguous one of
/// its own. Nothing of the pickle is executed.
class PthFile : public TensorFile {
 public:
  /// Besides what open_tensor_file() says: the tensors together have at most 16 times the bytes of the file, and one
  /// has at most 16 MB more than it (expanded views could ask for any amount).
  explicit PthFile(InputFile file);
  ~PthFile() override;
  std::string format() const override { return "pth"; }
  Tensor read(size_t index) const override;
  void read_into(size_t index, const Tensor& target) const override;

 private:
  void find_pickle();
  void check_storages() const;
  void collect(const std::string& name, const detail::PickleValue& value, int depth);
  void add_tensor(const std::string& name, const detail::PickleValue& value);
  std::string storage_entry(std::string_view key) const;
  /// Whether a tensor's elements stand in the file as read() returns them.
  bool is_stored_as_read(size_t index) const;
  void read_span(size_t index, void* target) const;

  std::unique_ptr<detail::ZipArchive> archive_;
  std::unique_ptr<detail::PickleTree> tree_;
  std::string root_;                                          // folder in the archive, with a slash
  std::vector<const detail::PickledTensor*> views_;           // one per tensor
  uint64_t visited_ = 0, name_bytes_ = 0, tensor_bytes_ = 0;  // of collect()
};

/// What a .pth file can hold: nothing, a truth value, numbers, text, a tensor, or a dict of these.
struct PthItem;
using PthDict = std::vector<PthItem>;
struct PthValue {
  std::variant<std::monostate, bool, int64_t, double, std::string, Tensor, PthDict> value;
};
struct PthItem {
  PthItem(std::string key, PthValue item);
  std::string first;
  PthValue second;
};
inline PthItem::PthItem(std::string key, PthValue item) : first(std::move(key)), second(std::move(item)) {}

struct PthWriteOptions {
  uint64_t zip64_from = 0xffffffff;  // sizes and offsets from here on get ZIP64 fields
};

/// Writes what torch.load(weights_only=True) reads. Atomic; the same content gives the same bytes.
void write_pth(const std::filesystem::path& path, const PthDict& content, const PthWriteOptions& options = {});

}  // namespace camo
