#include "tests/apps/small_data.h"

#include <gmock/gmock.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "data/codecs.h"
#include "data/synthetic.h"
#include "models/camoxpert/checkpoint.h"
#include "tests/data/test_images.h"

namespace camo::test {

namespace fs = std::filesystem;

SmallData::SmallData() {
  SyntheticDatasetOptions options;
  options.folder = data();
  options.train_count = 8;
  options.test_count = 5;
  options.scene.width = options.scene.height = 64;
  write_synthetic_dataset(options);
  seed_everything(3);
  const CamoXpertSpec spec{.backbone = "edgenext_xx_small", .deep_supervision = false};
  save_checkpoint(checkpoint(), CamoXpert(spec), {.spec = spec, .img_size = 64, .epoch = 7});
}

fs::path SmallData::copy_of_data(const std::string& name) const {
  fs::copy(data(), path(name), fs::copy_options::recursive);
  return path(name);
}

const SmallData& small_data() {
  static const SmallData data;
  return data;
}

void expect_failure(const std::string& arguments, int exit_code, const std::string& text,
                    const std::string& environment) {
  const ProgramResult result = run_camoxpert(arguments, environment);
  EXPECT_EQ(result.exit_code, exit_code) << arguments << "\n" << result.output;
  EXPECT_THAT(result.output, ::testing::HasSubstr(text)) << arguments;
}

std::string expect_success(const std::string& arguments) {
  const ProgramResult result = run_camoxpert(arguments);
  EXPECT_EQ(result.exit_code, 0) << arguments << "\n" << result.output;
  return result.output;
}

std::string read_text(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

namespace {

std::vector<uint8_t> bytes_of(const fs::path& path) { return to_bytes(read_text(path)); }

void cut(const fs::path& path) { fs::resize_file(path, fs::file_size(path) / 2); }

void flip_byte(const fs::path& path) {
  std::vector<uint8_t> bytes = bytes_of(path);
  bytes[bytes.size() / 2] ^= 0x55;
  write_bytes(path, bytes);
}

/// PNG scanlines with filter byte 0.
std::vector<uint8_t> scanlines(int width, int height, size_t bytes_per_pixel) {
  const size_t row = 1 + static_cast<size_t>(width) * bytes_per_pixel;
  std::vector<uint8_t> bytes(row * static_cast<size_t>(height));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i % row == 0 ? 0 : static_cast<uint8_t>(i * 37 + i / row * 11);
  return bytes;
}

}  // namespace

DamagedFolder damage(const fs::path& folder) {
  std::vector<fs::path> images;
  for (const auto& [stem, path] : pictures_by_stem(folder / "Imgs")) images.push_back(path);
  const auto masks = pictures_by_stem(folder / "GT");
  DamagedFolder result;
  size_t next = 0;
  const auto take = [&] { return images.at(next++); };
  const auto mask_of = [&](const fs::path& image) { return masks.at(image.stem().string()); };
  const auto bad_image = [&](const char* reason) {
    const fs::path image = take();
    result.bad[image.stem().string()] = reason;
    result.bad_images.insert(image.stem().string());
    return image;
  };
  const auto bad_mask = [&](const char* reason, bool readable = false) {
    const fs::path image = take();
    result.bad[image.stem().string()] = reason;
    if (!readable) result.bad_masks.insert(image.stem().string());
    return mask_of(image);
  };

  cut(bad_image("the JPEG is damaged or cut short"));
  cut(bad_mask("the PNG is cut short"));
  write_bytes(bad_image("the image file is empty (0 bytes)"), {});
  write_bytes(bad_mask("the image file is empty (0 bytes)"), {});
  write_bytes(bad_image("not a JPEG, PNG or BMP picture"), to_bytes("<html>not found</html>"));
  encode_png(bad_mask("mask 20 x 30, picture 48 x 40", true), Image(20, 30, 1, 255));
  fs::remove(bad_mask("has no mask of the same name", true));
  fs::remove(bad_image("has no picture of the same name"));
  flip_byte(bad_mask("the PNG is damaged: wrong checksum"));
  write_bytes(bad_image("header can't be read"), to_bytes("\xff\xd8\xff\xe0"));  // nothing but a signature
  write_bytes(bad_mask("pixels a side"), make_png(60000, 60000, 8, 0, {}));
  {
    const fs::path image = bad_image("no such image");  // a link to nowhere
    fs::remove(image);
    fs::create_symlink("nowhere.jpg", image);
  }

  const Image shape = decode_image(images.at(next), 3);
  const int width = shape.width, height = shape.height;
  const auto unusual = [&] {
    const fs::path image = take();
    result.unusual.insert(image.stem().string());
    return image;
  };
  write_bytes(unusual(), to_bytes(detail::encode_jpeg_bytes(Image(width, height, 1, 90), 90, false)));
  write_bytes(unusual(), to_bytes(detail::encode_jpeg_bytes(gradient_image(width, height, 4), 90, true)));
  write_bytes(unusual(), make_png(static_cast<uint32_t>(width), static_cast<uint32_t>(height), 16, 2,
                                  scanlines(width, height, 6)));
  write_bytes(unusual(),
              make_png(static_cast<uint32_t>(width), static_cast<uint32_t>(height), 8, 6, scanlines(width, height, 4)));
  write_bytes(mask_of(unusual()), make_png(static_cast<uint32_t>(width), static_cast<uint32_t>(height), 16, 0,
                                           scanlines(width, height, 2)));
  encode_png(unusual(), gradient_image(width, height, 3));  // a PNG called .jpg
  return result;
}

}  // namespace camo::test
