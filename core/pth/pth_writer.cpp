#include <algorithm>
#include <bit>
#include <cstring>

#include "core/atomic_file.h"
#include "core/crc32.h"
#include "core/pth/pth.h"
#include "core/pth/zip_records.h"

namespace camo {
namespace {

using namespace detail;

constexpr uint64_t kAlignment = 64;      // of every entry's data, as PyTorch does
constexpr uint16_t kPaddingId = 0x4246;  // "FB", PyTorch's
constexpr uint16_t kVersion = 45;        // the first with ZIP64
const std::string kFolder = "archive/";

const char* storage_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return "FloatStorage";
    case DType::f64: return "DoubleStorage";
    case DType::f16: return "HalfStorage";
    case DType::bf16: return "BFloat16Storage";
    case DType::i64: return "LongStorage";
    case DType::u8: return "ByteStorage";
    default: return "BoolStorage";
  }
}

/// The pickle of the content in protocol 2, and the tensors it names, in the order of their numbers.
class PickleWriter {
 public:
  std::string pickle;
  Tensors tensors;

  explicit PickleWriter(const PthDict& content) {
    pickle = "\x80\x02";
    add_dict("", content);
    pickle += '.';
  }

 private:
  template <class T>
  void add_number(char instruction, T value) {
    pickle += instruction;
    pickle.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void add_whole(int64_t value) {
    if (value >= 0 && value < 256) return add_number('K', static_cast<uint8_t>(value));
    if (value == static_cast<int32_t>(value)) return add_number('J', static_cast<int32_t>(value));
    pickle += "\x8a\x08";
    pickle.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void add_text(const std::string& text) {
    add_number('X', static_cast<uint32_t>(text.size()));
    pickle += text;
  }
  void add_shape(const Shape& shape) {
    pickle += '(';
    for (const int64_t extent : shape) add_whole(extent);
    pickle += 't';
  }
  void add_tensor(const std::string& name, const Tensor& tensor) {
    CAMO_CHECK_CODE(checkpoint, tensor.defined(), "write_pth: tensor '", name, "' is undefined");
    pickle += "ctorch._utils\n_rebuild_tensor_v2\n((";
    add_text("storage");
    pickle += concat_text("ctorch\n", storage_type(tensor.dtype()), "\n");
    add_text(std::to_string(tensors.size()));
    add_text("cpu");
    add_whole(tensor.numel());
    pickle += "tQ";
    add_whole(0);
    add_shape(tensor.shape());
    Shape strides = Shape::filled(tensor.dims(), 1);
    for (int i = tensor.dims() - 2; i >= 0; --i)
      strides[i] = strides[i + 1] * std::max<int64_t>(tensor.shape()[i + 1], 1);
    add_shape(strides);
    pickle += "\x89";  // requires_grad
    pickle += "ccollections\nOrderedDict\n)RtR";
    tensors.push_back(tensor);
  }
  /// A dict that holds tensors is an OrderedDict, as Module.state_dict() returns it.
  void add_dict(const std::string& name, const PthDict& dict) {
    const bool is_state = std::ranges::any_of(dict, [](const auto& item) { return holds<Tensor>(item.second); });
    pickle += is_state ? "ccollections\nOrderedDict\n)R" : "}";
    pickle += '(';
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : dict) {
      keys.push_back(key);
      add_text(key);
      add(name.empty() ? key : concat_text(name, "/", key), value);
    }
    pickle += 'u';
    std::ranges::sort(keys);
    const auto twice = std::ranges::adjacent_find(keys);
    CAMO_CHECK_CODE(checkpoint, twice == keys.end(), "write_pth: keys must be unique; got '", *twice, "' twice");
  }
  void add(const std::string& name, const PthValue& item) {
    if (const auto* dict = std::get_if<PthDict>(&item.value)) add_dict(name, *dict);
    else if (const auto* tensor = std::get_if<Tensor>(&item.value)) add_tensor(name, *tensor);
    else if (const auto* text = std::get_if<std::string>(&item.value)) add_text(*text);
    else if (const auto* whole = std::get_if<int64_t>(&item.value)) add_whole(*whole);
    else if (const auto* real = std::get_if<double>(&item.value))
      add_number('G', __builtin_bswap64(std::bit_cast<uint64_t>(*real)));
    else if (const auto* truth = std::get_if<bool>(&item.value)) pickle += *truth ? '\x88' : '\x89';
    else pickle += 'N';
  }
  template <class T>
  static bool holds(const PthValue& item) {
    return std::holds_alternative<T>(item.value);
  }
};

/// Writes entries one after the other, then the directory.
class ZipWriter {
 public:
  ZipWriter(AtomicFile& file, uint64_t wide_from) : file_(file), wide_from_(wide_from) {}

