// camoxpert evaluate: of a checkpoint and of files; what it writes and refuses.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/camoxpert/inference.h"
#include "data/image.h"
#include "models/camoxpert/checkpoint.h"
#include "ops/elementwise.h"
#include "tests/apps/small_data.h"
#include "tests/data/test_images.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using app::Predictor;
using app::TestTimeAugmentation;
using test::expect_failure;
using test::expect_success;
using test::read_text;
using test::small_data;
using ::testing::HasSubstr;
using ::testing::Not;

std::string of_checkpoint() {
  return "evaluate --dataset-path " + small_data().data() + " --checkpoint " + small_data().checkpoint();
}

nlohmann::json parsed(const std::string& path) { return nlohmann::json::parse(std::ifstream(path)); }

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// What `predict` writes and `evaluate --pred` scores is what `evaluate --checkpoint` scores, bit for bit; on the CPU
// whatever the batches, on a GPU, whose libraries choose kernels by the batch, with the same ones.
TEST(Evaluate, CheckpointAndItsPredictionsHaveTheSameScores) {
  const test::SmallData& small = small_data();
  const std::string batch = default_device().is_cpu() ? " --batch-size 2" : " --batch-size 4";
  for (const std::string tta : {"", " --tta flip,rotate,0.75"}) {
    const std::string folder = small.path("pred" + std::to_string(tta.size()));
    expect_success(of_checkpoint() + tta + " --batch-size 4 --json " + small.path("a.json"));
    expect_success("predict --checkpoint " + small.checkpoint() + " --input " + small.data() +
                   "/Test/Imgs --output-dir " + folder + tta + batch + " --overlay");
    const std::string output = expect_success("evaluate --pred " + folder + " --gt " + small.data() +
                                              "/Test/GT --json " + small.path("b.json"));
    EXPECT_THAT(output, HasSubstr("5 files in " + folder + " have no mask and are not scored"));
    const auto a = parsed(small.path("a.json")), b = parsed(small.path("b.json"));
    EXPECT_EQ(a["dataset"], b["dataset"]);
    ASSERT_EQ(a["per_image"].size(), 5u);
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(a["per_image"][i]["name"].get<std::string>() + ".png", b["per_image"][i]["name"].get<std::string>());
      EXPECT_EQ(a["per_image"][i]["wfm"], b["per_image"][i]["wfm"]);
    }
    for (const char* key : {"mae", "sm", "wfm", "adp_fm", "mean_fm", "max_fm", "adp_em", "mean_em", "max_em", "iou"})
      EXPECT_TRUE(a["dataset"].contains(key) && a["per_image"][0].contains(key)) << key;
    EXPECT_EQ(a["expert_usage"].size(), 4u);
  }
}

TEST(Evaluate, RecordedScoresThroughTheCommand) {
  const fs::path folder = fs::path(CAMO_SOURCE_DIR) / "tests/golden/metrics";
  const std::string json = small_data().path("recorded.json");
  expect_success("evaluate --pred " + (folder / "pred").string() + " --gt " + (folder / "gt").string() + " --json " +
                 json + " --threads 2");
  const auto expected = parsed((folder / "expected.json").string()), scores = parsed(json);
  for (const auto& [key, value] : expected["dataset"].items())
    EXPECT_NEAR(scores["dataset"][key].get<double>(), value.get<double>(), 1e-11) << key;
}

TEST(Evaluate, WritesTablesAndAReport) {
  const test::SmallData& small = small_data();
  // Two sets that are joined have means of their own.
  const std::string output = expect_success("evaluate --checkpoint " + small.checkpoint() + " --dataset-path " +
                                            small.data() + "/Test+" + small.data() + "/Train --per-image " +
                                            small.path("out.csv") + " --latex " + small.path("out.tex") + " --report " +
                                            small.path("out.html") + " --contact-sheet " + small.path("sheet.png"));
  EXPECT_THAT(output, HasSubstr("13 pairs"));
  EXPECT_THAT(output, HasSubstr("data_2"));
  const std::string csv = read_text(small.path("out.csv"));
  EXPECT_EQ(count(csv, "\n"), 14u);
  EXPECT_TRUE(csv.starts_with("name,sm,wfm,mae,"));
  EXPECT_THAT(read_text(small.path("out.tex")), HasSubstr("CamoXpert & data\\_2 & "));
  const std::string html = read_text(small.path("out.html"));
  EXPECT_EQ(count(html, "<svg"), 3u);
  EXPECT_EQ(count(html, "<img"), 12u * 4);
  EXPECT_EQ(count(html, "src="), count(html, "src=\"data:image/jpeg;base64,"));
  for (const char* text : {"Expert usage", "Worst pictures", "Best pictures", "S-measure", "aria-sort"})
    EXPECT_THAT(html, HasSubstr(text));
  for (const char* elsewhere : {"http:", "https:", "url(", "@import"}) EXPECT_THAT(html, Not(HasSubstr(elsewhere)));
  EXPECT_GT(decode_image(small.path("sheet.png"), 3).height, 64);
}

