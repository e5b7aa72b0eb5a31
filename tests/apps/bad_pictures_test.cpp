// A tenth of a folder made unusable in twelve ways, and six more pairs unusual, in every command that reads data sets:
// strict runs name each bad file, tolerant ones leave out exactly those and say so.
#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

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

  /// The line with a pair's stem; empty when there is none.
  static std::string line_of(const std::string& stem, const std::string& output) {
    const size_t at = output.find("/" + stem + ".");
    if (at == std::string::npos) return "";
    const size_t begin = output.rfind('\n', at) + 1;
    return output.substr(begin, output.find('\n', at) - begin);
  }
  /// These bad pairs are named with what is wrong with them, each on a line of its own, and no other is.
  static void expect_named(const std::map<std::string, std::string>& bad, const std::string& output) {
    for (int i = 1; i <= kPairs; ++i) {
      const std::string stem = fs::path(name_of(i)).stem().string(), line = line_of(stem, output);
      const auto found = bad.find(stem);
      if (found == bad.end()) EXPECT_EQ(line, "") << output;
      else EXPECT_THAT(line, HasSubstr(found->second)) << stem << "\n" << output;
    }
  }
  static void expect_all_named(const std::string& output) { expect_named(damaged_->bad, output); }
  /// The command fails and names these, how many they are, and what to do about them.
  static void expect_stopped(const std::string& arguments, const std::map<std::string, std::string>& bad) {
    const test::ProgramResult result = test::run_camoxpert(arguments);
    EXPECT_EQ(result.exit_code, 3) << arguments << "\n" << result.output;
    const std::string count = std::to_string(bad.size());
    EXPECT_THAT(result.output, HasSubstr(count + " of the pictures can't be used"));
    EXPECT_THAT(result.output, HasSubstr("leave them out with --on-bad-image skip:" + count));
    expect_named(bad, result.output);
  }
  /// Of all bad pairs those with these stems.
  static std::map<std::string, std::string> bad_of(const std::set<std::string>& stems) {
    auto bad = damaged_->bad;
    std::erase_if(bad, [&](const auto& pair) { return !stems.contains(pair.first); });
    return bad;
  }
  /// A copy of the data in which every file has a partner, and the pairs that are still bad.
  static std::map<std::string, std::string> copy_pairs(const fs::path& copy) {
    fs::copy(path("data"), copy, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    const auto images = pictures_by_stem(copy / "Imgs"), masks = pictures_by_stem(copy / "GT");
    auto bad = damaged_->bad;
    for (const auto& [stem, image] : images)
      if (!masks.contains(stem)) fs::remove(image), bad.erase(stem);
    for (const auto& [stem, mask] : masks)
      if (!images.contains(stem)) fs::remove(mask), bad.erase(stem);
    return bad;
  }
  static std::string train(const fs::path& data, const std::string& run) {
    return "train --dataset-path " + data.string() +
           " --backbone edgenext_xx_small --img-size 32 --batch-size 2 --accumulation-steps 1 --epochs 1"
           " --stage1-epochs 0 --num-workers 2 --checkpoint-dir " +
           path(run);
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
  expect_stopped(evaluate, damaged_->bad);
  const test::ProgramResult too_many = test::run_camoxpert(evaluate + " --on-bad-image skip:11");
  EXPECT_EQ(too_many.exit_code, 3);
  EXPECT_THAT(too_many.output, HasSubstr("--on-bad-image skip:11 leaves out 11 at most"));
  expect_all_named(too_many.output);
  EXPECT_FALSE(fs::exists(path("scores.json")));
  const std::string output = expect_success(evaluate + " --on-bad-image skip:12");
  EXPECT_THAT(output, HasSubstr("108 pairs"));
  EXPECT_THAT(output, HasSubstr("12 pictures left out"));
  expect_all_named(output);
}

// A pair whose two files are bad is one picture less, and both are named.
TEST_F(BadPictures, BothFilesOfAPairAreNamed) {
  const fs::path data = small_data().copy_of_data("both");
  std::ofstream(data / "Test/Imgs/00002.jpg") << "no picture";
  std::ofstream(data / "Test/GT/00002.png") << "no mask";
  const std::string evaluate =
      "evaluate --checkpoint " + small_data().checkpoint() + " --dataset-path " + data.string() + " --img-size 32";
  const std::string of_files =
      "evaluate --pred " + (data / "Test/Imgs").string() + " --gt " + (data / "Test/GT").string();
  for (const std::string& command : {evaluate, of_files}) {
    const test::ProgramResult strict = test::run_camoxpert(command);
    EXPECT_EQ(strict.exit_code, 3);
    EXPECT_THAT(strict.output, HasSubstr("1 of the pictures can't be used"));
    EXPECT_THAT(strict.output, HasSubstr("Imgs/00002.jpg: not a JPEG"));
    EXPECT_THAT(strict.output, HasSubstr("GT/00002.png: not a JPEG"));
    EXPECT_THAT(expect_success(command + " --on-bad-image skip:1"), HasSubstr("1 pictures left out"));
  }
}

TEST_F(BadPictures, ScoringOfFilesStopsOrLeavesOutExactlyThose) {
  // Whole predictions: what is wrong is the masks', or that a picture or mask has no partner.
  const fs::path predictions = path("predictions");
  fs::create_directory(predictions);
  for (int i = 1; i <= kPairs; ++i) encode_png(predictions / name_of(i), Image(48, 40, 1, 90));
  const std::string evaluate = "evaluate --pred " + predictions.string() + " --dataset-path " + path("data");
  auto bad = bad_of(damaged_->bad_masks);
  for (const auto& [stem, reason] : damaged_->bad)
    if (reason.find("of the same name") != std::string::npos) bad[stem] = reason;
  ASSERT_EQ(bad.size(), 6u);
  expect_stopped(evaluate, bad);
  expect_named(bad, expect_success(evaluate + " --on-bad-image skip:6"));
}

TEST_F(BadPictures, PredictStopsOrLeavesOutExactlyThose) {
  const std::string predict = "predict --checkpoint " + small_data().checkpoint() + " --img-size 32 --output-dir ";
  // A folder has no missing pictures, and nothing is known of masks; they are pictures, too.
  auto images = bad_of(damaged_->bad_images);
  std::erase_if(images, [](const auto& pair) { return pair.second.starts_with("has no picture"); });
  ASSERT_EQ(images.size(), 5u);
  ASSERT_EQ(damaged_->bad_masks.size(), 4u);
  const std::string of_images = predict + path("masks") + " --input " + path("data/Imgs");
  expect_stopped(of_images, images);
  expect_stopped(predict + path("masks_of_masks") + " --input " + path("data/GT"), bad_of(damaged_->bad_masks));
  // A list can name missing files.
  auto listed = bad_of(damaged_->bad_images);
  for (auto& [stem, reason] : listed)
    if (reason.starts_with("has no picture")) reason = "no such image";
  std::ofstream list(path("list.txt"));
  for (int i = 1; i <= kPairs; ++i)
    list << fs::path(path("data/Imgs/") + name_of(i)).replace_extension(".jpg").string() << "\n";
  list.close();
  expect_stopped(predict + path("masks_of_list") + " --input " + path("list.txt"), listed);
  const std::string output = expect_success(of_images + " --on-bad-image skip:5");
  EXPECT_THAT(output, HasSubstr("5 pictures left out"));
  EXPECT_THAT(output, HasSubstr("114 masks written"));
  expect_named(images, output);
  EXPECT_EQ(pictures_by_stem(path("masks")).size(), 114u);
}

TEST_F(BadPictures, PrepareStopsOrLeavesOutExactlyThose) {
  const std::string prepare = "prepare --input " + path("data") + " --size 32 --output " + path("copy");
  expect_stopped(prepare, damaged_->bad);
  EXPECT_FALSE(fs::exists(path("copy")));
  const std::string output = expect_success(prepare + " --on-bad-image skip:12");
  EXPECT_THAT(output, HasSubstr("108 pairs of 32 x 32 px written"));
  expect_all_named(output);
  EXPECT_EQ(find_dataset(path("copy"), Split::all).samples.size(), 108u);
}

TEST_F(BadPictures, TrainingStopsOrReplacesExactlyThose) {
  const std::string validated = " --val-path " + small_data().data();
  expect_stopped(train(path("data"), "strict") + validated, damaged_->bad);
  expect_stopped(train(path("data"), "strict"), damaged_->bad);
  // Bad pictures to validate on only.
  expect_stopped(train(small_data().data(), "strict") + " --val-fraction 1 --val-path " + path("data"), damaged_->bad);
  EXPECT_FALSE(fs::exists(path("strict")));
  expect_all_named(expect_success(train(path("data"), "tolerant") + validated + " --on-bad-image skip:12"));
  expect_all_named(expect_success(train(path("data"), "strong") + validated + " --aug strong --on-bad-image skip:12"));
  // One of them is held out for the validation.
  EXPECT_THAT(expect_success(train(path("data"), "held_out") + " --on-bad-image skip:12 --max-steps 1"),
              HasSubstr("left out of the validation: " + path("data/Imgs/00012.jpg")));
  const test::ProgramResult too_many =
      test::run_camoxpert(train(path("data"), "fewer") + validated + " --on-bad-image skip:6");
  EXPECT_EQ(too_many.exit_code, 3);
  EXPECT_THAT(too_many.output, HasSubstr("--on-bad-image skip:6 leaves out 6 at most"));
  expect_all_named(too_many.output);
}

// With a partner for every file, the first bad one is met by a worker or by the validation. All are named, and the run
// goes on from its last checkpoint once they are mended.
TEST_F(BadPictures, StrictTrainingNamesAllWhenItMeetsTheFirst) {
  const fs::path data = path("pairs");
  const auto bad = copy_pairs(data);
  ASSERT_EQ(bad.size(), 10u);
  expect_stopped(train(data, "met_by_validation"), bad);
  const std::string met_by_worker = train(data, "met_by_worker") + " --val-path " + small_data().data();
  expect_stopped(met_by_worker, bad);
  EXPECT_TRUE(fs::exists(path("met_by_worker/checkpoints/last.safetensors")));
  for (const auto& [stem, reason] : bad) {
    fs::remove(data / "Imgs" / (stem + ".jpg"));
    fs::copy_file(data / "Imgs/00100.jpg", data / "Imgs" / (stem + ".jpg"));
    fs::copy_file(data / "GT/00100.png", data / "GT" / (stem + ".png"), fs::copy_options::overwrite_existing);
  }
  EXPECT_THAT(expect_success(met_by_worker + " --resume auto"), HasSubstr("going on after step"));
}

TEST_F(BadPictures, OfThousandsTheFirstAreNamed) {
  const fs::path data = small_data().copy_of_data("thousands");
  for (int i = 0; i < 3000; ++i) std::ofstream(data / "Train/Imgs" / name_of(10000 + i));
  const test::ProgramResult result = test::run_camoxpert(train(data, "thousands"));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.output, HasSubstr("3000 of the pictures can't be used:"));
  EXPECT_THAT(result.output, HasSubstr("/10049.png: has no mask"));
  EXPECT_THAT(result.output, Not(HasSubstr("/10050.png: has no mask")));
  EXPECT_THAT(result.output, HasSubstr("and 2950 more; camoxpert check-data lists all of a data set"));
  EXPECT_THAT(test::run_camoxpert("check-data --dataset-path " + data.string()).output, HasSubstr("/12999.png"));
}

}  // namespace
}  // namespace camo
