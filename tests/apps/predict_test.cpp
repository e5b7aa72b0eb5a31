// camoxpert predict: what it reads, writes and refuses.
#include <gmock/gmock.h>

#include <fstream>

#include "data/dataset.h"
#include "data/image.h"
#include "tests/apps/small_data.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using test::expect_failure;
using test::expect_success;
using test::small_data;
using ::testing::HasSubstr;

std::string predict(const std::string& input, const std::string& output) {
  return "predict --checkpoint " + small_data().checkpoint() + " --input " + input + " --output-dir " + output;
}

TEST(Predict, AFileAFolderOrAList) {
  const test::SmallData& small = small_data();
  const std::string folder = small.data() + "/Test/Imgs";
  const auto pictures = pictures_by_stem(folder);
  expect_success(predict(folder, small.path("from_folder")) + " --batch-size 3");
  const fs::path first = pictures.begin()->second;
  expect_success(predict(first.string(), small.path("from_file")));
  std::ofstream list(small.path("list.txt"));
  for (const auto& [stem, picture] : pictures) list << picture.string() << "\r\n\n";
  list.close();
  const std::string output =
      expect_success(predict(small.path("list.txt"), small.path("from_list")) + " --batch-size 5");
  EXPECT_THAT(output, HasSubstr("5 masks written"));
  const std::string name = first.stem().string() + ".png";
  const Image expected = decode_image(small.path("from_folder") + "/" + name, 1);
  EXPECT_EQ(expected.width, 64);
  for (const char* other : {"from_file", "from_list"}) {
    const Image mask = decode_image(small.path(other) + "/" + name, 1);
    for (size_t i = 0; i < mask.pixels.size(); ++i) ASSERT_NEAR(mask.pixels[i], expected.pixels[i], 1) << other;
  }
}

TEST(Predict, OriginalSizesAndThreshold) {
  const test::SmallData& small = small_data();
  fs::create_directory(small.path("sizes"));
  encode_png(small.path("sizes/wide.png"), Image(90, 33, 3, 120));
  encode_png(small.path("sizes/tall.png"), Image(20, 77, 3, 60));
  const std::string output =
      expect_success(predict(small.path("sizes"), small.path("sizes_out")) + " --threshold 0.5 --overlay --tta");
  EXPECT_THAT(output, HasSubstr("6 views each"));
  const Image mask = decode_image(small.path("sizes_out/wide.png"), 1);
  EXPECT_EQ(mask.width, 90);
  EXPECT_EQ(mask.height, 33);
  for (const uint8_t pixel : mask.pixels) ASSERT_TRUE(pixel == 0 || pixel == 255);
  EXPECT_EQ(decode_image(small.path("sizes_out/tall_overlay.png"), 3).height, 77);
}

TEST(Predict, RefusesBeforeItWrites) {
  const test::SmallData& small = small_data();
  const std::string folder = small.data() + "/Test/Imgs", out = small.path("never");
  expect_failure(predict(folder, out) + " --threshold 1.5", 2, "--threshold: must be within 0 and 1; got 1.5");
  expect_failure(predict(folder, out) + " --threshold -0.1", 2, "--threshold: must be within 0 and 1; got -0.1");
  expect_failure(predict(folder, out) + " --img-size 16", 2, "--img-size: must be 0 or within 32 and 4096; got 16");
  expect_failure(predict(folder, out) + " --tta sideways", 2, "--tta: must be parts joined with ','");
  expect_failure(predict(folder, out) + " --on-bad-image maybe", 2, "--on-bad-image: must be error or skip:N");
  expect_failure(predict(folder, out) + " --device cpu --cuda-graphs on", 2, "--cuda-graphs on: needs a GPU");
  std::ofstream(small.path("empty.txt"));
  expect_failure(predict(small.path("empty.txt"), out), 3, "is empty");
  fs::create_directories(small.path("twins/a"));
  encode_png(small.path("twins/p.png"), Image(8, 8, 3));
  encode_png(small.path("twins/p.bmp"), Image(8, 8, 3));
  expect_failure(predict(small.path("twins"), out), 3, "two pictures would be written to the same p.png");
  encode_png(small.path("twins/a/q.png"), Image(8, 8, 3));
  expect_failure(predict(small.path("twins/a"), small.path("twins/a")), 3,
                 "is a picture to read and would be overwritten");
  encode_png(small.path("twins/a/q_overlay.png"), Image(8, 8, 3));
  expect_failure(predict(small.path("twins/a"), out) + " --overlay", 3, "the same q_overlay.png");
  EXPECT_FALSE(fs::exists(out));
  const fs::path jpegs = small.copy_of_data("jpegs") / "Test" / "Imgs";
  expect_failure(predict(jpegs.string(), jpegs.string() + "/."), 3, "masks would lie among the pictures of");
}

}  // namespace
}  // namespace camo
