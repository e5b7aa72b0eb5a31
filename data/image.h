// Pictures: 8-bit pixels in memory, read from JPEG, PNG and BMP files, written as PNG.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace camo {

/// Interleaved 8-bit pixels, row by row: pixels[(y * width + x) * channels + c]. RGB or grey.
struct Image {
  int width = 0;
  int height = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;

  Image() = default;
  Image(int width_, int height_, int channels_, uint8_t value = 0)
      : width(width_),
        height(height_),
        channels(channels_),
        pixels(static_cast<size_t>(width_) * static_cast<size_t>(height_) * static_cast<size_t>(channels_), value) {}

  uint8_t* row(int y) { return pixels.data() + static_cast<size_t>(y) * row_bytes(); }
  const uint8_t* row(int y) const { return pixels.data() + static_cast<size_t>(y) * row_bytes(); }
  size_t row_bytes() const { return static_cast<size_t>(width) * static_cast<size_t>(channels); }
  friend bool operator==(const Image&, const Image&) = default;
};

/// Larger pictures are refused before their pixels are allocated.
inline constexpr int kMaxImageSide = 32768;
inline constexpr int64_t kMaxImagePixels = int64_t{1} << 28;

/// Reads a JPEG (baseline or progressive; grey, YCbCr, RGB, CMYK), PNG (any depth; 16 bits are reduced to their high
/// byte) or BMP; the content tells which, not the suffix. The result has `channels` 3 (RGB) or 1 (grey: ITU-R 601
/// luma); alpha is dropped. A JPEG's EXIF orientation is applied. Damaged and truncated files are errors, never grey
/// areas: ErrorCode::data, naming the file.
Image decode_image(const std::filesystem::path& path, int channels);
/// The same from memory; `name` stands for the file in messages.
Image decode_image(std::span<const uint8_t> bytes, int channels, const std::string& name);

/// Writes an 8-bit PNG with 1 or 3 channels, within these limits; `path` is either the old or the whole new file.
void encode_png(const std::filesystem::path& path, const Image& image);

/// Writes a baseline JPEG (quality 1..100, full chroma resolution) the same way.
void encode_jpeg(const std::filesystem::path& path, const Image& image, int quality = 92);

/// The picture as EXIF orientation 1..8 asks for it to be shown (1: as it is; other numbers are ignored).
Image apply_orientation(Image image, int orientation);

}  // namespace camo
