// JPEG through libjpeg-turbo's TurboJPEG API.
#include <turbojpeg.h>

#include <cstring>
#include <memory>

#include "core/error.h"
#include "data/codecs.h"

namespace camo::detail {
namespace {

uint32_t read_number(const uint8_t* bytes, int count, bool little_endian) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | bytes[little_endian ? count - 1 - i : i];
  return value;
}

// Orientation tag (0x0112) in the first directory of a TIFF block; 1 when there is none or the block is malformed.
int tiff_orientation(std::span<const uint8_t> tiff) {
  if (tiff.size() < 8) return 1;
  const bool little = tiff[0] == 'I';
  if (tiff[0] != tiff[1] || (tiff[0] != 'I' && tiff[0] != 'M')) return 1;
  const size_t directory = read_number(&tiff[4], 4, little);
  if (directory + 2 > tiff.size()) return 1;
  const uint32_t entries = read_number(&tiff[directory], 2, little);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.size()) return 1;
    if (read_number(&tiff[entry], 2, little) == 0x0112) {
      const auto value = static_cast<int>(read_number(&tiff[entry + 8], 2, little));
      return value >= 1 && value <= 8 ? value : 1;
    }
  }
  return 1;
}

struct Markers {
  int orientation = 1;
  bool adobe = false;  // Adobe's writers store CMYK inverted
};

// Walks the marker segments up to the first scan.
Markers scan_markers(std::span<const uint8_t> bytes) {
  Markers found;
  size_t at = 2;
  while (at + 4 <= bytes.size() && bytes[at] == 0xff) {
    const uint8_t marker = bytes[at + 1];
    if (marker == 0xff) {  // fill byte
      ++at;
      continue;
    }
    if (marker == 0xda || marker == 0xd9) break;
    if (marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {  // markers without a body
      at += 2;
      continue;
    }
    const size_t length = read_number(&bytes[at + 2], 2, false);
    if (length < 2 || at + 2 + length > bytes.size()) break;
    const auto body = bytes.subspan(at + 4, length - 2);
    if (marker == 0xe1 && body.size() > 6 && std::memcmp(body.data(), "Exif\0\0", 6) == 0)
      found.orientation = tiff_orientation(body.subspan(6));
    if (marker == 0xee && body.size() >= 5 && std::memcmp(body.data(), "Adobe", 5) == 0) found.adobe = true;
    at += 2 + length;
  }
  return found;
}

Image cmyk_to_rgb(const Image& cmyk, bool inverted) {
  Image rgb(cmyk.width, cmyk.height, 3);
  for (size_t i = 0; i < rgb.pixels.size() / 3; ++i) {
    const uint8_t* from = &cmyk.pixels[4 * i];
    const int black = inverted ? from[3] : 255 - from[3];
    for (size_t c = 0; c < 3; ++c) {
      const int ink = inverted ? from[c] : 255 - from[c];
      rgb.pixels[3 * i + c] = static_cast<uint8_t>((ink * black + 127) / 255);
    }
  }
  return rgb;
}

}  // namespace

Image decode_jpeg(std::span<const uint8_t> bytes, int channels, const std::string& name) {
  const std::unique_ptr<void, int (*)(tjhandle)> decoder(tjInitDecompress(), tjDestroy);
  CAMO_CHECK(decoder != nullptr, name, ": can't start the JPEG decoder (", tjGetErrorStr2(nullptr), ")");
  const auto size = static_cast<unsigned long>(bytes.size());

  int width = 0, height = 0, subsampling = -1, colour_space = -1;
  const int status =
      tjDecompressHeader3(decoder.get(), bytes.data(), size, &width, &height, &subsampling, &colour_space);
  // An unusual chroma subsampling alone makes the header call fail; the decoder itself can handle it.
  // Header tables without a picture pass with extents of 0.
  CAMO_CHECK_CODE(data, width > 0 && height > 0 && (status == 0 || colour_space >= 0), name,
                  ": the JPEG header can't be read (", status == 0 ? "no picture in it" : tjGetErrorStr2(decoder.get()),
                  "); replace the file");
  check_image_extent(width, height, name);

  const bool cmyk = colour_space == TJCS_CMYK || colour_space == TJCS_YCCK;
  const int format = cmyk ? TJPF_CMYK : channels == 1 ? TJPF_GRAY : TJPF_RGB;
  Image image(width, height, cmyk ? 4 : channels);
  CAMO_CHECK_CODE(data,
                  tjDecompress2(decoder.get(), bytes.data(), size, image.pixels.data(), width, 0, height, format,
                                TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS) == 0,
                  name, ": the JPEG is damaged or cut short (", tjGetErrorStr2(decoder.get()), "); replace it");

  const Markers markers = scan_markers(bytes);
  if (cmyk) image = cmyk_to_rgb(image, markers.adobe);
  return apply_orientation(std::move(image), markers.orientation);
}

std::string encode_jpeg_bytes(const Image& image, int quality, bool progressive) {
  const std::unique_ptr<void, int (*)(tjhandle)> encoder(tjInitCompress(), tjDestroy);
  CAMO_CHECK(encoder != nullptr, "encode_jpeg: can't start the encoder (", tjGetErrorStr2(nullptr), ")");
  const int format = image.channels == 1 ? TJPF_GRAY : image.channels == 3 ? TJPF_RGB : TJPF_CMYK;
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  const int status = tjCompress2(encoder.get(), image.pixels.data(), image.width, 0, image.height, format, &bytes,
                                 &size, image.channels == 1 ? TJSAMP_GRAY : TJSAMP_444, quality,
                                 TJFLAG_ACCURATEDCT | (progressive ? TJFLAG_PROGRESSIVE : 0));
  const std::unique_ptr<unsigned char, void (*)(unsigned char*)> owner(bytes, tjFree);
  CAMO_CHECK(status == 0, "encode_jpeg: ", tjGetErrorStr2(encoder.get()));
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace camo::detail
