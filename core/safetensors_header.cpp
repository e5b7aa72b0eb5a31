#include "core/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

namespace camo::detail {
namespace {

constexpr std::array<std::pair<const char*, DType>, 7> kDTypes{
    {{"F32", f32}, {"F64", f64}, {"F16", f16}, {"BF16", bf16}, {"I64", i64}, {"U8", u8}, {"BOOL", boolean}}};
constexpr const char* kMetadata = "__metadata__";

/// Follows the only structure a header may have, token by token, so that nothing is built for what is refused:
///   { "NAME": { "dtype": string, "shape": [..], "data_offsets": [..] }, "__metadata__": { string: string } }
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  SafeTensorsHeader header;

  bool key(string_t& key) override {
    CAMO_ASSERT(place_ == Place::file || place_ == Place::tensor || place_ == Place::metadata);
    auto& seen = place_ == Place::file ? names_ : fields_;
    if (!seen.insert(key).second) refuse("keys must be unique; got '", key, "' twice", where());
    if (place_ == Place::file) name_ = key;
    else field_ = key;
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::file;
    } else if (place_ == Place::file) {
      fields_.clear();
      place_ = name_ == kMetadata ? Place::metadata : Place::tensor;
      entry_ = {};
      dtype_.reset();
      shape_.reset();
      offsets_.reset();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::file ? Place::outside : Place::file;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::tensor || (field_ != "shape" && field_ != "data_offsets")) unexpected("an array");
    place_ = Place::array;
    (field_ == "shape" ? shape_ : offsets_).emplace();
    return true;
  }

  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::array) unexpected("a number");
    auto& list = field_ == "shape" ? *shape_ : *offsets_;
    if (list.size() >= Shape::kMaxDims) refuse("at most 8 dimensions are supported; got more", where());
    list.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) header.metadata[field_] = value;
    else if (place_ == Place::tensor && field_ == "dtype") dtype_ = value;
    else unexpected("a string");
    return true;
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool number_integer(number_integer_t value) override { unexpected(concat_text("the negative number ", value)); }
  bool number_float(number_float_t, const string_t& digits) override {
    unexpected("the number " + digits + ", not a whole number of 64 bits,");
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) override {
    refuse("the header must be JSON; at byte ", position, ": ", error.what());
  }

 private:
  enum class Place { outside, file, tensor, metadata, array };

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(ErrorCode::checkpoint, file_, ": ", parts...);
  }
  [[noreturn]] void unexpected(const std::string& what) const {
    if (place_ == Place::outside) refuse("the header must be one JSON object; got ", what);
    if (place_ == Place::metadata) refuse("metadata values must be strings; got ", what, where());
    if (place_ == Place::array) refuse(field_, " must be a list of whole numbers; got ", what, where());
    refuse("a tensor has a dtype (string), shape and data_offsets (lists) and nothing else; got ", what, where());
  }
  std::string where() const {
    if (place_ == Place::outside || name_.empty()) return {};
    return concat_text(" at '", name_, "'", field_.empty() || place_ == Place::file ? "" : ", " + field_);
  }

  void finish_tensor() {
    field_.clear();
    if (!dtype_ || !shape_ || !offsets_ || fields_.size() != 3) {
      refuse("a tensor has exactly dtype, shape and data_offsets; '", name_, "' has not");
    }
    entry_.name = name_;
    const auto* known =
        std::find_if(kDTypes.begin(), kDTypes.end(), [&](const auto& pair) { return *dtype_ == pair.first; });
    if (known == kDTypes.end()) {
      refuse("the dtype must be one of F32, F64, F16, BF16, I64, U8, BOOL; got ", *dtype_, " for '", name_, "'");
    }
    entry_.dtype = known->second;
    if (offsets_->size() != 2) {
      refuse("data_offsets must be [begin, end]; got ", offsets_->size(), " numbers for '", name_, "'");
    }
    entry_.begin = (*offsets_)[0];
    entry_.end = (*offsets_)[1];
    check_size();
    header.entries.push_back(std::move(entry_));
  }

  void check_size() {
    constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    uint64_t span = static_cast<uint64_t>(size_in_bytes(entry_.dtype));  // bytes, taking extents of 0 for 1
    bool is_empty = false;
    for (const uint64_t extent : *shape_) {
      if (extent > kLargest || __builtin_mul_overflow(span, std::max<uint64_t>(extent, 1), &span) || span > kLargest) {
        refuse("the size of '", name_, "' overflows 64 bits");
      }
      is_empty |= extent == 0;
      entry_.shape.push_back(static_cast<int64_t>(extent));
    }
    const uint64_t bytes = is_empty ? 0 : span;
    if (entry_.end < entry_.begin || entry_.end - entry_.begin != bytes) {
      refuse("data_offsets must span the tensor's size; got [", entry_.begin, ", ", entry_.end, "] for '", name_, "', ",
             *dtype_, " ", entry_.shape, ", ", bytes, " bytes");
    }
  }

  const std::string& file_;
  Place place_ = Place::outside;
  std::string name_, field_;
  std::unordered_set<std::string> names_, fields_;
  SafeTensorsEntry entry_;
  std::optional<std::string> dtype_;
  std::optional<std::vector<uint64_t>> shape_, offsets_;
};

}  // namespace

SafeTensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_bytes, const std::string& file) {
  CAMO_CHECK_CODE(checkpoint, !json.empty() && json.front() == '{', file, ": the header must begin with '{'");
  HeaderReader reader(file);
  const bool parsed = nlohmann::json::sax_parse(json, &reader);
  CAMO_ASSERT(parsed);
  auto& entries = reader.header.entries;
  std::stable_sort(entries.begin(), entries.end(), [](const SafeTensorsEntry& a, const SafeTensorsEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const SafeTensorsEntry& entry : entries) {
    CAMO_CHECK_CODE(checkpoint, entry.end <= data_bytes, file, ": data of '", entry.name,
                    "' must end within the file's ", data_bytes, " data bytes; got [", entry.begin, ", ", entry.end,
                    "]; the file is cut or damaged");
    CAMO_CHECK_CODE(checkpoint, entry.begin == covered, file, ": tensors must follow each other without ",
                    entry.begin < covered ? "overlap" : "gap", "; got '", entry.name, "' at data byte ", entry.begin,
                    " after byte ", covered);
    covered = entry.end;
  }
  CAMO_CHECK_CODE(checkpoint, covered == data_bytes, file, ": the tensors must cover the file; got ",
                  data_bytes - covered, " bytes after the last tensor");
  return std::move(reader.header);
}

std::string write_safetensors_header(const SafeTensorsHeader& header) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) json[kMetadata] = header.metadata;
  std::unordered_set<std::string> names{kMetadata};
  for (const SafeTensorsEntry& entry : header.entries) {
    CAMO_CHECK_CODE(checkpoint, names.insert(entry.name).second,
                    "write_safetensors: tensor names must be unique and not ", kMetadata, "; got '", entry.name, "'");
    const auto* known =
        std::find_if(kDTypes.begin(), kDTypes.end(), [&](const auto& pair) { return entry.dtype == pair.second; });
    json.push_back({entry.name,
                    {{"dtype", known->first},
                     {"shape", std::vector<int64_t>(entry.shape.begin(), entry.shape.end())},
                     {"data_offsets", {entry.begin, entry.end}}}});
  }
  try {
    return json.dump();
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::checkpoint, "write_safetensors: names and metadata must be UTF-8; ", error.what());
  }
}

}  // namespace camo::detail
