#include "core/pth/zip_archive.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "core/crc32.h"
#include "core/error.h"
#include "core/pth/zip_records.h"

namespace camo::detail {
namespace {

static_assert(std::endian::native == std::endian::little, "ZIP records are little-endian, and copied as they are");

constexpr uint64_t kMostEntries = 100'000;
constexpr uint64_t kLongestName = 1024;
constexpr size_t kReadBytes = size_t{1} << 20;

struct Span {
  uint64_t begin = 0, end = 0, count = 0;
};

/// Reads the directory of one file, and refuses with its name and an offset.
class DirectoryReader {
 public:
  explicit DirectoryReader(const InputFile& file) : file_(file) {}

  std::vector<ZipEntry> read() {
    const Span directory = find_directory();
    std::string text(directory.end - directory.begin, '\0');
    file_.read(text.data(), text.size(), directory.begin);
    std::vector<ZipEntry> entries;
    entries.reserve(directory.count);
    uint64_t at = 0;
    while (entries.size() < directory.count) entries.push_back(read_entry(text, at, directory));
    if (at != text.size()) {
      refuse(directory.begin + at, "the directory must end with its last entry; got ", text.size() - at,
             " bytes after ", directory.count, " entries");
    }
    std::stable_sort(entries.begin(), entries.end(),
                     [](const ZipEntry& a, const ZipEntry& b) { return a.header < b.header; });
    for (size_t i = 1; i < entries.size(); ++i) {
      const ZipEntry &before = entries[i - 1], &entry = entries[i];
      if (entry.header < before.begin + before.bytes) {
        refuse(entry.header, "entries must not overlap; got '", entry.name, "' inside of '", before.name,
               "', which ends at byte ", before.begin + before.bytes);
      }
    }
    return entries;
  }

 private:
  // By value: fields of packed records are not aligned, and references to them are undefined behaviour.
  template <class... Parts>
  [[noreturn]] void refuse(uint64_t offset, Parts... parts) const {
    fail(ErrorCode::checkpoint, file_.name(), ": ZIP, at byte ", offset, ": ", parts...);
  }

  template <class Record>
  Record record_at(uint64_t offset) const {
    Record record;
    file_.read(&record, sizeof record, offset);
    return record;
  }

  Span find_directory() const {
    if (file_.bytes() < sizeof(ZipEnd)) {
      refuse(0, "an archive ends with a record of ", sizeof(ZipEnd), " bytes; got ", file_.bytes(), " bytes in all");
    }
    const uint64_t at = file_.bytes() - sizeof(ZipEnd);
    const auto end = record_at<ZipEnd>(at);
    if (end.signature != ZipEnd::kSignature) {
      refuse(at,
             "the archive must end with its end record and no comment; got something else; the file is cut or "
             "damaged");
    }
    if (end.comment_bytes != 0) refuse(at, "the archive must have no comment; got ", end.comment_bytes, " bytes");
    if (end.disk != 0 || end.directory_disk != 0 || end.entries_here != end.entries) {
      refuse(at, "archives in several parts are not supported");
    }
    Span directory{end.directory_offset, uint64_t{end.directory_offset} + end.directory_bytes, end.entries};
    uint64_t limit = at;  // where the directory must end
    const bool has_locator = at >= sizeof(Zip64Locator) &&
                             record_at<Zip64Locator>(at - sizeof(Zip64Locator)).signature == Zip64Locator::kSignature;
    if (has_locator) {
      directory = read_zip64(at - sizeof(Zip64Locator), end, limit);
    } else if (end.entries == kZipWide16 || end.directory_bytes == kZipWide32 || end.directory_offset == kZipWide32) {
      refuse(at, "the end record refers to a ZIP64 record; there is none");
    }
    if (directory.begin > directory.end || directory.end != limit) {
      refuse(at, "the directory must stand in front of the end record at byte ", limit, "; got [", directory.begin,
             ", ", directory.end, ")");
    }
    if (directory.count > kMostEntries ||
        directory.count * sizeof(ZipCentralHeader) > directory.end - directory.begin) {
      refuse(at, "the entries must fit into the directory of ", directory.end - directory.begin,
             " bytes and be at most ", kMostEntries, "; got ", directory.count);
    }
    return directory;
  }