TEST(Evaluate, OnePredictionForTwoMasks) {
  const test::SmallData& small = small_data();
  expect_failure("evaluate --pred " + small.data() + "/Test/GT --dataset-path " + small.data() + "/Test+" +
                     small.data() + "/Train",
                 3, "has the name of two masks, " + small.data() + "/Test/GT/00001.png and ");
}

TEST(Evaluate, ReportOfPredictions) {
  const test::SmallData& small = small_data();
  const std::string masks = small.data() + "/Test/GT";
  const std::string output =
      expect_success("evaluate --pred " + masks + " --gt " + masks + " --latex --report " + small.path("exact.html"));
  EXPECT_THAT(output, HasSubstr("\\begin{tabular}"));
  EXPECT_EQ(count(read_text(small.path("exact.html")), "<img"), 5u * 3);  // masks alone have no pictures
  expect_success("evaluate --pred " + masks + " --dataset-path " + small.data() + " --report " +
                 small.path("exact.html"));
  EXPECT_EQ(count(read_text(small.path("exact.html")), "<img"), 5u * 4);
}

TEST(Evaluate, RefusesFlagsThatDoNotGoTogether) {
  const test::SmallData& small = small_data();
  const std::string pred = "evaluate --pred " + small.data() + "/Test/GT --gt " + small.data() + "/Test/GT";
  expect_failure("evaluate --dataset-path " + small.data(), 2,
                 "either --checkpoint (with --dataset-path) or --pred (with --gt); got neither");
  expect_failure(of_checkpoint() + " --pred x", 2, "got both");
  expect_failure(of_checkpoint() + " --gt x", 2, "--checkpoint wants --dataset-path, and no --gt");
  expect_failure("evaluate --pred x", 2, "the masks from either --gt or --dataset-path; got neither");
  expect_failure(pred + " --dataset-path x", 2, "the masks from either --gt or --dataset-path; got both");
  expect_failure(pred + " --tta", 2, "--tta: is of use with --checkpoint only");
  expect_failure(pred + " --img-size 64", 2, "--img-size: is of use with --checkpoint only");
  expect_failure(pred + " --contact-sheet x.png", 2, "--contact-sheet: is of use with --checkpoint only");
  expect_failure(pred + " --backbone edgenext_base", 2, "--backbone: is of use with --checkpoint only");
  expect_failure(of_checkpoint() + " --img-size 31", 2, "--img-size: must be 0 or within 32 and 4096; got 31");
  expect_failure(of_checkpoint() + " --batch-size 0", 2, "--batch-size: must be at least 1; got 0");
  for (const char* tta : {"flop", "flip,", "0.1", "5", "nan"})
    expect_failure(of_checkpoint() + " --tta " + tta, 2, "--tta: must be parts joined with ','");
  for (const char* rule : {"skip", "skip:0", "skip:-1", "skip:2x", "ignore"})
    expect_failure(of_checkpoint() + " --on-bad-image " + rule, 2,
                   "--on-bad-image: must be error or skip:N with N at least 1");
  for (const char* flag : {"--json", "--per-image", "--latex", "--report"}) {
    expect_failure(pred + " " + flag + " " + small.path("nowhere/x"), 2,
                   std::string(flag) + ": the file's folder must exist");
    expect_failure(pred + " " + flag + " " + small.data(), 2, std::string(flag) + ": must name a file; got the folder");
  }
}

