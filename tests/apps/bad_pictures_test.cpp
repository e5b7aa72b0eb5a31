// A tenth of a folder made unusable in twelve ways, and six more pairs unusual, in every command that reads data sets:
// strict runs name each bad file, tolerant ones leave out exactly those and say so.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/image.h"
#include "data/synthetic.h"
#include "tests/apps/small_data.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using test::expect_failure;
using test::expect_success;
using test::read_text;
using test::small_data;
using ::testing::HasSubstr;
using ::testing::Not;

class BadPictures : public ::testing::Test {
 protected:
  static constexpr int kPairs = 120;

  static void SetUpTestSuite() {
    folder_ = new test::TemporaryFolder;
    SyntheticDatasetOptions options;
    options.folder = folder_->path() / "made";
    options.train_count = kPairs;
    options.test_count = 0;
    options.scene.width = 48, options.scene.height = 40;
    write_synthetic_dataset(options);
    fs::rename(options.folder / "Train", folder_->path() / "data");
    damaged_ = new test::DamagedFolder(test::damage(folder_->path() / "data"));
    ASSERT_EQ(damaged_->bad.size(), 12u);
  }
  static void TearDownTestSuite() {
    delete folder_;
    delete damaged_;
  }
  static std::string path(const std::string& name) { return (folder_->path() / name).string(); }

  /// All bad files are named, no other.
  static void expect_all_named(const std::string& output) {
    for (const auto& [stem, image] : pictures_by_stem(small_names())) {
      const bool named = output.find("/" + stem + ".") != std::string::npos;
      EXPECT_EQ(named, damaged_->bad.contains(stem)) << stem << "\n" << output;
    }
  }
  /// A folder with a file per pair, whole or not.
  static std::string small_names() {
    const fs::path names = folder_->path() / "names";
    if (fs::exists(names)) return names.string();
    fs::create_directory(names);
    for (int i = 1; i <= kPairs; ++i) std::ofstream(names / name_of(i));
    return names.string();
  }
  static std::string name_of(int i) {
    const std::string digits = std::to_string(i);
    return std::string(5 - digits.size(), '0') + digits + ".png";
  }

  static test::TemporaryFolder* folder_;
  static test::DamagedFolder* damaged_;
};
test::TemporaryFolder* BadPictures::folder_ = nullptr;
test::DamagedFolder* BadPictures::damaged_ = nullptr;

TEST_F(BadPictures, CheckDataNamesEach) {
  const std::string check = "check-data --dataset-path " + path("data") + " --list 0 --json " + path("check.json");
  const test::ProgramResult result = test::run_camoxpert(check);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.output, HasSubstr("12 errors"));
  expect_all_named(result.output);
  const auto json = nlohmann::json::parse(read_text(path("check.json")));
  int unusual = 0;
  for (const auto& finding : json["findings"]) {
    const auto kind = finding["kind"].get<std::string>();
    unusual += kind.starts_with("unusual") || kind == "suffix";
  }
  // Grey, CMYK, 16 bits, alpha, a 16-bit mask; and three PNGs that are called .jpg.
  EXPECT_EQ(unusual, 5 + 3);
  for (const char* text : {"grey", "CMYK", "16 bits a channel", "has alpha", "is a PNG by its content"})
    EXPECT_THAT(json["findings"].dump(), HasSubstr(text));
}

TEST_F(BadPictures, EvaluateStopsOrLeavesOutExactlyThose) {
  const std::string evaluate = "evaluate --checkpoint " + small_data().checkpoint() + " --dataset-path " +
                               path("data") + " --img-size 32 --json " + path("scores.json");
  const test::ProgramResult strict = test::run_camoxpert(evaluate);
  EXPECT_EQ(strict.exit_code, 3);
  EXPECT_THAT(strict.output, HasSubstr("12 of the pictures can't be used"));
  expect_all_named(strict.output);
  const test::ProgramResult too_many = test::run_camoxpert(evaluate + " --on-bad-image skip:11");
  EXPECT_EQ(too_many.exit_code, 3);
  EXPECT_THAT(too_many.output, HasSubstr("--on-bad-image skip:11 leaves out 11 at most"));
  EXPECT_FALSE(fs::exists(path("scores.json")));
  const std::string output = expect_success(evaluate + " --on-bad-image skip:12");
  EXPECT_THAT(output, HasSubstr("108 pairs"));
  EXPECT_THAT(output, HasSubstr("12 pictures left out"));
  expect_all_named(output);
}

