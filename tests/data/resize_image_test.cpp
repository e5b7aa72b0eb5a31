#include "data/resize_image.h"

#include "core/safetensors.h"
#include "data/transforms.h"
#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

class ResizeFixture : public ::testing::TestWithParam<std::pair<int, int>> {};

// The fixture holds every max(1, height / 96)-th row of the picture resized by OpenCV.
TEST_P(ResizeFixture, EqualsOpenCvBitForBit) {
  const auto [height, width] = GetParam();
  const Image image = decode_image(test::golden_file("chelsea.png"), 3);
  const SafeTensors fixture = read_safetensors(test::golden_file("resize.safetensors"));
  const Tensor& expected = fixture.at(concat_text("u8_", height, "x", width));
  const Image resized = resize_bilinear(image, width, height);
  const int step = std::max(1, height / 96);
  ASSERT_EQ(expected.shape(), (Shape{(height + step - 1) / step, width, 3}));
  const uint8_t* row = expected.data<uint8_t>();
  for (int y = 0; y < height; y += step, row += resized.row_bytes())
    ASSERT_TRUE(std::equal(row, row + resized.row_bytes(), resized.row(y))) << "row " << y;
}
INSTANTIATE_TEST_SUITE_P(Sizes, ResizeFixture,
                         ::testing::Values(std::pair{96, 96}, std::pair{352, 352}, std::pair{451, 300}));

TEST(NetworkInput, EqualsTheReferenceNormalisation) {
  const SafeTensors fixture = read_safetensors(test::golden_file("resize.safetensors"));
  const std::vector<float> expected = fixture.at("norm_96x96").to_vector<float>();  // [3, 96, 96]
  const Tensor input = to_network_input(decode_image(test::golden_file("chelsea.png"), 3), 96);
  ASSERT_EQ(input.shape(), (Shape{1, 96, 96, 3}));
  const float* values = input.data<float>();
  for (size_t i = 0; i < 96 * 96; ++i)
    for (size_t c = 0; c < 3; ++c) ASSERT_NEAR(values[3 * i + c], expected[c * 96 * 96 + i], 5e-7);
}

TEST(NetworkInput, WantsColour) {
  EXPECT_ERROR(to_network_input(Image(4, 4, 1), 8), "to_network_input: an RGB image is wanted; got 1 channels");
}

TEST(ResizeBilinear, SameSizeIsTheSamePicture) {
  const Image image = test::gradient_image(13, 7, 3);
  EXPECT_EQ(resize_bilinear(image, 13, 7), image);
}

TEST(ResizeBilinear, OnePixelFillsAnySize) {
  for (int channels : {1, 3}) EXPECT_EQ(resize_bilinear(Image(1, 1, channels, 200), 9, 5), Image(9, 5, channels, 200));
}

TEST(ResizeBilinear, HalvingAverages) {
  Image image(2, 2, 1);
  image.pixels = {10, 20, 30, 41};
  EXPECT_EQ(resize_bilinear(image, 1, 1).pixels, (std::vector<uint8_t>{25}));  // 25.25
}

// RGB and grey go through different code, vectors and their scalar ends.
TEST(ResizeBilinear, ChannelsAreResizedAlike) {
  for (const auto& [width, height] : {std::pair{1, 5}, {2, 2}, {3, 1}, {7, 9}, {16, 3}, {37, 20}, {100, 64}}) {
    Image image(width, height, 3);
    const RandomKey key{3, 0};
    for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(key.bits(i));
    for (const auto& [new_width, new_height] : {std::pair{1, 1}, {3, 8}, {16, 16}, {29, 5}, {150, 130}}) {
      const Image resized = resize_bilinear(image, new_width, new_height);
      for (int c = 0; c < 3; ++c) {
        Image plane(width, height, 1), expected(new_width, new_height, 1);
        for (size_t i = 0; i < plane.pixels.size(); ++i) plane.pixels[i] = image.pixels[3 * i + static_cast<size_t>(c)];
        for (size_t i = 0; i < expected.pixels.size(); ++i)
          expected.pixels[i] = resized.pixels[3 * i + static_cast<size_t>(c)];
        ASSERT_EQ(resize_bilinear(plane, new_width, new_height), expected) << width << " to " << new_width;
      }
    }
  }
}

TEST(ResizeBilinear, RefusesSizesOutOfRange) {
  EXPECT_ERROR(resize_bilinear(Image(2, 2, 1), 0, 5), "the new size must be within 1 and 32768; got 0 x 5");
  EXPECT_ERROR(resize_bilinear(Image(2, 2, 1), 5, 40000), "got 5 x 40000");
  EXPECT_ERROR(resize_bilinear(Image(), 5, 5), "the image must not be empty");
  EXPECT_ERROR(resize_bilinear(Image(2, 2, 4), 5, 5), "channels must be 1 or 3; got 4");
}

TEST(ResizeBilinear, FloatMapsUseHalfPixelCentres) {
  const std::vector<float> map = {0, 1, 2, 3};
  const std::vector<float> wide = resize_bilinear(map.data(), 4, 1, 8, 1);
  const std::vector<float> expected = {0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3};
  for (size_t i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(wide[i], expected[i]);
  EXPECT_EQ(resize_bilinear(map.data(), 2, 2, 2, 2), map);
  EXPECT_ERROR(resize_bilinear(map.data(), 0, 2, 2, 2), "the map must not be empty; got 0 x 2");
}

}  // namespace
}  // namespace camo
