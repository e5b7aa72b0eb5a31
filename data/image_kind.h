// What kind of picture a file holds, from its first bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace camo {

struct ImageKind {
  std::string format;  // "JPEG", "PNG", "BMP"; empty when it is none of them
  int channels = 0;    // as stored: 1 grey or palette, 2 grey and alpha, 3 colour, 4 CMYK or colour and alpha
  int bits = 8;        // a channel
  bool palette = false;

  /// What is unusual for a photo: "grey", "CMYK", "16 bits a channel", "has alpha", "palette"; empty when nothing is.
  std::string unusual() const;
};

/// Never throws: what can't be read stays at its default.
ImageKind image_kind(std::span<const uint8_t> bytes);

/// "JPEG", "PNG" or "BMP" for a file name's suffix, in any case; else empty.
std::string format_of_suffix(const std::string& suffix);

}  // namespace camo