TEST(Evaluate, MissingPredictionsAreNoBetterMean) {
  const test::SmallData& small = small_data();
  const fs::path folder = small.copy_of_data("incomplete");
  const std::string gt = (folder / "Test/GT").string();
  fs::create_directory(folder / "Test/pred");
  for (const auto& [stem, path] : pictures_by_stem(gt)) fs::copy(path, folder / "Test/pred");
  const std::string pred = (folder / "Test/pred").string(), json = small.path("incomplete.json");
  fs::remove(folder / "Test/pred/00002.png");
  test::write_bytes(folder / "Test/pred/00004.png", test::to_bytes("\x89PNG"));
  const std::string evaluate = "evaluate --pred " + pred + " --gt " + gt + " --json " + json;
  expect_failure(evaluate, 3, "00002.png: has no prediction of the same name");
  expect_failure(evaluate + " --on-bad-image skip:1", 3, "00004.png");
  EXPECT_FALSE(fs::exists(json));
  const std::string output = expect_success(evaluate + " --on-bad-image skip:2");
  EXPECT_THAT(output, HasSubstr("3 pairs"));
  EXPECT_THAT(output, HasSubstr("2 pictures left out"));
  EXPECT_EQ(parsed(json)["left_out"].size(), 2u);
  expect_failure("evaluate --pred " + pred + " --gt " + small.path("nowhere"), 3, "--gt: no such folder");
  expect_failure("evaluate --pred " + small.path("nowhere") + " --gt " + gt, 3, "--pred: no such folder");
  fs::create_directory(folder / "none");
  expect_failure("evaluate --pred " + pred + " --gt " + (folder / "none").string(), 3, "--gt: the folder holds no");
}

Image mirrored(const Image& image) {
  Image out(image.width, image.height, image.channels);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      for (int c = 0; c < image.channels; ++c)
        out.row(y)[x * image.channels + c] = image.row(y)[(image.width - 1 - x) * image.channels + c];
  return out;
}

Image turned(const Image& image) { return apply_orientation(image, 6); }

float largest_difference(const app::ProbabilityMap& a, const Image& b) {
  float largest = 0;
  for (size_t i = 0; i < a.values.size(); ++i)
    largest = std::max(largest, std::abs(a.values[i] * 255 - static_cast<float>(b.pixels[i])));
  return largest;
}

TEST(TestTimeAugmentation, PartsAndViews) {
  EXPECT_EQ(TestTimeAugmentation::parse("").passes(), 1);
  EXPECT_EQ(TestTimeAugmentation::parse("flip,0.75,1,1.25").passes(), 6);
  EXPECT_EQ(TestTimeAugmentation::parse("rotate,flip").passes(), 8);
  EXPECT_EQ(TestTimeAugmentation::parse("1.5").scales, (std::vector<double>{1, 1.5}));
}

// With all views of a square, turning the picture turns the answer.
TEST(TestTimeAugmentation, AnswersTurnWithThePicture) {
  const auto loaded = load_checkpoint(small_data().checkpoint());
  // An untrained network answers nearly the same everywhere: make it louder.
  for (const NamedTensor& parameter : loaded.network->named_parameters()) {
    if (parameter.name == "final_conv.3.weight") parameter.import(parameter.exported() * 100.0);
  }
  const Image picture = decode_image(pictures_by_stem(small_data().data() + "/Test/Imgs").begin()->second, 3);
  const Image mirror = mirrored(picture), turn = turned(picture);
  const std::vector<const Image*> three{&picture, &mirror, &turn};
  auto maps = Predictor(*loaded.network, 64, TestTimeAugmentation::parse("flip,rotate"))(three);
  const Image answer = maps[0].to_image();
  EXPECT_LT(largest_difference(maps[1], mirrored(answer)), 0.6f);
  EXPECT_LT(largest_difference(maps[2], turned(answer)), 0.6f);
  // Without them it does not: the test would see views that are put back the wrong way.
  maps = Predictor(*loaded.network, 64)(three);
  EXPECT_GT(largest_difference(maps[1], mirrored(maps[0].to_image())), 2.f);
  EXPECT_GT(largest_difference(maps[2], turned(maps[0].to_image())), 2.f);
}

}  // namespace
}  // namespace camo
