// The decoders behind decode_image(), one per format. `name` stands for the file in messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/image.h"

namespace camo::detail {

/// Throws ErrorCode::data unless the extents are within kMaxImageSide and kMaxImagePixels.
void check_image_extent(int64_t width, int64_t height, const std::string& name);

/// Grey or RGB as asked for, but RGB when the file holds CMYK; EXIF orientation applied.
Image decode_jpeg(std::span<const uint8_t> bytes, int channels, const std::string& name);
/// PNG and BMP with the channels that the file has (1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha).
Image decode_png(std::span<const uint8_t> bytes, const std::string& name);
Image decode_bmp(std::span<const uint8_t> bytes, const std::string& name);

std::string encode_png_bytes(const Image& image);
/// Grey, RGB or, with 4 channels, CMYK.
std::string encode_jpeg_bytes(const Image& image, int quality, bool progressive);

}  // namespace camo::detail
