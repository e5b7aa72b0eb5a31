// A restricted reader of Python pickles: just enough for what torch.save() writes of state dicts. Nothing is ever
// executed: the names of functions select one of a few constructions known here, or are refused.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace camo::detail {

enum class PickleKind : uint8_t {
  none,
  boolean,
  integer,
  real,
  text,
  list,
  tuple,
  dict,
  storage,
  tensor,
  global,
  other
};

/// A value on the pickle machine's stack. Texts, containers, storages and tensors are kept by the tree.
struct PickleValue {
  PickleKind kind = PickleKind::none;
  uint32_t bytes = 0;  // of a text
  uint64_t data = 0;   // the number itself; of a text its offset in the pickle; otherwise an index

  int64_t integer() const { return static_cast<int64_t>(data); }
  double real() const { return std::bit_cast<double>(data); }
};

/// Element type of a storage. i32, i16 and i8 have no counterpart here: their tensors become i64.
struct PickledType {
  std::string_view storage;  // "torch.FloatStorage"
  std::string_view name;     // "f32"
  DType dtype;
  uint64_t bytes;
};

struct PickledStorage {
  std::string_view key;  // name of its entry in the archive
  const PickledType* type = nullptr;
  uint64_t elements = 0;
  uint64_t offset = 0;  // where the pickle names it
};

/// A strided view of a storage; all its elements lie within.
struct PickledTensor {
  uint64_t storage = 0;  // index
  uint64_t begin = 0;    // the first element, in the storage
  uint64_t span = 0;     // elements from the first to the last, inclusive; 0 for an empty tensor
  Shape shape, strides;
};

class PickleTree {
 public:
  /// Protocols 2 to 5. `file` is for messages. Throws ErrorCode::checkpoint naming the file, the rule and the byte
  /// offset in the pickle. What is built takes at most 16 MB besides the pickle itself.
  PickleTree(std::string pickle, std::string file);
  PickleTree(const PickleTree&) = delete;
  PickleTree& operator=(const PickleTree&) = delete;

  const PickleValue& root() const { return root_; }
  std::string_view text(const PickleValue& value) const {
    return std::string_view(pickle_).substr(value.data, value.bytes);
  }
  /// Of a list or tuple its items, of a dict keys and values in turn.
  std::span<const PickleValue> items(const PickleValue& value) const { return containers_[value.data]; }
  const PickledTensor& tensor(const PickleValue& value) const { return tensors_[value.data]; }
  const PickledStorage& storage(const PickledTensor& tensor) const { return storages_[tensor.storage]; }
  const std::vector<PickledStorage>& storages() const { return storages_; }

 private:
  friend class PickleMachine;

  std::string pickle_, file_;
  PickleValue root_;
  std::vector<std::vector<PickleValue>> containers_;
  std::vector<PickledStorage> storages_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace camo::detail
