#include "data/image.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::gradient_image;
using test::make_png;
using test::to_bytes;
using Bytes = std::vector<uint8_t>;

Bytes jpeg(const Image& image, bool progressive = false) {
  return to_bytes(detail::encode_jpeg_bytes(image, 95, progressive));
}

TEST(DecodeImage, BaselineAndProgressiveJpeg) {
  const Image image = gradient_image(37, 21, 3);
  for (bool progressive : {false, true}) {
    const Bytes bytes = jpeg(image, progressive);
    EXPECT_LE(test::max_difference(decode_image(bytes, 3, "a.jpg"), image), 12);
  }
  EXPECT_EQ(decode_image(jpeg(image, true), 3, "a"), decode_image(jpeg(image, false), 3, "b"));
}

TEST(DecodeImage, JpegWithRestartMarkers) {
  const Image image = gradient_image(64, 48, 3);
  const Bytes plain = jpeg(image);
  setenv("TJ_RESTART", "1", 1);
  const Bytes restarted = jpeg(image);
  unsetenv("TJ_RESTART");
  ASSERT_NE(plain, restarted);
  EXPECT_EQ(decode_image(restarted, 3, "a"), decode_image(plain, 3, "a"));
}

TEST(DecodeImage, GreyJpegToBothChannelCounts) {
  const Image grey = gradient_image(30, 20, 1);
  const Bytes bytes = jpeg(grey);
  const Image one = decode_image(bytes, 1, "a");
  EXPECT_LE(test::max_difference(one, grey), 12);
  const Image three = decode_image(bytes, 3, "a");
  for (size_t i = 0; i < one.pixels.size(); ++i)
    for (size_t c = 0; c < 3; ++c) ASSERT_EQ(three.pixels[3 * i + c], one.pixels[i]);
}

TEST(DecodeImage, ColourJpegToGrey) {
  const Image grey = decode_image(jpeg(Image(9, 9, 3, 100)), 1, "a");
  EXPECT_LE(test::max_difference(grey, Image(9, 9, 1, 100)), 1);
}

TEST(DecodeImage, CmykJpegIsConverted) {
  Image cmyk(16, 16, 4);
  for (size_t i = 0; i < 256; ++i) {
    cmyk.pixels[4 * i] = 255;
    cmyk.pixels[4 * i + 1] = 128;
    cmyk.pixels[4 * i + 2] = 0;
    cmyk.pixels[4 * i + 3] = 255;
  }
  // The encoder stores an Adobe marker: inverted inks, so full red, half green, no blue.
  const Image rgb = decode_image(jpeg(cmyk), 3, "a");
  ASSERT_EQ(rgb.channels, 3);
  EXPECT_NEAR(rgb.pixels[0], 255, 4);
  EXPECT_NEAR(rgb.pixels[1], 128, 4);
  EXPECT_NEAR(rgb.pixels[2], 0, 4);
  EXPECT_NEAR(decode_image(jpeg(cmyk), 1, "a").pixels[0], 151, 4);
}

// Without Adobe's marker the inks are as they are, and the encoder's YCCK is taken for CMYK: equal inks of 204 are
// stored as luma 51 and no chroma, so (51, 128, 128).
TEST(DecodeImage, CmykWithoutAdobesMarkerIsNotInverted) {
  Image cmyk(16, 16, 4, 204);
  for (size_t i = 3; i < cmyk.pixels.size(); i += 4) cmyk.pixels[i] = 51;  // black
  Bytes bytes = jpeg(cmyk);
  const Bytes marker = {0xff, 0xee, 0, 14, 'A', 'd', 'o', 'b', 'e'};
  const auto at = std::search(bytes.begin(), bytes.end(), marker.begin(), marker.end());
  ASSERT_NE(at, bytes.end());
  bytes.erase(at, at + 16);
  const Image rgb = decode_image(bytes, 3, "a");
  const double light = 255 - 51;
  EXPECT_NEAR(rgb.pixels[0], (255 - 51) * light / 255, 2);
  EXPECT_NEAR(rgb.pixels[1], (255 - 128) * light / 255, 2);
  EXPECT_NEAR(rgb.pixels[2], (255 - 128) * light / 255, 2);
}

