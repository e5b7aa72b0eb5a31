// The program from the outside: what it prints, what it writes, and how it fails.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/safetensors.h"
#include "data/image.h"
#include "models/camoxpert/checkpoint.h"
#include "tests/apps/program.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using test::ProgramResult;
using test::run_camoxpert;
using ::testing::HasSubstr;

std::string read_text(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// The command fails with this exit code and says this.
void expect_failure(const std::string& arguments, int exit_code, const std::string& text,
                    const std::string& environment = {}) {
  const ProgramResult result = run_camoxpert(arguments, environment);
  EXPECT_EQ(result.exit_code, exit_code) << arguments << "\n" << result.output;
  EXPECT_THAT(result.output, HasSubstr(text)) << arguments;
}

/// A small data set and a network trained on it for a few steps, shared by the tests below.
class CommandLine : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new test::TemporaryFolder;
    const ProgramResult synth = run_camoxpert("synth --output " + data() + " --train 12 --test 5 --size 64");
    ASSERT_EQ(synth.exit_code, 0) << synth.output;
    train_output_ = new std::string;
    const ProgramResult train = run_camoxpert("train --dataset-path " + data() + " --checkpoint-dir " + run() + kSmall);
    ASSERT_EQ(train.exit_code, 0) << train.output;
    *train_output_ = train.output;
  }
  static void TearDownTestSuite() {
    delete folder_;
    delete train_output_;
  }

  static std::string path(const std::string& name) { return (folder_->path() / name).string(); }
  static std::string data() { return path("data"); }
  static std::string run() { return path("run"); }
  static std::string best() { return run() + "/checkpoints/best.safetensors"; }

  static constexpr const char* kSmall =
      " --backbone edgenext_xx_small --img-size 64 --batch-size 4 --accumulation-steps 1 --epochs 2 --stage1-epochs 1"
      " --num-workers 1 --val-fraction 1 --deep-supervision";

  static test::TemporaryFolder* folder_;
  static std::string* train_output_;
};
test::TemporaryFolder* CommandLine::folder_ = nullptr;
std::string* CommandLine::train_output_ = nullptr;

TEST_F(CommandLine, TrainReportsWhatItDoes) {
  for (const char* text :
       {"edgenext_xx_small, 7 experts", "12 training pairs", "the first 5 of 5 test pairs", "attention",
        "untrained: validation IoU", "answering 'everything'", "stage 1, backbone frozen", "stage 2, all weights",
        "peak of the first step", "experts  ", "stage 4", "done: 6 steps"}) {
    EXPECT_THAT(*train_output_, HasSubstr(text));
  }
}

TEST_F(CommandLine, TrainFillsTheRunFolder) {
  for (const char* file : {"config.toml", "env.json", "log.txt", "metrics.jsonl", "history.json",
                           "checkpoints/last.safetensors", "checkpoints/best.safetensors", "samples/epoch_002.png"}) {
    EXPECT_TRUE(fs::exists(fs::path(run()) / file)) << file;
  }
  std::ifstream metrics(run() + "/metrics.jsonl");
  int rows = 0;
  for (std::string line; std::getline(metrics, line);) rows += !line.empty();
  EXPECT_EQ(rows, 6);  // 12 pairs in batches of 4, 2 epochs
  const SafeTensors file = read_safetensors(best());
  EXPECT_EQ(file.metadata.at("backbone"), "edgenext_xx_small");
}

TEST_F(CommandLine, ConfigurationIsAcceptedBack) {
  const std::string again = path("again");
  const ProgramResult result =
      run_camoxpert("train --config " + run() + "/config.toml --checkpoint-dir " + again + " --max-steps 1");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("done: 1 steps"));
  EXPECT_THAT(read_text(again + "/config.toml"), HasSubstr("backbone=\"edgenext_xx_small\""));
  EXPECT_THAT(read_text(again + "/config.toml"), HasSubstr("tf32=true"));  // what is on by default stays on
}

TEST_F(CommandLine, SameSeedGivesTheSameWeights) {
  const std::string twin = path("twin");
  ASSERT_EQ(run_camoxpert("train --dataset-path " + data() + " --checkpoint-dir " + twin + kSmall + " --num-workers 3")
                .exit_code,
            0);
  const SafeTensors a = read_safetensors(run() + "/checkpoints/last.safetensors");
  const SafeTensors b = read_safetensors(twin + "/checkpoints/last.safetensors");
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    ASSERT_TRUE(test::bitwise_equal(a.tensors[i].second, b.tensors[i].second)) << a.tensors[i].first;
  }
}