  Span read_zip64(uint64_t locator_at, const ZipEnd& end, uint64_t& limit) const {
    const auto locator = record_at<Zip64Locator>(locator_at);
    if (locator_at < sizeof(Zip64End) || locator.end_offset != locator_at - sizeof(Zip64End)) {
      refuse(locator_at, "the ZIP64 end record must stand in front of its locator; got the offset ",
             locator.end_offset);
    }
    const uint64_t at = locator.end_offset;
    const auto wide = record_at<Zip64End>(at);
    if (wide.signature != Zip64End::kSignature || wide.record_bytes != Zip64End::kRest) {
      refuse(at, "the ZIP64 end record must have its signature and ", Zip64End::kRest, " bytes; got ",
             wide.record_bytes, " bytes");
    }
    if (locator.disk != 0 || locator.disks > 1 || wide.disk != 0 || wide.directory_disk != 0 ||
        wide.entries_here != wide.entries) {
      refuse(at, "archives in several parts are not supported");
    }
    const auto check = [&](uint64_t value, uint64_t plain, uint64_t wide_mark, const char* what) {
      if (plain != wide_mark && plain != value) {
        refuse(at, "the ZIP64 end record must agree with the end record; got ", what, " ", value, " and ", plain);
      }
    };
    check(wide.entries, end.entries, kZipWide16, "entries");
    check(wide.directory_bytes, end.directory_bytes, kZipWide32, "directory bytes");
    check(wide.directory_offset, end.directory_offset, kZipWide32, "directory offset");
    if (wide.directory_offset > at || wide.directory_bytes > at - wide.directory_offset) {
      refuse(at, "the directory must stand in front of the end record at byte ", at, "; got ", wide.directory_bytes,
             " bytes at byte ", wide.directory_offset);
    }
    limit = at;
    return {wide.directory_offset, wide.directory_offset + wide.directory_bytes, wide.entries};
  }

  ZipEntry read_entry(const std::string& text, uint64_t& at, const Span& directory) {
    const uint64_t here = directory.begin + at;
    ZipCentralHeader header;
    if (text.size() - at < sizeof header) refuse(here, "the directory ends within an entry");
    std::memcpy(&header, text.data() + at, sizeof header);
    if (header.signature != ZipCentralHeader::kSignature) refuse(here, "a directory entry must have its signature");
    at += sizeof header;
    const uint64_t rest = uint64_t{header.name_bytes} + header.extra_bytes + header.comment_bytes;
    if (text.size() - at < rest) refuse(here, "the directory ends within an entry");
    ZipEntry entry;
    entry.name = text.substr(at, header.name_bytes);
    check_name(entry.name, here);
    if ((header.flags & ~(kZipFlagDescriptor | kZipFlagUtf8)) != 0) {
      refuse(here, "encrypted, patched or hidden entries are not supported; got flags ", header.flags, " for '",
             entry.name, "'");
    }
    if (header.method != kZipStored) {
      refuse(here, "entries must be stored; got compression method ", header.method, " for '", entry.name,
             "'; PyTorch compresses nothing but the programs of TorchScript, which can't be read");
    }
    if (header.disk != 0) refuse(here, "archives in several parts are not supported");
    uint64_t compressed = header.compressed_bytes;
    entry.bytes = header.bytes;
    entry.header = header.header_offset;
    entry.crc = header.crc;
    take_wide(std::string_view(text).substr(at + header.name_bytes, header.extra_bytes), here, entry.name,
              {&entry.bytes, &compressed, &entry.header});
    if (compressed != entry.bytes) {
      refuse(here, "a stored entry has one size; got ", compressed, " and ", entry.bytes, " for '", entry.name, "'");
    }
    at += rest;
    read_local_header(entry, header.flags, directory.begin);
    return entry;
  }

  void check_name(const std::string& name, uint64_t offset) const {
    const bool printable =
        std::all_of(name.begin(), name.end(), [](unsigned char c) { return c >= 0x20 && c != '\\' && c != 0x7f; });
    if (name.empty() || name.size() > kLongestName || !printable) {
      refuse(offset, "names must have 1 to ", kLongestName, " printable bytes; got ", name.size(), " bytes");
    }
  }

