#include "test_images.h"

namespace camo::test {
namespace {

void put_big_endian(std::vector<uint8_t>& out, uint32_t value, int bytes = 4) {
  for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

uint32_t crc32(std::span<const uint8_t> bytes) {
  uint32_t crc = ~0u;
  for (uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0u);
  }
  return ~crc;
}

void put_chunk(std::vector<uint8_t>& png, const char* type, const std::vector<uint8_t>& body) {
  put_big_endian(png, static_cast<uint32_t>(body.size()));
  std::vector<uint8_t> checked(type, type + 4);
  checked.insert(checked.end(), body.begin(), body.end());
  png.insert(png.end(), checked.begin(), checked.end());
  put_big_endian(png, crc32(checked));
}

}  // namespace

std::vector<uint8_t> make_png(uint32_t width, uint32_t height, int depth, int colour_type,
                              const std::vector<uint8_t>& rows, const std::vector<uint8_t>& palette) {
  std::vector<uint8_t> png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  std::vector<uint8_t> header;
  put_big_endian(header, width);
  put_big_endian(header, height);
  for (int value : {depth, colour_type, 0, 0, 0}) header.push_back(static_cast<uint8_t>(value));
  put_chunk(png, "IHDR", header);
  if (!palette.empty()) put_chunk(png, "PLTE", palette);
  const auto length = static_cast<uint16_t>(rows.size());
  std::vector<uint8_t> zlib = {0x78, 0x01, 0x01};
  for (int value : {length & 0xff, length >> 8, ~length & 0xff, (~length >> 8) & 0xff})
    zlib.push_back(static_cast<uint8_t>(value));
  zlib.insert(zlib.end(), rows.begin(), rows.end());
  uint32_t a = 1, b = 0;
  for (uint8_t byte : rows) a = (a + byte) % 65521, b = (b + a) % 65521;
  put_big_endian(zlib, b << 16 | a);
  put_chunk(png, "IDAT", zlib);
  put_chunk(png, "IEND", {});
  return png;
}

std::vector<uint8_t> with_orientation(const std::vector<uint8_t>& jpeg, int orientation, bool little_endian) {
  std::vector<uint8_t> body = {'E', 'x', 'i', 'f', 0, 0};
  const auto put = [&](uint32_t value, int bytes) {
    for (int i = 0; i < bytes; ++i)
      body.push_back(static_cast<uint8_t>(value >> (8 * (little_endian ? i : bytes - 1 - i))));
  };
  body.insert(body.end(), 2, little_endian ? 'I' : 'M');
  put(42, 2);
  put(8, 4);                             // offset of the directory
  put(2, 2);                             // entries
  put(0x010f, 2), put(3, 2), put(1, 4);  // another tag comes first
  put(7, 2), put(0, 2);
  put(0x0112, 2), put(3, 2), put(1, 4);
  put(static_cast<uint32_t>(orientation), 2), put(0, 2);
  put(0, 4);
  std::vector<uint8_t> out(jpeg.begin(), jpeg.begin() + 2);
  put_big_endian(out, 0xffe1, 2);
  put_big_endian(out, static_cast<uint32_t>(body.size() + 2), 2);
  out.insert(out.end(), body.begin(), body.end());
  out.insert(out.end(), jpeg.begin() + 2, jpeg.end());
  return out;
}

void write_pairs(const std::filesystem::path& folder, int count, const std::string& prefix) {
  for (int i = 0; i < count; ++i) {
    const std::string stem = prefix + (i < 10 ? "0" : "") + std::to_string(i);
    const int width = 20 + i % 5, height = 16 + i % 3;
    write_bytes(folder / "Imgs" / (stem + ".jpg"),
                to_bytes(detail::encode_jpeg_bytes(gradient_image(width, height, 3, 7 * i), 95, i % 2 == 1)));
    Image mask(width, height, 1);
    for (int y = 4; y < 10; ++y) std::fill_n(mask.row(y) + 5 + i % 3, 8, uint8_t{255});
    write_bytes(folder / "GT" / (stem + ".png"), to_bytes(detail::encode_png_bytes(mask)));
  }
}

}  // namespace camo::test