TEST_F(CommandLine, EvaluateScoresACheckpoint) {
  const ProgramResult result =
      run_camoxpert("evaluate --dataset-path " + data() + " --checkpoint " + best() + " --json " + path("scores.json") +
                    " --contact-sheet " + path("sheet.png"));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("IoU"));
  EXPECT_THAT(result.output, HasSubstr("everything"));
  EXPECT_THAT(read_text(path("scores.json")), HasSubstr("\"iou\""));
  EXPECT_GT(decode_image(path("sheet.png"), 3).height, 64);
}

TEST_F(CommandLine, PredictWritesMasksOfTheOriginalSize) {
  const std::string output = path("masks");
  const ProgramResult result = run_camoxpert("predict --checkpoint " + best() + " --input " + data() +
                                             "/Test/Imgs --output-dir " + output + " --overlay --threshold 0.5");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  int masks = 0;
  for (const auto& entry : fs::directory_iterator(output)) {
    const bool overlay = entry.path().stem().string().ends_with("_overlay");
    const Image image = decode_image(entry.path(), overlay ? 3 : 1);
    EXPECT_EQ(image.width, 64);
    if (overlay) continue;
    ++masks;
    for (uint8_t pixel : image.pixels) ASSERT_TRUE(pixel == 0 || pixel == 255);
  }
  EXPECT_EQ(masks, 5);
}

TEST_F(CommandLine, InfoShowsBuildAndCheckpoint) {
  const ProgramResult build = run_camoxpert("info");
  EXPECT_THAT(build.output, HasSubstr("31334228"));
  EXPECT_THAT(build.output, HasSubstr("cuda"));
  const ProgramResult file = run_camoxpert("info " + best());
  EXPECT_THAT(file.output, HasSubstr("backbone.stem_0.weight"));
  EXPECT_THAT(file.output, HasSubstr("metadata backbone"));
}

TEST_F(CommandLine, GradcheckRunsRegisteredCases) {
  const ProgramResult result = run_camoxpert("gradcheck --filter softmax");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("0 failed"));
  expect_failure("gradcheck --filter nonsense", 2, "no operation matches 'nonsense'");
}

TEST_F(CommandLine, BenchTimesTrainingAndInference) {
  const std::string json = path("bench.json");
  const std::string small =
      " --backbone edgenext_xx_small --img-size 32 --batch-size 1 --warmup 0 --steps 2 --json " + json;
  for (const char* what : {"train-step", "infer"}) {
    // On a GPU a breakdown needs a library that the machine may lack.
    const bool profiled = default_device().is_cpu();
    const ProgramResult result = run_camoxpert(std::string("bench ") + what + small + (profiled ? " --profile" : ""));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("images/s"));
    const nlohmann::json row = nlohmann::json::parse(std::ifstream(json));
    EXPECT_EQ(row["runs"], 2);
    if (!profiled) continue;
    EXPECT_THAT(result.output, HasSubstr("By operation and shape"));
    const nlohmann::json& families = row["profile"]["families"];
    for (const char* family : {"convolution", "attention", "experts", "other", "data"})
      EXPECT_GT(families[family]["ms"], 0) << family;
    EXPECT_GT(families["convolution"]["floor_ms"], 0);
  }
  expect_failure("bench flight", 2, "what: flight not in");
  expect_failure("bench infer --experts 0,7", 2, "--experts: must be from 0 to 6; got 7");
}

TEST_F(CommandLine, BenchTimesOperations) {
  const ProgramResult result = run_camoxpert("bench op --batch-size 1 --filter global_max --json " + path("ops.json"));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  const nlohmann::json report = nlohmann::json::parse(std::ifstream(path("ops.json")));
  ASSERT_EQ(report["rows"].size(), 1);
  for (const char* key : {"forward_ms", "backward_ms", "forward_floor_ms", "backward_floor_ms"})
    EXPECT_GT(report["rows"][0][key], 0) << key;
  expect_failure("bench op --filter nonsense", 2, "no operation's name contains 'nonsense'");
}

TEST_F(CommandLine, BenchTimesTheLoader) {
  const std::string loader = "bench loader --img-size 32 --batch-size 4 --num-workers 1 --epochs 1 --dataset-path ";
  for (const char* aug : {"light", "strong --raw"}) {
    const ProgramResult result = run_camoxpert(loader + data() + " --aug " + aug + " --json " + path("loader.json"));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("pictures/s"));
    const nlohmann::json report = nlohmann::json::parse(std::ifstream(path("loader.json")));
    EXPECT_GT(report["median"], 0);
    EXPECT_GT(report["stage_ms"]["1 decode picture"], 0);
  }
  expect_failure("bench loader", 2, "bench loader: needs --dataset-path");
  expect_failure(loader + data() + " --aug heavy", 2, "--aug: must be off, light or strong; got heavy");
  expect_failure(loader + data() + " --epochs 0", 2, "--epochs: must be at least 1; got 0");
  expect_failure(loader + data() + " --batch-size 4000", 2, "--batch-size: must be at most the ");
}