// ITU-R 601: each channel by its own weight, whichever way the picture comes.
TEST(DecodeImage, GreyIsLuma) {
  const double weights[] = {0.299, 0.587, 0.114};
  for (size_t c = 0; c < 3; ++c) {
    Image colour(16, 16, 3);
    for (size_t i = c; i < colour.pixels.size(); i += 3) colour.pixels[i] = 200;
    const Bytes png = to_bytes(detail::encode_png_bytes(colour));
    EXPECT_EQ(decode_image(png, 1, "a").pixels[0], std::lround(200 * weights[c])) << c;
    EXPECT_NEAR(decode_image(jpeg(colour), 1, "a").pixels[0], 200 * weights[c], 1.5) << c;
    Image inks(16, 16, 4, 255);  // Adobe's: inverted
    for (size_t i = 0; i < 16 * 16; ++i)
      for (size_t k = 0; k < 3; ++k) inks.pixels[4 * i + k] = k == c ? 200 : 0;
    EXPECT_NEAR(decode_image(jpeg(inks), 1, "a").pixels[0], 200 * weights[c], 3) << c;
  }
}

TEST(DecodeImage, ExifOrientationIsApplied) {
  const Bytes bytes = jpeg(gradient_image(24, 16, 3));
  const Image stored = decode_image(bytes, 3, "a");
  for (bool little_endian : {false, true}) {
    for (int orientation = 1; orientation <= 8; ++orientation) {
      const Image shown = decode_image(test::with_orientation(bytes, orientation, little_endian), 3, "a");
      EXPECT_EQ(shown.width, orientation >= 5 ? 16 : 24);
      EXPECT_EQ(shown, apply_orientation(stored, orientation));
    }
    EXPECT_EQ(decode_image(test::with_orientation(bytes, 9, little_endian), 3, "a"), stored);
  }
}

TEST(ApplyOrientation, AllEight) {
  // 1 2 3
  // 4 5 6
  Image image(3, 2, 1);
  image.pixels = {1, 2, 3, 4, 5, 6};
  const std::vector<std::vector<uint8_t>> expected = {{1, 2, 3, 4, 5, 6}, {3, 2, 1, 6, 5, 4}, {6, 5, 4, 3, 2, 1},
                                                      {4, 5, 6, 1, 2, 3}, {1, 4, 2, 5, 3, 6}, {4, 1, 5, 2, 6, 3},
                                                      {6, 3, 5, 2, 4, 1}, {3, 6, 2, 5, 1, 4}};
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(apply_orientation(image, i + 1).pixels, expected[static_cast<size_t>(i)]) << i + 1;
}

TEST(DecodeImage, PngRoundTrip) {
  const test::TemporaryFolder folder;
  for (int channels : {1, 3}) {
    const Image image = gradient_image(33, 17, channels);
    encode_png(folder.path() / "a.png", image);
    EXPECT_EQ(decode_image(folder.path() / "a.png", channels), image);
  }
}

TEST(DecodeImage, TypeComesFromTheContent) {
  const test::TemporaryFolder folder;
  const Image image = gradient_image(8, 8, 3);
  test::write_bytes(folder.path() / "a.jpg", to_bytes(detail::encode_png_bytes(image)));
  EXPECT_EQ(decode_image(folder.path() / "a.jpg", 3), image);
}

TEST(DecodeImage, EncodeJpegWritesAFile) {
  const test::TemporaryFolder folder;
  const Image image = gradient_image(40, 30, 3);
  encode_jpeg(folder.path() / "a.jpg", image, 97);
  EXPECT_LE(test::max_difference(decode_image(folder.path() / "a.jpg", 3), image), 12);
}

TEST(DecodeImage, PalettePng) {
  const Bytes png = make_png(4, 1, 2, 3, {0, 0b00011011}, {10, 20, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255});
  EXPECT_EQ(decode_image(png, 3, "a").pixels, (Bytes{10, 20, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255}));
}

TEST(DecodeImage, OneBitPngMask) {
  EXPECT_EQ(decode_image(make_png(3, 1, 1, 0, {0, 0b10100000}), 1, "a").pixels, (Bytes{255, 0, 255}));
}

TEST(DecodeImage, SixteenBitPngKeepsTheHighByte) {
  EXPECT_EQ(decode_image(make_png(2, 1, 16, 0, {0, 0x12, 0xff, 0xfe, 0x01}), 1, "a").pixels, (Bytes{0x12, 0xfe}));
}

TEST(DecodeImage, AlphaIsDropped) {
  EXPECT_EQ(decode_image(make_png(1, 1, 8, 6, {0, 1, 2, 3, 0}), 3, "a").pixels, (Bytes{1, 2, 3}));
  EXPECT_EQ(decode_image(make_png(1, 1, 8, 4, {0, 77, 0}), 1, "a").pixels, (Bytes{77}));
}

