// ZIP archives with every field open to change, for tests that damage them one by one.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/crc32.h"
#include "core/pth/zip_records.h"

namespace camo::test {

/// Add entries, call layout() to give all fields their right values, change some, and take the bytes.
struct CraftedZip {
  struct Entry {
    std::string name, data;
    detail::ZipLocalHeader local;
    detail::ZipCentralHeader central;
    std::string local_extra, central_extra;
  };
  std::vector<Entry> entries;
  std::string gap;              // in front of the directory
  std::string after_directory;  // part of the directory's size
  bool has_zip64 = false;
  detail::Zip64End wide;
  detail::Zip64Locator locator;
  detail::ZipEnd end;

  CraftedZip& add(std::string name, std::string data) {
    entries.push_back({std::move(name), std::move(data), {}, {}, {}, {}});
    return *this;
  }

  CraftedZip& layout() {
    uint64_t at = 0;
    for (Entry& entry : entries) {
      const uint32_t crc = crc32(entry.data.data(), entry.data.size());
      const auto bytes = static_cast<uint32_t>(entry.data.size());
      const auto name_bytes = static_cast<uint16_t>(entry.name.size());
      entry.local = {.crc = crc, .compressed_bytes = bytes, .bytes = bytes, .name_bytes = name_bytes};
      entry.local.extra_bytes = static_cast<uint16_t>(entry.local_extra.size());
      entry.central = {.crc = crc, .compressed_bytes = bytes, .bytes = bytes, .name_bytes = name_bytes};
      entry.central.extra_bytes = static_cast<uint16_t>(entry.central_extra.size());
      entry.central.header_offset = static_cast<uint32_t>(at);
      at += sizeof entry.local + entry.name.size() + entry.local_extra.size() + entry.data.size();
    }
    at += gap.size();
    const uint64_t begin = at;
    for (const Entry& entry : entries) at += sizeof entry.central + entry.name.size() + entry.central_extra.size();
    at += after_directory.size();
    const auto count = static_cast<uint16_t>(entries.size());
    wide = {.entries_here = count, .entries = count, .directory_bytes = at - begin, .directory_offset = begin};
    locator = {.end_offset = at};
    end = {.entries_here = count,
           .entries = count,
           .directory_bytes = static_cast<uint32_t>(at - begin),
           .directory_offset = static_cast<uint32_t>(begin)};
    return *this;
  }

  std::string str() const {
    std::string bytes;
    for (const Entry& entry : entries) {
      append(bytes, entry.local);
      bytes += entry.name + entry.local_extra + entry.data;
    }
    bytes += gap;
    for (const Entry& entry : entries) {
      append(bytes, entry.central);
      bytes += entry.name + entry.central_extra;
    }
    bytes += after_directory;
    if (has_zip64) {
      append(bytes, wide);
      append(bytes, locator);
    }
    append(bytes, end);
    return bytes;
  }

  template <class Record>
  static void append(std::string& out, const Record& record) {
    out.append(reinterpret_cast<const char*>(&record), sizeof record);
  }
};

/// An extra field of this id.
inline std::string extra_field(uint16_t id, const std::string& content) {
  std::string field;
  CraftedZip::append(field, detail::ZipExtraHeader{.id = id, .bytes = static_cast<uint16_t>(content.size())});
  return field + content;
}

/// A number as its bytes.
template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace camo::test