  void add(const std::string& name, const void* data, uint64_t bytes) {
    const bool wide_size = bytes >= wide_from_, wide_offset = at_ >= wide_from_;
    const uint32_t crc = crc32(data, bytes);
    const uint32_t plain_size = wide_size ? kZipWide32 : static_cast<uint32_t>(bytes);
    const uint64_t header_offset = at_;

    std::string extra = wide_size ? wide_field({bytes, bytes}) : "";
    const uint64_t unpadded = at_ + sizeof(ZipLocalHeader) + name.size() + extra.size() + sizeof(ZipExtraHeader);
    const auto padding = static_cast<uint16_t>((kAlignment - unpadded % kAlignment) % kAlignment);
    extra += extra_field(kPaddingId, std::string(padding, 'Z'));
    write(ZipLocalHeader{.version_needed = kVersion,
                         .flags = kZipFlagUtf8,
                         .crc = crc,
                         .compressed_bytes = plain_size,
                         .bytes = plain_size,
                         .name_bytes = static_cast<uint16_t>(name.size()),
                         .extra_bytes = static_cast<uint16_t>(extra.size())});
    write(name);
    write(extra);
    write(data, bytes);

    std::string wide;
    if (wide_size && wide_offset) wide = wide_field({bytes, bytes, header_offset});
    else if (wide_size) wide = wide_field({bytes, bytes});
    else if (wide_offset) wide = wide_field({header_offset});
    append(directory_,
           ZipCentralHeader{.version_made = kVersion,
                            .version_needed = kVersion,
                            .flags = kZipFlagUtf8,
                            .crc = crc,
                            .compressed_bytes = plain_size,
                            .bytes = plain_size,
                            .name_bytes = static_cast<uint16_t>(name.size()),
                            .extra_bytes = static_cast<uint16_t>(wide.size()),
                            .header_offset = wide_offset ? kZipWide32 : static_cast<uint32_t>(header_offset)});
    directory_ += name + wide;
    ++entries_;
  }

  void finish() {
    const uint64_t begin = at_, bytes = directory_.size();
    write(directory_);
    const bool wide = entries_ >= kZipWide16 || begin >= wide_from_ || bytes >= wide_from_;
    if (wide) {
      const uint64_t end = at_;
      write(Zip64End{.version_made = kVersion,
                     .version_needed = kVersion,
                     .entries_here = entries_,
                     .entries = entries_,
                     .directory_bytes = bytes,
                     .directory_offset = begin});
      write(Zip64Locator{.end_offset = end});
    }
    const uint16_t count = wide ? kZipWide16 : static_cast<uint16_t>(entries_);
    write(ZipEnd{.entries_here = count,
                 .entries = count,
                 .directory_bytes = wide ? kZipWide32 : static_cast<uint32_t>(bytes),
                 .directory_offset = wide ? kZipWide32 : static_cast<uint32_t>(begin)});
  }

 private:
  template <class Record>
  static void append(std::string& out, const Record& record) {
    out.append(reinterpret_cast<const char*>(&record), sizeof record);
  }
  static std::string extra_field(uint16_t id, const std::string& content) {
    std::string field;
    append(field, ZipExtraHeader{.id = id, .bytes = static_cast<uint16_t>(content.size())});
    return field + content;
  }
  static std::string wide_field(std::initializer_list<uint64_t> values) {
    std::string content;
    for (const uint64_t value : values) append(content, value);
    return extra_field(ZipExtraHeader::kZip64, content);
  }
  void write(const void* data, uint64_t bytes) {
    file_.write(data, bytes);
    at_ += bytes;
  }
  void write(const std::string& text) { write(text.data(), text.size()); }
  template <class Record>
  void write(const Record& record) {
    write(&record, sizeof record);
  }

  AtomicFile& file_;
  uint64_t wide_from_;
  uint64_t at_ = 0, entries_ = 0;
  std::string directory_;
};

}  // namespace

void write_pth(const std::filesystem::path& path, const PthDict& content, const PthWriteOptions& options) {
  const PickleWriter writer(content);
  AtomicFile file(path);
  ZipWriter zip(file, options.zip64_from);
  const auto add_text = [&](const std::string& name, const std::string& text) {
    zip.add(kFolder + name, text.data(), text.size());
  };
  add_text("data.pkl", writer.pickle);
  add_text("byteorder", "little");
  for (size_t i = 0; i < writer.tensors.size(); ++i) {
    Tensor tensor = writer.tensors[i];
    if (!tensor.is_contiguous() || !tensor.device().is_cpu()) {
      tensor = empty(tensor.shape(), tensor.dtype(), cpu);
      copy_into(tensor, writer.tensors[i]);
    }
    zip.add(concat_text(kFolder, "data/", i), tensor.raw_data(),
            static_cast<uint64_t>(tensor.numel() * size_in_bytes(tensor.dtype())));
  }
  add_text("version", "3\n");
  zip.finish();
  file.commit();
}

}  // namespace camo