TEST(DecodeImage, PngChunksWithoutDataAreSkipped) {
  Bytes png = make_png(2, 1, 8, 0, {0, 7, 9});
  constexpr size_t kFirstData = 8 + 25;  // behind the signature and IHDR
  const Bytes empty{0, 0, 0, 0, 'I', 'D', 'A', 'T', 0x35, 0xaf, 0x06, 0x1e};
  for (int i = 0; i < 2; ++i) png.insert(png.begin() + kFirstData, empty.begin(), empty.end());
  EXPECT_EQ(decode_image(png, 1, "a").pixels, (Bytes{7, 9}));
}

TEST(DecodeImage, ColourPngToGreyKeepsBlackAndWhite) {
  const Bytes png = make_png(2, 1, 8, 2, {0, 255, 255, 255, 0, 0, 0});
  EXPECT_EQ(decode_image(png, 1, "a").pixels, (Bytes{255, 0}));
}

Bytes bmp_2x2() {
  Bytes bmp = {'B', 'M', 70, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 24, 0};
  bmp.resize(54);
  const Bytes rows = {3, 2, 1, 6, 5, 4, 0, 0, 9, 8, 7, 12, 11, 10, 0, 0};  // bottom row first, BGR
  bmp.insert(bmp.end(), rows.begin(), rows.end());
  return bmp;
}

TEST(DecodeImage, Bmp) {
  EXPECT_EQ(decode_image(bmp_2x2(), 3, "a").pixels, (Bytes{7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6}));
  Bytes bmp = bmp_2x2();
  bmp.resize(60);
  EXPECT_ERROR(decode_image(bmp, 3, "a.bmp"), "a.bmp: the BMP is cut short: 70 bytes expected, got 60");
  bmp.resize(20);
  EXPECT_ERROR(decode_image(bmp, 3, "a.bmp"), "a.bmp: the BMP is cut short");
}

