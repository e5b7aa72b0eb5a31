#include "data/image_kind.h"

#include <algorithm>
#include <cstring>

namespace camo {
namespace {

/// The number of components in a JPEG's frame header.
int jpeg_components(std::span<const uint8_t> bytes, int& bits) {
  size_t at = 2;
  while (at + 9 < bytes.size() && bytes[at] == 0xff) {
    const uint8_t marker = bytes[at + 1];
    if (marker == 0xff) {  // fill byte
      ++at;
      continue;
    }
    // Frame headers are C0 to CF but for the tables C4, C8 and CC.
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
      bits = bytes[at + 4];
      return bytes[at + 9];
    }
    at += 2 + (size_t{bytes[at + 2]} << 8 | bytes[at + 3]);
  }
  return 0;
}

}  // namespace

std::string ImageKind::unusual() const {
  if (format.empty()) return {};
  if (bits > 8) return std::to_string(bits) + " bits a channel";
  if (palette) return "palette";
  if (format == "JPEG" && channels == 4) return "CMYK";
  if (channels == 2 || channels == 4) return "has alpha";
  return channels == 1 ? "grey" : "";
}

ImageKind image_kind(std::span<const uint8_t> bytes) {
  ImageKind kind;
  if (bytes.size() >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff) {
    kind.format = "JPEG";
    kind.channels = jpeg_components(bytes, kind.bits);
  } else if (bytes.size() >= 26 && std::memcmp(bytes.data(), "\x89PNG\r\n\x1a\n", 8) == 0) {
    constexpr int kChannels[] = {1, 0, 3, 1, 2, 0, 4};
    kind.format = "PNG";
    kind.bits = bytes[24];
    kind.palette = bytes[25] == 3;
    kind.channels = bytes[25] <= 6 ? kChannels[bytes[25]] : 0;
  } else if (bytes.size() >= 30 && bytes[0] == 'B' && bytes[1] == 'M') {
    const int pixel_bits = bytes[28];
    kind.format = "BMP";
    kind.palette = pixel_bits <= 8;
    kind.channels = kind.palette ? 1 : 3;  // the fourth byte of 32 is padding more often than alpha
  }
  return kind;
}

std::string format_of_suffix(const std::string& suffix) {
  std::string small = suffix;
  std::transform(small.begin(), small.end(), small.begin(), [](unsigned char c) { return std::tolower(c); });
  if (small == ".jpg" || small == ".jpeg") return "JPEG";
  return small == ".png" ? "PNG" : small == ".bmp" ? "BMP" : "";
}

}  // namespace camo