TEST_F(BadPictures, PredictStopsOrLeavesOutExactlyThose) {
  const std::string predict = "predict --checkpoint " + small_data().checkpoint() + " --input " + path("data/Imgs") +
                              " --img-size 32 --output-dir " + path("masks");
  // Masks do not matter here: five pictures can't be read.
  const test::ProgramResult strict = test::run_camoxpert(predict);
  EXPECT_EQ(strict.exit_code, 3);
  EXPECT_THAT(strict.output, HasSubstr("5 of the pictures can't be used"));
  for (const char* text :
       {"cut short", "empty (0 bytes)", "not a JPEG, PNG or BMP", "header can't be read", "no such image"})
    EXPECT_THAT(strict.output, HasSubstr(text));
  const std::string output = expect_success(predict + " --on-bad-image skip:5");
  EXPECT_THAT(output, HasSubstr("5 pictures left out"));
  EXPECT_THAT(output, HasSubstr("114 masks written"));
  EXPECT_EQ(pictures_by_stem(path("masks")).size(), 114u);
}

TEST_F(BadPictures, PrepareStopsOrLeavesOutExactlyThose) {
  const std::string prepare = "prepare --input " + path("data") + " --size 32 --output " + path("copy");
  expect_failure(prepare, 3, "every picture must have a mask");
  EXPECT_FALSE(fs::exists(path("copy")));
  const std::string output = expect_success(prepare + " --on-bad-image skip:12");
  EXPECT_THAT(output, HasSubstr("108 pairs of 32 x 32 px written"));
  expect_all_named(output);
  EXPECT_EQ(find_dataset(path("copy"), Split::all).samples.size(), 108u);
}

TEST_F(BadPictures, TrainingStopsOrReplacesExactlyThose) {
  const std::string train =
      "train --dataset-path " + path("data") + " --val-path " + small_data().data() +
      " --backbone edgenext_xx_small --img-size 32 --batch-size 2 --accumulation-steps 1 --epochs 1"
      " --stage1-epochs 0 --num-workers 2 --checkpoint-dir ";
  expect_failure(train + path("strict"), 3, "every picture must have a mask of the same name");
  const std::string output = expect_success(train + path("tolerant") + " --on-bad-image skip:12");
  expect_all_named(output);
  expect_all_named(expect_success(train + path("strong") + " --aug strong --on-bad-image skip:12"));
  const test::ProgramResult too_many = test::run_camoxpert(train + path("fewer") + " --on-bad-image skip:6");
  EXPECT_EQ(too_many.exit_code, 3);
  EXPECT_THAT(too_many.output, HasSubstr("as many as may be skipped"));
}

// With a partner for every file, strict training stops in the first batch with a bad one, and names no other.
TEST_F(BadPictures, StrictTrainingNamesTheBadFilesOfABatch) {
  const fs::path folder = path("paired");
  fs::create_directory(folder);
  fs::copy(path("data"), folder / "data", fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  const auto images = pictures_by_stem(folder / "data" / "Imgs"), masks = pictures_by_stem(folder / "data" / "GT");
  for (const auto& [stem, image] : images)
    if (!masks.contains(stem)) fs::remove(image);
  for (const auto& [stem, mask] : masks)
    if (!images.contains(stem)) fs::remove(mask);
  const test::ProgramResult result =
      test::run_camoxpert("train --dataset-path " + (folder / "data").string() + " --val-path " + small_data().data() +
                          " --backbone edgenext_xx_small --img-size 32 --batch-size 8 --accumulation-steps 1 --epochs 1"
                          " --stage1-epochs 0 --checkpoint-dir " +
                          (folder / "run").string());
  EXPECT_EQ(result.exit_code, 3);
  int named = 0;
  for (const auto& [stem, image] : images) {
    if (result.output.find("/" + stem + ".") == std::string::npos) continue;
    ++named;
    EXPECT_TRUE(damaged_->bad.contains(stem)) << stem << "\n" << result.output;
  }
  EXPECT_GE(named, 1) << result.output;
}

}  // namespace
}  // namespace camo