  /// Replaces the values that say "see the ZIP64 field" by those of the field; it must hold these, in their order, and
  /// no others.
  void take_wide(std::string_view extra, uint64_t offset, const std::string& name,
                 std::initializer_list<uint64_t*> values) const {
    std::string_view wide;
    bool found = false;
    while (!extra.empty()) {
      ZipExtraHeader header;
      if (extra.size() >= sizeof header) std::memcpy(&header, extra.data(), sizeof header);
      if (extra.size() < sizeof header + header.bytes)
        refuse(offset, "extra fields must fill their space in '", name, "'");
      if (header.id == ZipExtraHeader::kZip64) {
        if (found) refuse(offset, "one ZIP64 field at most; got two for '", name, "'");
        found = true;
        wide = extra.substr(sizeof header, header.bytes);
      }
      extra.remove_prefix(sizeof header + header.bytes);
    }
    for (uint64_t* value : values) {
      if (*value != kZipWide32) continue;
      if (wide.size() < sizeof *value) {
        refuse(offset, "the ZIP64 field must hold what the header leaves out for '", name, "'");
      }
      std::memcpy(value, wide.data(), sizeof *value);
      wide.remove_prefix(sizeof *value);
    }
    if (!wide.empty()) {
      refuse(offset, "the ZIP64 field must hold what the header leaves out and nothing else; got ", wide.size(),
             " bytes more for '", name, "'");
    }
  }

  void read_local_header(ZipEntry& entry, uint16_t flags, uint64_t data_end) const {
    const uint64_t at = entry.header;
    ZipLocalHeader header;
    if (at > data_end || data_end - at < sizeof header + entry.name.size()) {
      refuse(at, "'", entry.name, "' must begin in front of the directory at byte ", data_end);
    }
    header = record_at<ZipLocalHeader>(at);
    if (header.signature != ZipLocalHeader::kSignature) {
      refuse(at, "'", entry.name, "' must begin with the signature of an entry");
    }
    std::string rest;  // name and extra fields
    if (header.name_bytes == entry.name.size() &&
        data_end - at - sizeof header >= uint64_t{header.name_bytes} + header.extra_bytes) {
      rest.resize(size_t{header.name_bytes} + header.extra_bytes);
      file_.read(rest.data(), rest.size(), at + sizeof header);
    }
    if (!std::string_view(rest).starts_with(entry.name)) {
      refuse(at, "the entry and the directory must agree on the name; the directory says '", entry.name, "'");
    }
    if (header.flags != flags || header.method != kZipStored) {
      refuse(at, "the entry and the directory must agree on flags and compression of '", entry.name, "'");
    }
    uint64_t bytes = header.bytes, compressed = header.compressed_bytes;
    if (bytes == kZipWide32 || compressed == kZipWide32) {
      take_wide(std::string_view(rest).substr(entry.name.size()), at, entry.name, {&bytes, &compressed});
    }
    const bool described_later = (flags & kZipFlagDescriptor) != 0 && header.crc == 0 && bytes == 0 && compressed == 0;
    if (!described_later && (header.crc != entry.crc || bytes != entry.bytes || compressed != entry.bytes)) {
      refuse(at, "the entry and the directory must agree on size and checksum of '", entry.name, "'; got ", bytes,
             " and ", entry.bytes, " bytes, checksums ", header.crc, " and ", entry.crc);
    }
    entry.begin = at + sizeof header + header.name_bytes + header.extra_bytes;
    if (entry.begin > data_end || entry.bytes > data_end - entry.begin) {
      refuse(at, "'", entry.name, "' must end in front of the directory at byte ", data_end, "; got ", entry.bytes,
             " bytes from byte ", entry.begin);
    }
  }

  const InputFile& file_;
};

}  // namespace

ZipArchive::ZipArchive(InputFile file) : file_(std::move(file)) {
  entries_ = DirectoryReader(file_).read();
  for (size_t i = 0; i < entries_.size(); ++i) {
    CAMO_CHECK_CODE(checkpoint, by_name_.emplace(entries_[i].name, i).second, file_.name(), ": ZIP, at byte ",
                    entries_[i].header, ": names must be unique; got '", entries_[i].name, "' twice");
  }
}

const ZipEntry* ZipArchive::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

std::string ZipArchive::read(const ZipEntry& entry) const {
  std::string bytes(entry.bytes, '\0');
  file_.read(bytes.data(), entry.bytes, entry.begin);
  return bytes;
}

void ZipArchive::verify() const {
  std::vector<char> buffer(std::min<uint64_t>(kReadBytes, file_.bytes()));
  for (const ZipEntry& entry : entries_) {
    uint32_t crc = 0;
    for (uint64_t done = 0; done < entry.bytes;) {
      const uint64_t count = std::min<uint64_t>(buffer.size(), entry.bytes - done);
      file_.read(buffer.data(), count, entry.begin + done);
      crc = crc32(buffer.data(), count, crc);
      done += count;
    }
    CAMO_CHECK_CODE(checkpoint, crc == entry.crc, file_.name(), ": ZIP, at byte ", entry.begin, ": the checksum of '",
                    entry.name, "' is ", crc, ", the directory says ", entry.crc, "; the file is damaged");
  }
}

}  // namespace camo::detail
