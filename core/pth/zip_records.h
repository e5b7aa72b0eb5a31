// The records of a ZIP archive (APPNOTE 6.3.10), as they stand in the file.
#pragma once

#include <cstdint>

namespace camo::detail {

#pragma pack(push, 1)

struct ZipLocalHeader {
  static constexpr uint32_t kSignature = 0x04034b50;
  uint32_t signature = kSignature;
  uint16_t version_needed = 0, flags = 0, method = 0, time = 0, date = 0;
  uint32_t crc = 0, compressed_bytes = 0, bytes = 0;
  uint16_t name_bytes = 0, extra_bytes = 0;
};
static_assert(sizeof(ZipLocalHeader) == 30);

struct ZipCentralHeader {
  static constexpr uint32_t kSignature = 0x02014b50;
  uint32_t signature = kSignature;
  uint16_t version_made = 0, version_needed = 0, flags = 0, method = 0, time = 0, date = 0;
  uint32_t crc = 0, compressed_bytes = 0, bytes = 0;
  uint16_t name_bytes = 0, extra_bytes = 0, comment_bytes = 0, disk = 0, internal_attributes = 0;
  uint32_t external_attributes = 0, header_offset = 0;
};
static_assert(sizeof(ZipCentralHeader) == 46);

struct ZipEnd {
  static constexpr uint32_t kSignature = 0x06054b50;
  uint32_t signature = kSignature;
  uint16_t disk = 0, directory_disk = 0, entries_here = 0, entries = 0;
  uint32_t directory_bytes = 0, directory_offset = 0;
  uint16_t comment_bytes = 0;
};
static_assert(sizeof(ZipEnd) == 22);

struct Zip64Locator {
  static constexpr uint32_t kSignature = 0x07064b50;
  uint32_t signature = kSignature, disk = 0;
  uint64_t end_offset = 0;
  uint32_t disks = 1;
};
static_assert(sizeof(Zip64Locator) == 20);

struct Zip64End {
  static constexpr uint32_t kSignature = 0x06064b50;
  static constexpr uint64_t kRest = 44;  // bytes after record_bytes
  uint32_t signature = kSignature;
  uint64_t record_bytes = kRest;
  uint16_t version_made = 0, version_needed = 0;
  uint32_t disk = 0, directory_disk = 0;
  uint64_t entries_here = 0, entries = 0, directory_bytes = 0, directory_offset = 0;
};
static_assert(sizeof(Zip64End) == 56);

struct ZipExtraHeader {
  static constexpr uint16_t kZip64 = 1;
  uint16_t id = 0, bytes = 0;
};

#pragma pack(pop)

// A 16 or 32 bit field that holds this says "see the ZIP64 record".
inline constexpr uint16_t kZipWide16 = 0xffff;
inline constexpr uint32_t kZipWide32 = 0xffffffff;

inline constexpr uint16_t kZipFlagDescriptor = 1 << 3;  // checksum and sizes follow the data
inline constexpr uint16_t kZipFlagUtf8 = 1 << 11;
inline constexpr uint16_t kZipStored = 0;

}  // namespace camo::detail