TEST_F(CommandLine, AugmentationSets) {
  EXPECT_THAT(run_camoxpert("train --help").output, HasSubstr("--aug"));
  EXPECT_THAT(read_text(run() + "/config.toml"), HasSubstr("aug=\"light\""));
  const std::string train = "train --dataset-path " + data() + " --checkpoint-dir " + path("augmented") + kSmall;
  expect_failure(train + " --aug heavy", 2, "--aug: must be off, light or strong; got heavy");
  EXPECT_FALSE(fs::exists(path("augmented")));
  const ProgramResult strong = run_camoxpert(train + " --aug strong");
  EXPECT_EQ(strong.exit_code, 0) << strong.output;
  EXPECT_THAT(strong.output, HasSubstr("strong augmentation"));
  EXPECT_THAT(read_text(path("augmented") + "/config.toml"), HasSubstr("aug=\"strong\""));
}

TEST_F(CommandLine, DevicesThatCannotBeUsed) {
  expect_failure("bench infer --device cuda:0", 5, "device: 'cuda:0' can't be used: ", "CUDA_VISIBLE_DEVICES=");
  expect_failure("bench infer --device cuda:99", 5, "device: 'cuda:99' ");
}

TEST_F(CommandLine, MistypedFlagsAndCommands) {
  expect_failure("train --dataset-path x --batchsize 4", 2, "did you mean --batch-size?");
  expect_failure("trian", 2, "did you mean train?");
  expect_failure("", 2, "subcommand is required");
  expect_failure("train", 2, "--dataset-path is required");
  expect_failure("train --dataset-path x --epochs many", 2, "--epochs");
  EXPECT_EQ(run_camoxpert("train --help").exit_code, 0);
  EXPECT_THAT(run_camoxpert("--version").output, HasSubstr("camoxpert 0."));
}

TEST_F(CommandLine, BadData) {
  expect_failure("train --dataset-path " + path("nowhere"), 3, "nowhere");
  fs::create_directories(path("hollow"));
  expect_failure("train --dataset-path " + path("hollow"), 3, "hollow");
  fs::create_directories(path("unpaired/Imgs"));
  fs::create_directories(path("unpaired/GT"));
  encode_png(path("unpaired/Imgs/a.png"), Image(8, 8, 3));
  encode_png(path("unpaired/GT/a.png"), Image(8, 8, 1));
  encode_png(path("unpaired/Imgs/b.png"), Image(8, 8, 3));
  expect_failure("train --dataset-path " + path("unpaired"), 3, "has no mask of the same name");
  expect_failure("predict --checkpoint " + best() + " --output-dir " + path("p") + " --input " + path("no.png"), 3,
                 "does not exist");
  EXPECT_FALSE(fs::exists(path("p"))) << "nothing is written before the input is checked";
}

TEST_F(CommandLine, DamagedPicturesAreNamed) {
  for (const char* part : {"Imgs", "GT"}) fs::create_directories(path(std::string("damaged/") + part));
  for (int i = 0; i < 4; ++i) {
    encode_png(path("damaged/Imgs/p" + std::to_string(i) + ".png"), Image(64, 64, 3, 90));
    encode_png(path("damaged/GT/p" + std::to_string(i) + ".png"), Image(64, i == 2 ? 32 : 64, 1, 255));
  }
  const std::string train =
      "train --dataset-path " + path("damaged") + " --val-path " + data() + " --checkpoint-dir " + path("r") + kSmall;
  expect_failure(train, 3, "p2");
  std::ofstream(path("damaged/GT/p2.png"), std::ios::trunc);
  expect_failure(train + " --overwrite", 3, "p2.png");
}

TEST_F(CommandLine, BadSettings) {
  const std::string train = "train --dataset-path " + data() + " --checkpoint-dir " + path("bad") + kSmall;
  expect_failure(train + " --backbone edgenext_huge", 2, "edgenext_base");
  expect_failure(train + " --attention-heads 5", 2, "heads");
  expect_failure(train + " --backbone edgenext_x_small", 2, "100");
  expect_failure(train + " --img-size 16", 2, "--img-size: must be within 32 and 4096; got 16");
  expect_failure(train + " --batch-size 13", 2, "must be at most 12");
  expect_failure(train + " --stage1-epochs 3", 2, "--stage1-epochs: must be at most --epochs (2); got 3");
  expect_failure(train + " --loss l1", 2, "advanced_cod");
  expect_failure(train + " --device gpu", 2, "must be auto, cpu, cuda or cuda:N");
  EXPECT_FALSE(fs::exists(path("bad"))) << "nothing is written before the settings are checked";
}

