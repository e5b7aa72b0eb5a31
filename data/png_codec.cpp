// PNG and BMP through stb_image and stb_image_write, after checks that stb leaves out: checksums, truncation, extents.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/crc32.h"
#include "core/error.h"
#include "data/codecs.h"

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_MAX_DIMENSIONS 32768
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace camo::detail {
namespace {

static_assert(STBI_MAX_DIMENSIONS == kMaxImageSide);

uint32_t big_endian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

int32_t little_endian(const uint8_t* bytes, int count) {
  uint32_t value = 0;
  for (int i = count - 1; i >= 0; --i) value = value << 8 | bytes[i];
  return static_cast<int32_t>(value);
}

// Every chunk up to IEND is there with the right checksum, and the picture is not too large. Returns the offsets of
// IDAT chunks without data: allowed, but stb copies them to a null pointer when they come first.
std::vector<size_t> check_png(std::span<const uint8_t> bytes, const std::string& name) {
  std::vector<size_t> empty;
  size_t at = 8;
  for (bool first = true;; first = false) {
    const bool has_header = bytes.size() - at >= 12;
    const size_t length = has_header ? big_endian(&bytes[at]) : 0;
    CAMO_CHECK_CODE(data, has_header && length <= bytes.size() - at - 12, name, ": the PNG is cut short at byte ",
                    bytes.size(), "; replace it");
    const auto type_and_body = bytes.subspan(at + 4, 4 + length);
    CAMO_CHECK_CODE(data, crc32(type_and_body.data(), type_and_body.size()) == big_endian(&bytes[at + 8 + length]),
                    name, ": the PNG is damaged: wrong checksum of the chunk at byte ", at, "; replace it");
    if (first) {
      CAMO_CHECK_CODE(data, std::memcmp(type_and_body.data(), "IHDR", 4) == 0 && length == 13, name,
                      ": the PNG is damaged: its first chunk must be IHDR; replace it");
      check_image_extent(big_endian(&type_and_body[4]), big_endian(&type_and_body[8]), name);
    }
    if (std::memcmp(type_and_body.data(), "IEND", 4) == 0) return empty;
    if (length == 0 && std::memcmp(type_and_body.data(), "IDAT", 4) == 0) empty.push_back(at);
    at += 12 + length;
  }
}

Image decode_with_stb(std::span<const uint8_t> bytes, const char* format, const std::string& name) {
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 0),
      stbi_image_free);
  CAMO_CHECK_CODE(data, pixels != nullptr, name, ": the ", format, " can't be decoded (", stbi_failure_reason(),
                  "); replace it");
  Image image(width, height, channels);
  std::copy_n(pixels.get(), image.pixels.size(), image.pixels.begin());
  return image;
}

}  // namespace

Image decode_png(std::span<const uint8_t> bytes, const std::string& name) {
  CAMO_CHECK_CODE(data, bytes.size() <= INT32_MAX, name, ": a PNG has at most 2 GiB; got ", bytes.size(), " bytes");
  const std::vector<size_t> empty = check_png(bytes, name);
  if (empty.empty()) return decode_with_stb(bytes, "PNG", name);
  constexpr size_t kChunkBytes = 12;
  std::vector<uint8_t> rest;
  size_t done = 0;
  for (const size_t at : empty) {
    rest.insert(rest.end(), bytes.begin() + static_cast<std::ptrdiff_t>(done),
                bytes.begin() + static_cast<std::ptrdiff_t>(at));
    done = at + kChunkBytes;
  }
  rest.insert(rest.end(), bytes.begin() + static_cast<std::ptrdiff_t>(done), bytes.end());
  return decode_with_stb(rest, "PNG", name);
}

Image decode_bmp(std::span<const uint8_t> bytes, const std::string& name) {
  CAMO_CHECK_CODE(data, bytes.size() >= 30 && bytes.size() <= INT32_MAX, name,
                  ": the BMP is cut short or larger than 2 GiB; got ", bytes.size(), " bytes; replace it");
  const bool old_header = little_endian(&bytes[14], 4) == 12;
  const int64_t width = old_header ? little_endian(&bytes[18], 2) : little_endian(&bytes[18], 4);
  const int64_t height = old_header ? little_endian(&bytes[20], 2) : little_endian(&bytes[22], 4);
  check_image_extent(width, std::abs(height), name);  // a negative height means rows from the top
  // stb reads zeros beyond the end: uncompressed rows (padded to 4 bytes) must all be there.
  const int64_t bits = little_endian(&bytes[old_header ? 24 : 28], 2);
  const int64_t row_bytes = (width * bits + 31) / 32 * 4;
  const int64_t offset = little_endian(&bytes[10], 4);
  CAMO_CHECK_CODE(data, offset + row_bytes * std::abs(height) <= static_cast<int64_t>(bytes.size()) && offset >= 0,
                  name, ": the BMP is cut short: ", offset + row_bytes * std::abs(height), " bytes expected, got ",
                  bytes.size(), "; replace it");
  return decode_with_stb(bytes, "BMP", name);
}

std::string encode_png_bytes(const Image& image) {
  std::string bytes;
  const auto append = [](void* out, void* block, int size) {
    static_cast<std::string*>(out)->append(static_cast<const char*>(block), static_cast<size_t>(size));
  };
  const int done = stbi_write_png_to_func(append, &bytes, image.width, image.height, image.channels,
                                          image.pixels.data(), static_cast<int>(image.row_bytes()));
  CAMO_CHECK(done != 0, "encode_png: out of memory for ", image.width, " x ", image.height, " pixels");
  return bytes;
}

}  // namespace camo::detail
