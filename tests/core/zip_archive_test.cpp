// ZIP archives that lie: each rule alone, with its offset.
#include "core/pth/zip_archive.h"

#include <fstream>

#include "core/crc32.h"
#include "tests/support/crafted_zip.h"
#include "tests/support/test_support.h"

namespace camo::detail {
namespace {

using test::CraftedZip;
using test::extra_field;
using test::raw;

class ZipFile : public ::testing::Test {
 protected:
  /// Two entries, laid out: "d/a" at byte 0 with 5 bytes of data, "d/b" at byte 38 with 3.
  static CraftedZip two() { return CraftedZip().add("d/a", "hello").add("d/b", "abc").layout(); }
  ZipArchive open(const std::string& bytes) const {
    const auto path = folder_.path() / "crafted.zip";
    std::ofstream(path, std::ios::binary) << bytes;
    return ZipArchive(InputFile(path));
  }
  ZipArchive open(const CraftedZip& zip) const { return open(zip.str()); }

  test::TemporaryFolder folder_;
};

TEST(Crc32, IsThatOfTheStandard) {
  EXPECT_EQ(crc32("123456789", 9), 0xCBF43926u);
  EXPECT_EQ(crc32("", 0), 0u);
  EXPECT_EQ(crc32("6789", 4, crc32("12345", 5)), 0xCBF43926u);
}

TEST_F(ZipFile, ReadsEntriesInOrder) {
  const ZipArchive archive = open(two());
  ASSERT_EQ(archive.entries().size(), 2u);
  EXPECT_EQ(archive.read(archive.entries()[0]), "hello");
  EXPECT_EQ(archive.read(*archive.find("d/b")), "abc");
  EXPECT_EQ(archive.find("d/c"), nullptr);
  archive.verify();
}

TEST_F(ZipFile, ReadsZip64AndGaps) {
  CraftedZip zip = two();
  zip.has_zip64 = true;
  zip.gap = std::string(100, '\0');
  zip.entries[1].central_extra =
      extra_field(7, "other") + extra_field(1, raw<uint64_t>(3) + raw<uint64_t>(3) + raw<uint64_t>(38));
  zip.layout();
  zip.entries[1].central.bytes = zip.entries[1].central.compressed_bytes = kZipWide32;
  zip.entries[1].central.header_offset = kZipWide32;
  zip.end.entries = zip.end.entries_here = kZipWide16;
  zip.end.directory_bytes = zip.end.directory_offset = kZipWide32;
  const ZipArchive archive = open(zip);
  EXPECT_EQ(archive.read(*archive.find("d/b")), "abc");
}

TEST_F(ZipFile, ReadsEntriesDescribedAfterTheirData) {
  CraftedZip zip = two();
  zip.entries[0].local.flags = zip.entries[0].central.flags = kZipFlagDescriptor | kZipFlagUtf8;
  zip.entries[0].local.bytes = zip.entries[0].local.compressed_bytes = zip.entries[0].local.crc = 0;
  EXPECT_EQ(open(zip).entries()[0].bytes, 5u);
}

TEST_F(ZipFile, ChecksTheEndRecord) {
  EXPECT_ERROR(open("PK"), "ZIP, at byte 0: an archive ends with a record of 22 bytes; got 2 bytes in all");
  EXPECT_ERROR(open(two().str() + "x"), "the archive must end with its end record and no comment");
  CraftedZip zip = two();
  zip.end.comment_bytes = 3;
  EXPECT_ERROR(open(zip), "the archive must have no comment; got 3 bytes");
  zip = two();
  zip.end.disk = 1;
  EXPECT_ERROR(open(zip), "archives in several parts are not supported");
  zip = two();
  zip.end.entries_here = 1;
  EXPECT_ERROR(open(zip), "archives in several parts are not supported");
  zip = two();
  zip.end.directory_offset -= 1;
  EXPECT_ERROR(open(zip),
               "ZIP, at byte 172: the directory must stand in front of the end record at byte 172; got [73, 171)");
  zip = two();
  zip.end.directory_bytes = 0xfffffffe;
  EXPECT_ERROR(open(zip), "the directory must stand in front of the end record");
}

TEST_F(ZipFile, ChecksCountsBeforeAllocating) {
  CraftedZip zip = two();
  zip.end.entries = zip.end.entries_here = 60000;
  EXPECT_ERROR(open(zip), "the entries must fit into the directory of 98 bytes and be at most 100000; got 60000");
  zip = two();
  zip.has_zip64 = true;
  zip.end.entries = zip.end.entries_here = kZipWide16;
  for (const uint64_t count : {uint64_t{1} << 62, ~uint64_t{0}, uint64_t{100'001}}) {
    zip.wide.entries = zip.wide.entries_here = count;
    EXPECT_ERROR(open(zip), "the entries must fit into the directory of 98 bytes and be at most 100000; got");
  }
  zip = two();
  zip.end.entries = zip.end.entries_here = 1;
  EXPECT_ERROR(open(zip), "ZIP, at byte 123: the directory must end with its last entry; got 49 bytes after 1 entries");
}

TEST_F(ZipFile, RefusesZip64Lies) {
  CraftedZip zip = two();
  zip.end.directory_offset = kZipWide32;
  EXPECT_ERROR(open(zip), "the end record refers to a ZIP64 record; there is none");
  const auto wide = [] {
    CraftedZip made = two();
    made.has_zip64 = true;
    return made;
  };
  zip = wide();
  zip.locator.end_offset -= 1;
  EXPECT_ERROR(open(zip), "the ZIP64 end record must stand in front of its locator; got the offset 171");
  zip = wide();
  zip.wide.record_bytes = uint64_t{1} << 40;
  EXPECT_ERROR(open(zip), "the ZIP64 end record must have its signature and 44 bytes");
  zip = wide();
  zip.wide.signature = 1;
  EXPECT_ERROR(open(zip), "the ZIP64 end record must have its signature");
  zip = wide();
  zip.wide.disk = 2;
  EXPECT_ERROR(open(zip), "archives in several parts are not supported");
  zip = wide();
  zip.wide.entries = zip.wide.entries_here = 1;
  EXPECT_ERROR(open(zip), "the ZIP64 end record must agree with the end record; got entries 1 and 2");
  zip = wide();
  zip.wide.directory_offset = 10;
  EXPECT_ERROR(open(zip), "must agree with the end record; got directory offset 10 and 74");
  zip = wide();
  zip.end.directory_offset = kZipWide32;
  zip.wide.directory_offset = uint64_t{1} << 63;
  EXPECT_ERROR(open(zip), "the directory must stand in front of the end record at byte 172");
  zip = wide();
  zip.end.directory_bytes = kZipWide32;
  zip.wide.directory_bytes = ~uint64_t{0};
  EXPECT_ERROR(open(zip), "the directory must stand in front of the end record at byte 172");
}

TEST_F(ZipFile, ChecksZip64Fields) {
  const auto with_extra = [](const std::string& extra, bool wide_size) {
    CraftedZip zip = two();
    zip.entries[0].central_extra = extra;
    zip.layout();
    if (wide_size) zip.entries[0].central.bytes = zip.entries[0].central.compressed_bytes = kZipWide32;
    return zip;
  };
  const std::string sizes = raw<uint64_t>(5) + raw<uint64_t>(5);
  EXPECT_EQ(open(with_extra(extra_field(1, sizes), true)).entries()[0].bytes, 5u);
  EXPECT_ERROR(open(with_extra("", true)), "the ZIP64 field must hold what the header leaves out for 'd/a'");
  EXPECT_ERROR(open(with_extra(extra_field(1, raw<uint64_t>(5)), true)), "must hold what the header leaves out");
  EXPECT_ERROR(open(with_extra(extra_field(1, sizes + sizes), true)), "and nothing else; got 16 bytes more for 'd/a'");
  EXPECT_ERROR(open(with_extra(extra_field(1, sizes), false)), "and nothing else; got 16 bytes more for 'd/a'");
  EXPECT_ERROR(open(with_extra(extra_field(1, sizes) + extra_field(1, sizes), true)), "one ZIP64 field at most");
  EXPECT_ERROR(open(with_extra(extra_field(1, raw<uint64_t>(5) + raw<uint64_t>(6)), true)),
               "a stored entry has one size; got 6 and 5 for 'd/a'");
  EXPECT_ERROR(open(with_extra(extra_field(1, raw(~uint64_t{0}) + raw(~uint64_t{0})), true)),
               "the entry and the directory must agree on size and checksum of 'd/a'");
  EXPECT_ERROR(open(with_extra("abc", false)), "extra fields must fill their space in 'd/a'");
  EXPECT_ERROR(open(with_extra(raw<uint16_t>(9) + raw<uint16_t>(9), false)), "extra fields must fill their space");
}

TEST_F(ZipFile, ChecksDirectoryEntries) {
  CraftedZip zip = two();
  zip.entries[1].central.signature = 0;
  EXPECT_ERROR(open(zip), "ZIP, at byte 123: a directory entry must have its signature");
  zip = two();
  zip.entries[1].central.name_bytes = 100;
  EXPECT_ERROR(open(zip), "the directory ends within an entry");
  zip = two();
  zip.entries[1].central.comment_bytes = 1;
  EXPECT_ERROR(open(zip), "the directory ends within an entry");
  zip = two();
  zip.entries[0].central.flags = 1;
  EXPECT_ERROR(open(zip), "encrypted, patched or hidden entries are not supported; got flags 1 for 'd/a'");
  zip = two();
  zip.entries[0].central.method = 8;
  EXPECT_ERROR(open(zip), "ZIP, at byte 74: entries must be stored; got compression method 8 for 'd/a'");
  zip = two();
  zip.entries[0].central.disk = 1;
  EXPECT_ERROR(open(zip), "archives in several parts are not supported");
  zip = two();
  zip.entries[0].central.compressed_bytes = 4;
  EXPECT_ERROR(open(zip), "a stored entry has one size; got 4 and 5 for 'd/a'");
  EXPECT_ERROR(open(CraftedZip().add("", "x").layout()), "names must have 1 to 1024 printable bytes; got 0");
  EXPECT_ERROR(open(CraftedZip().add(std::string("a\0b", 3), "x").layout()), "printable bytes");
  EXPECT_ERROR(open(CraftedZip().add(std::string(2000, 'a'), "x").layout()), "printable bytes; got 2000 bytes");
  EXPECT_ERROR(open(CraftedZip().add("a", "x").add("a", "y").layout()), "names must be unique; got 'a' twice");
}

TEST_F(ZipFile, ChecksLocalHeaders) {
  CraftedZip zip = two();
  zip.entries[1].local.signature = 0;
  EXPECT_ERROR(open(zip), "ZIP, at byte 38: 'd/b' must begin with the signature of an entry");
  zip = two();
  zip.entries[1].central.header_offset = 70;
  EXPECT_ERROR(open(zip), "ZIP, at byte 70: 'd/b' must begin in front of the directory at byte 74");
  zip = two();
  zip.entries[1].central.header_offset = 0xfffffff0;
  EXPECT_ERROR(open(zip), "'d/b' must begin in front of the directory");
  zip = two();
  zip.entries[0].local.name_bytes = 2;
  EXPECT_ERROR(open(zip), "must agree on the name; the directory says 'd/a'");
  std::string bytes = two().str();
  bytes[sizeof(ZipLocalHeader)] = 'e';
  EXPECT_ERROR(open(bytes), "ZIP, at byte 0: the entry and the directory must agree on the name");
  zip = two();
  zip.entries[0].local.flags = kZipFlagUtf8;
  EXPECT_ERROR(open(zip), "must agree on flags and compression of 'd/a'");
  zip = two();
  zip.entries[0].local.method = 8;
  EXPECT_ERROR(open(zip), "must agree on flags and compression of 'd/a'");
  zip = two();
  zip.entries[0].local.bytes = 4;
  EXPECT_ERROR(open(zip), "must agree on size and checksum of 'd/a'; got 4 and 5 bytes");
  zip = two();
  zip.entries[0].local.crc = 1;
  EXPECT_ERROR(open(zip), "must agree on size and checksum of 'd/a'");
  zip = two();
  zip.entries[0].local.bytes = zip.entries[0].local.compressed_bytes = kZipWide32;
  EXPECT_ERROR(open(zip), "the ZIP64 field must hold what the header leaves out for 'd/a'");
  zip = two();
  zip.entries[1].local.extra_bytes = 30;
  EXPECT_ERROR(open(zip),
               "the entry and the directory must agree on the name");  // the extra field ends behind the data
}

TEST_F(ZipFile, RefusesOverlaps) {
  CraftedZip zip = CraftedZip().add("d/a", "hello").add("d/a", "hello").layout();
  zip.entries[1].central.header_offset = 0;  // two names for one entry would count its data twice
  EXPECT_ERROR(open(zip), "ZIP, at byte 0: entries must not overlap; got 'd/a' inside of 'd/a', which ends at byte 38");
  zip = two();
  zip.entries[0].local.bytes = zip.entries[0].local.compressed_bytes = 20;
  zip.entries[0].central.bytes = zip.entries[0].central.compressed_bytes = 20;
  EXPECT_ERROR(open(zip),
               "ZIP, at byte 38: entries must not overlap; got 'd/b' inside of 'd/a', which ends at byte 53");
  zip = two();
  zip.entries[1].local.bytes = zip.entries[1].local.compressed_bytes = 4;
  zip.entries[1].central.bytes = zip.entries[1].central.compressed_bytes = 4;
  EXPECT_ERROR(open(zip), "'d/b' must end in front of the directory at byte 74; got 4 bytes from byte 71");
}

TEST_F(ZipFile, VerifiesChecksums) {
  std::string bytes = two().str();
  bytes[71] = 'x';
  const ZipArchive archive = open(bytes);
  EXPECT_ERROR(archive.verify(), "ZIP, at byte 71: the checksum of 'd/b' is");
}

}  // namespace
}  // namespace camo::detail