TEST_F(CommandLine, PictureSizesThatAreNoMultipleOf32Work) {
  const ProgramResult result = run_camoxpert("train --dataset-path " + data() + " --checkpoint-dir " + path("odd") +
                                             kSmall + " --img-size 75 --max-steps 1");
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST_F(CommandLine, UnwritableFolders) {
  std::ofstream(path("file")) << "in the way";
  expect_failure("train --dataset-path " + data() + kSmall + " --checkpoint-dir " + path("file/run"), 3,
                 "can't create");
  expect_failure(
      "predict --checkpoint " + best() + " --input " + data() + "/Test/Imgs --output-dir " + path("file/out"), 3,
      "can't create");
}

TEST_F(CommandLine, WrongCheckpoints) {
  const std::string evaluate = "evaluate --dataset-path " + data() + " --checkpoint ";
  expect_failure(evaluate + best() + " --backbone edgenext_small", 4, "holds backbone edgenext_xx_small");
  expect_failure(evaluate + path("none.safetensors"), 4, "none.safetensors");
  SafeTensors other;
  other.tensors.emplace_back("x", zeros({2}));
  write_safetensors(path("other.safetensors"), other);
  expect_failure(evaluate + path("other.safetensors"), 4, "is not a checkpoint of camoxpert");
  SafeTensors renamed = read_safetensors(best());
  renamed.metadata["backbone"] = "edgenext_small";
  for (const char* checksums : {"checksums", "checksum_metadata"}) renamed.metadata.erase(checksums);
  write_safetensors(path("renamed.safetensors"), renamed);
  expect_failure(evaluate + path("renamed.safetensors"), 4, "does not hold the network it names");
}

TEST_F(CommandLine, VerifyAttentionComparesTensorsAndTheNetwork) {
  const ProgramResult result =
      run_camoxpert("verify-attention --dataset-path " + data() + " --checkpoint " + best() + " --num-samples 2");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("whole network: edgenext_xx_small at 64 px on 2 pictures"));
  EXPECT_THAT(result.output, HasSubstr("stage 1: 256 tokens, 8 heads of 3: flash"));
  EXPECT_THAT(result.output, HasSubstr("flash and standard attention agree"));
  expect_failure("verify-attention --checkpoint " + best(), 2, "--dataset-path and --checkpoint belong together");
  expect_failure("verify-attention --num-samples 0", 2, "--num-samples: must be at least 1; got 0");
}

TEST_F(CommandLine, BenchAttention) {
  const std::string json = path("attention.json");
  const ProgramResult result = run_camoxpert(
      "bench attention --shapes B1H2N40D10,B2H1N33D73 --dtypes f32 --seconds 0 --sdpa-backend flash --json " + json);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  const auto rows = nlohmann::json::parse(read_text(json))["rows"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["width"], 73);
  EXPECT_THAT(rows[0]["kernel"].get<std::string>(), HasSubstr("flash"));
  for (const char* way : {"forward", "backward"}) {
    EXPECT_GT(rows[0][way]["kernel_us"], 0);
    EXPECT_GT(rows[0][way]["end_to_end_us"], 0);
    EXPECT_LT(rows[0][way]["max_error"], 1e-5);
  }
  expect_failure("bench attention --shapes B1H2N40", 2, "--shapes: must be like B16H8N2304D20; got 'B1H2N40'");
  expect_failure("bench attention --dtypes f8", 2, "--dtypes: must be f32, tf32, f16, bf16 or f64; got 'f8'");
}

TEST_F(CommandLine, FlashAttentionCanBeSwitchedOff) {
  EXPECT_THAT(*train_output_, HasSubstr("attention    stage 1: 256 tokens, 8 heads of 3: "));
  const std::string bench = "bench attention --shapes B1H1N16D8 --dtypes f32 --seconds 0";
  const std::string kernel = "B1 H1 N16 D8, f32: ";
  EXPECT_THAT(run_camoxpert(bench, "CAMO_SDPA_BACKEND=flash").output, HasSubstr(kernel + "flash"));
  EXPECT_THAT(run_camoxpert(bench + " --no-flash-attention", "CAMO_SDPA_BACKEND=flash").output,
              HasSubstr(kernel + "math"));
  EXPECT_THAT(run_camoxpert(bench + " --sdpa-backend math", "CAMO_SDPA_BACKEND=flash").output,
              HasSubstr(kernel + "math"));
  expect_failure(bench, 2, "fast not in", "CAMO_SDPA_BACKEND=fast");
}

}  // namespace
}  // namespace camo
