#include "data/image_kind.h"

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

std::vector<uint8_t> jpeg(int channels, bool progressive = false) {
  return test::to_bytes(detail::encode_jpeg_bytes(Image(9, 7, channels, 80), 90, progressive));
}

TEST(ImageKind, WhatIsUnusual) {
  EXPECT_EQ(image_kind(jpeg(3)).format, "JPEG");
  EXPECT_EQ(image_kind(jpeg(3, true)).unusual(), "");
  EXPECT_EQ(image_kind(jpeg(1)).unusual(), "grey");
  EXPECT_EQ(image_kind(jpeg(4)).unusual(), "CMYK");
  EXPECT_EQ(image_kind(test::make_png(2, 2, 8, 2, {})).unusual(), "");
  EXPECT_EQ(image_kind(test::make_png(2, 2, 16, 2, {})).unusual(), "16 bits a channel");
  EXPECT_EQ(image_kind(test::make_png(2, 2, 8, 3, {})).unusual(), "palette");
  EXPECT_EQ(image_kind(test::make_png(2, 2, 8, 4, {})).unusual(), "has alpha");
  EXPECT_EQ(image_kind(test::make_png(2, 2, 8, 0, {})).unusual(), "grey");
  std::vector<uint8_t> bmp(30);
  bmp[0] = 'B', bmp[1] = 'M', bmp[28] = 24;
  EXPECT_EQ(image_kind(bmp).unusual(), "");
  bmp[28] = 8;
  EXPECT_EQ(image_kind(bmp).unusual(), "palette");
}

TEST(ImageKind, AnyBytesAreFine) {
  EXPECT_EQ(image_kind({}).format, "");
  EXPECT_EQ(image_kind(test::to_bytes("GIF89a and so on, long enough for a header")).unusual(), "");
  const auto whole = jpeg(3);
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_LE(image_kind({whole.data(), size}).channels, 3);
}

TEST(ImageKind, Suffixes) {
  EXPECT_EQ(format_of_suffix(".JPeG"), "JPEG");
  EXPECT_EQ(format_of_suffix(".png"), "PNG");
  EXPECT_EQ(format_of_suffix(".bmp"), "BMP");
  EXPECT_EQ(format_of_suffix(".gif"), "");
}

}  // namespace
}  // namespace camo
