// camoxpert prepare and check-data.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/transforms.h"
#include "tests/apps/small_data.h"
#include "tests/data/test_images.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using test::expect_failure;
using test::expect_success;
using test::read_text;
using test::small_data;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Prepare, TrainingSeesTheSameBits) {
  const test::SmallData& small = small_data();
  const std::string output =
      expect_success("prepare --input " + small.data() + " --output " + small.path("copy") + " --size 48");
  EXPECT_THAT(output, HasSubstr("13 pairs of 48 x 48 px written"));
  for (const Split split : {Split::train, Split::test}) {
    const auto samples = find_dataset(small.data(), split).samples,
               copies = find_dataset(small.path("copy"), split).samples;
    ASSERT_EQ(samples.size(), copies.size());
    for (size_t i = 0; i < samples.size(); ++i) {
      EXPECT_EQ(samples[i].name, copies[i].name);
      const ResizedSample a = resize_sample(load_sample(samples[i]), 48), b = resize_sample(load_sample(copies[i]), 48);
      EXPECT_EQ(a.image, b.image);
      EXPECT_EQ(a.mask, b.mask);
    }
  }
}

TEST(Prepare, GoesOnWhereItStopped) {
  const test::SmallData& small = small_data();
  const std::string prepare =
      "prepare --input " + small.data() + " --output " + small.path("stopped") + " --size 40 --format jpg";
  expect_success(prepare);
  fs::remove(small.path("stopped/Train/GT/00003.png"));
  fs::remove(small.path("stopped/Test/Imgs/00001.jpg"));
  // A source that changed is copied again.
  const fs::path changed = small.data() + "/Train/Imgs/00005.jpg";
  fs::last_write_time(changed, fs::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_THAT(expect_success(prepare),
              HasSubstr("3 pairs of 40 x 40 px written to " + small.path("stopped") + ", 10 were there"));
  fs::last_write_time(changed, fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_THAT(expect_success(prepare), HasSubstr("0 pairs of 40 x 40 px written"));
  expect_failure("prepare --input " + small.data() + " --output " + small.path("stopped") + " --size 41", 3,
                 "is of a copy with other settings");
}

TEST(Prepare, JoinsDataSetsAndKeepsFoldersWithoutSplits) {
  const test::SmallData& small = small_data();
  fs::create_directory(small.path("one"));
  for (const char* kind : {"Imgs", "GT"}) fs::copy(small.data() + "/Test/" + kind, small.path("one/") + kind);
  expect_success("prepare --input " + small.path("one") + " --output " + small.path("one_copy") + " --size 32");
  EXPECT_TRUE(fs::exists(small.path("one_copy/Imgs/00001.png")));
  expect_success("prepare --input " + small.path("one") + "+" + small.data() + "/Train --output " +
                 small.path("two_copy") + " --size 32");
  EXPECT_TRUE(fs::exists(small.path("two_copy/Imgs/one_00001.png")));
  EXPECT_TRUE(fs::exists(small.path("two_copy/Imgs/data_00001.png")));
}

TEST(Prepare, RefusesBeforeItWrites) {
  const test::SmallData& small = small_data();
  const std::string out = small.path("never_copied"), prepare = "prepare --input " + small.data() + " --output " + out;
  expect_failure(prepare + " --size 31", 2, "--size: must be within 32 and 4096; got 31");
  expect_failure(prepare + " --size 64 --format gif", 2, "--format: must be png or jpg; got gif");
  expect_failure(prepare + " --size 64 --quality 0", 2, "--quality: must be within 1 and 100; got 0");
  expect_failure(prepare + " --size 64 --on-bad-image skip", 2, "--on-bad-image: must be error or skip:N");
  expect_failure("prepare --size 64 --input " + small.path("nowhere") + " --output " + out, 3, "no such folder");
  EXPECT_FALSE(fs::exists(out));
  expect_failure("prepare --size 64 --input " + small.data() + " --output " + small.data(), 3,
                 "--output: the folder must be empty or hold an earlier copy");
  expect_failure("prepare --size 64 --input " + small.data() + " --output " + small.checkpoint(), 3,
                 "--output: must be a folder; got the file");
}

TEST(CheckData, AGoodDataSet) {
  const test::SmallData& small = small_data();
  const std::string output =
      expect_success("check-data --dataset-path " + small.data() + " --json " + small.path("good.json"));
  EXPECT_THAT(output, HasSubstr("no errors"));
  const auto json = nlohmann::json::parse(read_text(small.path("good.json")));
  EXPECT_EQ(json["splits"]["train"]["good"], 8);
  EXPECT_EQ(json["splits"]["test"]["width"], (nlohmann::json{64, 64}));
  EXPECT_GT(json["splits"]["test"]["foreground"].get<double>(), 0.01);
}

TEST(CheckData, PicturesInBothSplitsAndOddMasks) {
  const test::SmallData& small = small_data();
  const fs::path folder = small.copy_of_data("overlap");
  // The same pixels in another format and under another name.
  const Image shared = decode_image(folder / "Train/Imgs/00002.jpg", 3);
  fs::remove(folder / "Test/Imgs/00004.jpg");
  encode_png(folder / "Test/Imgs/00004.png", shared);
  fs::copy(folder / "Train/Imgs/00006.jpg", folder / "Train/Imgs/00007.jpg", fs::copy_options::overwrite_existing);
  encode_png(folder / "Train/GT/00001.png", Image(64, 64, 1, 128));
  encode_png(folder / "Train/GT/00003.png", Image(64, 64, 1, 255));
  const test::ProgramResult result = test::run_camoxpert("check-data --dataset-path " + folder.string());
  EXPECT_EQ(result.exit_code, 3);
  for (const char* text : {"error (in both splits): ", "Test/Imgs/00004.png: the same pixels as ",
                           "Train/Imgs/00002.jpg", "note (twice): ", "Train/Imgs/00007.jpg: the same pixels",
                           "note (no object): ", "no pixel is above 128", "note (all object): ", "note (grey mask): ",
                           "100 % of its pixels are neither 0 nor 255", "check-data: 1 errors"})
    EXPECT_THAT(result.output, HasSubstr(text));
  // Test data from elsewhere.
  EXPECT_THAT(expect_success("check-data --dataset-path " + folder.string() + " --val-path " + small.data()),
              Not(HasSubstr("error (")));
}

TEST(CheckData, Refuses) {
  const test::SmallData& small = small_data();
  expect_failure("check-data --dataset-path " + small.data() + " --list -1", 2, "--list: must not be negative; got -1");
  expect_failure("check-data --dataset-path " + small.data() + " --json " + small.path("nowhere/x.json"), 2,
                 "--json: the file's folder must exist");
  expect_failure("check-data --dataset-path " + small.path("nowhere"), 3, "no such folder");
}

}  // namespace
}  // namespace camo