TEST(DecodeImage, BmpFromTheTop) {
  Bytes bmp = bmp_2x2();
  for (size_t i = 22; i < 26; ++i) bmp[i] = i == 22 ? 0xfe : 0xff;  // height -2
  EXPECT_EQ(decode_image(bmp, 3, "a").pixels, (Bytes{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
}

TEST(DecodeImage, BmpWithTheOldHeader) {
  Bytes bmp = {'B', 'M', 42, 0, 0, 0, 0, 0, 0, 0, 26, 0, 0, 0, 12, 0, 0, 0, 2, 0, 2, 0, 1, 0, 24, 0};
  const Bytes rows = {3, 2, 1, 6, 5, 4, 0, 0, 9, 8, 7, 12, 11, 10, 0, 0};
  bmp.insert(bmp.end(), rows.begin(), rows.end());
  EXPECT_EQ(decode_image(bmp, 3, "a").pixels, (Bytes{7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6}));
  bmp.pop_back();
  EXPECT_ERROR(decode_image(bmp, 3, "a"), "the BMP is cut short: 42 bytes expected, got 41");
}

TEST(DecodeImage, BmpMaskWithAPalette) {
  Bytes bmp = bmp_2x2();
  bmp.resize(54);
  bmp[10] = 62;  // where the pixels begin
  bmp[28] = 8;   // bits a pixel
  bmp[46] = 2;   // colours
  const Bytes palette_and_rows = {0, 0, 0, 0, 255, 255, 255, 0, 1, 0, 0, 0, 0, 1, 0, 0};
  bmp.insert(bmp.end(), palette_and_rows.begin(), palette_and_rows.end());
  EXPECT_EQ(decode_image(bmp, 1, "a").pixels, (Bytes{0, 255, 255, 0}));
}

TEST(DecodeImage, BmpExtentsAreChecked) {
  Bytes bmp = bmp_2x2();
  bmp[20] = 0xff;  // width 0xff0002
  EXPECT_ERROR(decode_image(bmp, 3, "a.bmp"), "at most 32768 pixels a side");
  bmp = bmp_2x2();
  bmp[18] = 0;
  EXPECT_ERROR(decode_image(bmp, 3, "a.bmp"), "at least one pixel; got 0 x 2");
}

TEST(DecodeImage, TruncatedJpegIsAnErrorAtEveryLength) {
  for (bool progressive : {false, true}) {
    const Bytes bytes = jpeg(gradient_image(48, 40, 3), progressive);
    for (size_t length = 3; length < bytes.size(); length += bytes.size() / 37) {
      const std::span<const uint8_t> part(bytes.data(), length);
      EXPECT_ERROR(decode_image(part, 3, "cut.jpg"), "cut.jpg: the JPEG ");
    }
    EXPECT_ERROR(decode_image(std::span(bytes.data(), bytes.size() / 2 + 200), 3, "cut.jpg"), "damaged or cut short");
  }
}

TEST(DecodeImage, TruncatedOrDamagedPngIsAnError) {
  Bytes bytes = to_bytes(detail::encode_png_bytes(gradient_image(20, 20, 3)));
  for (size_t length = 8; length < bytes.size(); length += 5)
    EXPECT_ERROR(decode_image(std::span(bytes.data(), length), 3, "cut.png"), "cut.png: the PNG is cut short at byte");
  bytes[bytes.size() / 2] ^= 4;
  EXPECT_ERROR(decode_image(bytes, 3, "bad.png"),
               "bad.png: the PNG is damaged: wrong checksum of the chunk at byte 33");
  EXPECT_ERROR(decode_image(make_png(4, 4, 8, 0, {0, 1, 2}), 1, "short.png"), "short.png: the PNG can't be decoded");
}

TEST(DecodeImage, AbsurdExtentsAreRefusedBeforeAllocation) {
  EXPECT_ERROR(decode_image(make_png(40000, 1, 8, 0, {}), 1, "a.png"),
               "a.png: an image has at most 32768 pixels a side and 268435456 pixels in all; got 40000 x 1");
  EXPECT_ERROR(decode_image(make_png(30000, 30000, 8, 2, {}), 3, "a.png"), "got 30000 x 30000; scale it down first");
  EXPECT_ERROR(decode_image(make_png(0, 5, 8, 0, {}), 1, "a.png"), "at least one pixel; got 0 x 5");
  Bytes bytes = jpeg(Image(8, 8, 3));
  for (size_t i = 0; i + 9 < bytes.size(); ++i) {
    if (bytes[i] != 0xff || bytes[i + 1] != 0xc0) continue;
    for (size_t k = 5; k < 9; ++k) bytes[i + k] = 0xff;
    bytes[i + 5] = bytes[i + 7] = 0xfe;
  }
  EXPECT_ERROR(decode_image(bytes, 3, "a.jpg"), "a.jpg: ");
}

TEST(DecodeImage, NotAnImage) {
  const test::TemporaryFolder folder;
  test::write_bytes(folder.path() / "empty.png", {});
  EXPECT_ERROR(decode_image(folder.path() / "empty.png", 3), "empty.png: the image file is empty (0 bytes)");
  test::write_bytes(folder.path() / "text.jpg", to_bytes("<html>404 Not Found</html>"));
  EXPECT_ERROR(decode_image(folder.path() / "text.jpg", 3), "text.jpg: not a JPEG, PNG or BMP picture");
  EXPECT_ERROR(decode_image(folder.path() / "none.jpg", 3), "none.jpg: no such image file");
  EXPECT_ERROR(decode_image(folder.path(), 3), "an image file is wanted; this is a folder");
  EXPECT_ERROR(decode_image(to_bytes("x"), 2, "a"), "channels must be 1 or 3; got 2");
  try {
    decode_image(folder.path() / "text.jpg", 3);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::data);
  }
}

TEST(EncodePng, ChecksItsImage) {
  const test::TemporaryFolder folder;
  EXPECT_ERROR(encode_png(folder.path() / "a.png", Image(2, 2, 4)), "encode_png: channels must be 1 or 3; got 4");
  Image image(2, 2, 3);
  image.pixels.pop_back();
  EXPECT_ERROR(encode_png(folder.path() / "a.png", image), "pixels must hold width * height * channels bytes");
  image.pixels.clear();
  image.width = image.height = 30000;  // more bytes than an int counts, here and below
  for (const auto encode :
       {&encode_png, +[](const std::filesystem::path&path, const Image&large) { encode_jpeg(path, large); }}) {
    EXPECT_ERROR(encode(folder.path() / "a", image), "268435456 pixels in all; got 30000 x 30000; scale it down first");
  }
  EXPECT_ERROR(encode_png(folder.path() / "a.png", Image(0, 4, 1)), "an image has at least one pixel; got 0 x 4");
  EXPECT_ERROR(encode_jpeg(folder.path() / "a.jpg", Image(2, 2, 3), 0), "quality must be within 1 and 100; got 0");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace camo
