#include "data/image.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/atomic_file.h"
#include "core/error.h"
#include "data/codecs.h"

namespace camo {
namespace {

constexpr uint8_t kPngSignature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr uint8_t kJpegSignature[] = {0xff, 0xd8, 0xff};
constexpr uint8_t kBmpSignature[] = {'B', 'M'};

template <size_t N>
bool starts_with(std::span<const uint8_t> bytes, const uint8_t (&signature)[N]) {
  return bytes.size() >= N && std::equal(signature, signature + N, bytes.begin());
}

std::vector<uint8_t> read_file(const std::filesystem::path& path) {
  std::error_code status;
  CAMO_CHECK_CODE(data, std::filesystem::exists(path, status), path.string(),
                  ": no such image file; check the path of the data set");
  CAMO_CHECK_CODE(data, !std::filesystem::is_directory(path, status), path.string(),
                  ": an image file is wanted; this is a folder");
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  CAMO_CHECK_CODE(data, file.good(), path.string(), ": can't open the image (", std::strerror(errno),
                  "); check its permissions");
  std::vector<uint8_t> bytes(static_cast<size_t>(file.tellg()));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  CAMO_CHECK_CODE(data, file.good() || bytes.empty(), path.string(), ": can't read the image (", std::strerror(errno),
                  ")");
  return bytes;
}

// ITU-R 601 luma in 16-bit fixed point; the weights sum to 65536, so white stays 255.
uint8_t luma(const uint8_t* rgb) {
  return static_cast<uint8_t>((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16);
}

Image with_channels(Image image, int channels) {
  if (image.channels == channels) return image;
  Image out(image.width, image.height, channels);
  const size_t count = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  const bool has_colour = image.channels >= 3;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* from = image.pixels.data() + i * static_cast<size_t>(image.channels);
    uint8_t* to = out.pixels.data() + i * static_cast<size_t>(channels);
    if (channels == 1) to[0] = has_colour ? luma(from) : from[0];
    else
      for (int c = 0; c < 3; ++c) to[c] = from[has_colour ? c : 0];
  }
  return out;
}

void check_encodable(const Image& image, const char* op) {
  CAMO_CHECK(image.channels == 1 || image.channels == 3, op, ": channels must be 1 or 3; got ", image.channels);
  detail::check_image_extent(image.width, image.height, op);  // the encoders count bytes as int
  CAMO_CHECK(image.pixels.size() == image.row_bytes() * static_cast<size_t>(image.height), op,
             ": pixels must hold width * height * channels bytes; got ", image.pixels.size(), " bytes for ",
             image.width, " x ", image.height, " x ", image.channels);
}

}  // namespace

void detail::check_image_extent(int64_t width, int64_t height, const std::string& name) {
  CAMO_CHECK_CODE(data, width > 0 && height > 0, name, ": an image has at least one pixel; got ", width, " x ", height);
  CAMO_CHECK_CODE(data, width <= kMaxImageSide && height <= kMaxImageSide && width * height <= kMaxImagePixels, name,
                  ": an image has at most ", kMaxImageSide, " pixels a side and ", kMaxImagePixels,
                  " pixels in all; got ", width, " x ", height, "; scale it down first");
}

Image decode_image(std::span<const uint8_t> bytes, int channels, const std::string& name) {
  CAMO_CHECK(channels == 1 || channels == 3, "decode_image: channels must be 1 or 3; got ", channels);
  CAMO_CHECK_CODE(data, !bytes.empty(), name, ": the image file is empty (0 bytes); replace it");
  if (starts_with(bytes, kJpegSignature)) return with_channels(detail::decode_jpeg(bytes, channels, name), channels);
  if (starts_with(bytes, kPngSignature)) return with_channels(detail::decode_png(bytes, name), channels);
  if (starts_with(bytes, kBmpSignature)) return with_channels(detail::decode_bmp(bytes, name), channels);
  fail(ErrorCode::data, name, ": not a JPEG, PNG or BMP picture by its first bytes (", bytes.size(),
       " bytes); replace it or convert it to one of these");
}

Image decode_image(const std::filesystem::path& path, int channels) {
  return decode_image(read_file(path), channels, path.string());
}

void encode_png(const std::filesystem::path& path, const Image& image) {
  check_encodable(image, "encode_png");
  write_file_atomically(path, detail::encode_png_bytes(image));
}

void encode_jpeg(const std::filesystem::path& path, const Image& image, int quality) {
  check_encodable(image, "encode_jpeg");
  CAMO_CHECK(quality >= 1 && quality <= 100, "encode_jpeg: quality must be within 1 and 100; got ", quality);
  write_file_atomically(path, detail::encode_jpeg_bytes(image, quality, false));
}

Image apply_orientation(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool transposed = orientation >= 5;
  const bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const int width = transposed ? image.height : image.width;
  const int height = transposed ? image.width : image.height;
  Image out(width, height, image.channels);
  const auto channels = static_cast<size_t>(image.channels);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      // (u, v): column and row of the stored picture that is shown at (x, y).
      int u = transposed ? y : x;
      int v = transposed ? x : y;
      if (mirror_x) u = image.width - 1 - u;
      if (mirror_y) v = image.height - 1 - v;
      std::copy_n(image.row(v) + static_cast<size_t>(u) * channels, channels,
                  out.row(y) + static_cast<size_t>(x) * channels);
    }
  }
  return out;
}

}  // namespace camo
