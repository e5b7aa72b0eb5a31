#include <algorithm>

#include "core/pth/pickle_tree.h"
#include "core/pth/pth.h"
#include "core/pth/zip_archive.h"

namespace camo {

using detail::PickledStorage;
using detail::PickledTensor;
using detail::PickleKind;
using detail::PickleValue;

namespace {

constexpr int kDeepest = 32;
constexpr uint64_t kMostVisited = 1'000'000;
constexpr uint64_t kMostTensors = 65'536;
constexpr uint64_t kMostNameBytes = uint64_t{8} << 20;
constexpr uint64_t kSpareBytes = uint64_t{16} << 20;
constexpr uint64_t kMostExpansion = 16;
constexpr std::string_view kPickleName = "data.pkl";

/// i32, i16 and i8 elements as i64.
template <class Stored>
Tensor widened(const Tensor& bytes, const Shape& shape, const Shape& strides) {
  const auto* stored = reinterpret_cast<const Stored*>(bytes.data<uint8_t>());
  const int64_t count = bytes.numel() / static_cast<int64_t>(sizeof(Stored));
  Tensor wide = empty({count}, i64, cpu);
  std::copy(stored, stored + count, wide.data<int64_t>());
  return clone(make_view(wide, shape, strides, 0));
}

void check_bools(const Tensor& x, const std::string& file, const std::string& name) {
  const auto* bytes = static_cast<const unsigned char*>(x.raw_data());
  const auto* wrong = std::find_if(bytes, bytes + x.numel(), [](unsigned char byte) { return byte > 1; });
  CAMO_CHECK_CODE(checkpoint, wrong == bytes + x.numel(), file, ": bool elements must be 0 or 1; got ", int{*wrong},
                  " in '", name, "', element ", wrong - bytes, " of its storage");
}

}  // namespace

PthFile::PthFile(InputFile file) : TensorFile(file), archive_(std::make_unique<detail::ZipArchive>(std::move(file))) {
  find_pickle();
  archive_->verify();
  tree_ = std::make_unique<detail::PickleTree>(archive_->read(*archive_->find(root_ + std::string(kPickleName))),
                                               archive_->file().name());
  check_storages();
  collect("", tree_->root(), 0);
}

PthFile::~PthFile() = default;

void PthFile::find_pickle() {
  const std::string& file = archive_->file().name();
  const detail::ZipEntry* pickle = nullptr;
  for (const detail::ZipEntry& entry : archive_->entries()) {
    const size_t slash = entry.name.find('/');
    if (slash == std::string::npos || std::string_view(entry.name).substr(slash + 1) != kPickleName) continue;
    CAMO_CHECK_CODE(checkpoint, pickle == nullptr, file, ": a .pth file has one ", kPickleName, "; got '", pickle->name,
                    "' and '", entry.name, "'");
    pickle = &entry;
  }
  CAMO_CHECK_CODE(checkpoint, pickle != nullptr, file, ": a .pth file is a ZIP archive with FOLDER/", kPickleName,
                  "; got an archive of ", archive_->entries().size(), " entries without it");
  root_ = pickle->name.substr(0, pickle->name.size() - kPickleName.size());
  CAMO_CHECK_CODE(checkpoint, archive_->find(root_ + "constants.pkl") == nullptr, file,
                  ": TorchScript archives are programs and can't be read; save the state dict with torch.save()");
  if (const detail::ZipEntry* order = archive_->find(root_ + "byteorder"); order != nullptr) {
    CAMO_CHECK_CODE(checkpoint, order->bytes == 6 && archive_->read(*order) == "little", file, ": ZIP, at byte ",
                    order->begin, ": the byte order must be little");
  }
}

std::string PthFile::storage_entry(std::string_view key) const { return concat_text(root_, "data/", key); }

void PthFile::check_storages() const {
  for (const PickledStorage& storage : tree_->storages()) {
    const std::string& file = archive_->file().name();
    const detail::ZipEntry* entry = archive_->find(storage_entry(storage.key));
    CAMO_CHECK_CODE(checkpoint, entry != nullptr, file, ": pickle, at byte ", storage.offset,
                    ": each storage has an entry in the archive; got none for '", storage.key, "'");
    const uint64_t bytes = storage.elements * storage.type->bytes;
    CAMO_CHECK_CODE(checkpoint, entry->bytes == bytes, file, ": pickle, at byte ", storage.offset, ": storage '",
                    storage.key, "' of ", storage.elements, " x ", storage.type->name, " needs ", bytes,
                    " bytes; its entry has ", entry->bytes);
  }
}

void PthFile::collect(const std::string& name, const PickleValue& value, int depth) {
  const std::string& file = archive_->file().name();
  CAMO_CHECK_CODE(checkpoint, depth <= kDeepest, file, ": dicts and lists may nest ", kDeepest, " deep; got more at '",
                  name.substr(0, 200), "'");
  CAMO_CHECK_CODE(checkpoint, ++visited_ <= kMostVisited, file, ": a file has at most ", kMostVisited,
                  " values, counting shared ones wherever they appear; got more");
  name_bytes_ += name.size();
  CAMO_CHECK_CODE(checkpoint, name_bytes_ <= kMostNameBytes, file, ": names must fit into ", kMostNameBytes >> 20,
                  " MB; got more");
  const auto child = [&](std::string_view key) {
    return name.empty() ? std::string(key) : concat_text(name, "/", key);
  };
  switch (value.kind) {
    case PickleKind::tensor: add_tensor(name, value); break;
    case PickleKind::dict: {
      const auto items = tree_->items(value);
      for (size_t i = 0; i < items.size(); i += 2) {
        const PickleValue& key = items[i];
        if (key.kind == PickleKind::text) collect(child(tree_->text(key)), items[i + 1], depth + 1);
        else if (key.kind == PickleKind::integer)
          collect(child(std::to_string(key.integer())), items[i + 1], depth + 1);
      }
      break;
    }
    case PickleKind::list:
    case PickleKind::tuple: {
      const auto items = tree_->items(value);
      for (size_t i = 0; i < items.size(); ++i) {
        const bool may_hold_tensors = items[i].kind >= PickleKind::list && items[i].kind <= PickleKind::tensor;
        if (may_hold_tensors) collect(child(std::to_string(i)), items[i], depth + 1);
      }
      break;
    }
    case PickleKind::boolean: metadata_[name] = value.data != 0 ? "true" : "false"; break;
    case PickleKind::integer: metadata_[name] = std::to_string(value.integer()); break;
    case PickleKind::real: metadata_[name] = concat_text(value.real()); break;
    case PickleKind::text: {
      constexpr size_t kShown = 1000;
      metadata_[name] = tree_->text(value).substr(0, kShown);
      break;
    }
    default: break;
  }
}

void PthFile::add_tensor(const std::string& name, const PickleValue& value) {
  const std::string& file = archive_->file().name();
  const PickledTensor& view = tree_->tensor(value);
  const detail::PickledType& type = *tree_->storage(view).type;
  const uint64_t file_bytes = archive_->file().bytes();
  const uint64_t bytes = std::max(static_cast<uint64_t>(view.shape.numel()), view.span) * type.bytes;
  CAMO_CHECK_CODE(checkpoint, bytes <= file_bytes + kSpareBytes, file, ": a tensor may have ", kSpareBytes >> 20,
                  " MB more than the file; got '", name, "' ", view.shape, ", an expanded view");
  tensor_bytes_ += bytes;
  CAMO_CHECK_CODE(checkpoint, tensor_bytes_ <= kMostExpansion * file_bytes + kSpareBytes, file,
                  ": the tensors together may have ", kMostExpansion, " times the bytes of the file; got more at '",
                  name, "'");
  CAMO_CHECK_CODE(checkpoint, tensors_.size() < kMostTensors, file, ": a file has at most ", kMostTensors,
                  " tensors; got more");
  tensors_.push_back({name, type.dtype, std::string(type.name), view.shape});
  views_.push_back(&view);
}

bool PthFile::is_stored_as_read(size_t index) const {
  const PickledTensor& view = *views_[index];
  return tree_->storage(view).type->bytes == static_cast<uint64_t>(size_in_bytes(tensors_[index].dtype)) &&
         view.span == static_cast<uint64_t>(view.shape.numel()) && view.strides == view.shape.contiguous_strides();
}

/// All elements from the first to the last.
void PthFile::read_span(size_t index, void* target) const {
  const PickledTensor& view = *views_[index];
  if (view.span == 0) return;
  const PickledStorage& storage = tree_->storage(view);
  const detail::ZipEntry* entry = archive_->find(storage_entry(storage.key));
  archive_->file().read(target, view.span * storage.type->bytes, entry->begin + view.begin * storage.type->bytes);
}

void PthFile::read_into(size_t index, const Tensor& target) const {
  if (!is_stored_as_read(index)) return TensorFile::read_into(index, target);
  read_span(index, target.raw_data());
  target.storage()->bump_version();
  if (target.dtype() == boolean) check_bools(target, archive_->file().name(), tensors_[index].name);
}

Tensor PthFile::read(size_t index) const {
  const TensorInfo& info = tensors_[index];
  if (is_stored_as_read(index)) {
    Tensor tensor = empty(info.shape, info.dtype, cpu);
    read_into(index, tensor);
    return tensor;
  }
  const PickledTensor& view = *views_[index];
  const uint64_t item = tree_->storage(view).type->bytes;
  if (view.span == 0) return empty(info.shape, info.dtype, cpu);
  if (info.dtype == i64 && item < sizeof(int64_t)) {
    const Tensor bytes = empty({static_cast<int64_t>(view.span * item)}, u8, cpu);
    read_span(index, bytes.raw_data());
    if (item == 4) return widened<int32_t>(bytes, view.shape, view.strides);
    return item == 2 ? widened<int16_t>(bytes, view.shape, view.strides)
                     : widened<int8_t>(bytes, view.shape, view.strides);
  }
  Tensor elements = empty({static_cast<int64_t>(view.span)}, info.dtype, cpu);
  read_span(index, elements.raw_data());
  if (info.dtype == boolean) check_bools(elements, archive_->file().name(), info.name);
  const Tensor shaped = make_view(elements, view.shape, view.strides, 0);
  return shaped.is_contiguous() ? shaped : clone(shaped);
}

}  // namespace camo
