// convert, info and export from the outside.
#include <gmock/gmock.h>

#include <cstdlib>

#include "core/pth/pth.h"
#include "core/safetensors.h"
#include "data/image.h"
#include "models/camoxpert/checkpoint.h"
#include "tests/apps/program.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::ProgramResult;
using test::run_camoxpert;
using ::testing::HasSubstr;
using ::testing::Not;

/// A checkpoint of the smallest network with random weights.
class Weights : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new test::TemporaryFolder;
    seed_everything(1);
    const CamoXpertSpec spec{.backbone = "edgenext_xx_small", .num_experts = 3, .deep_supervision = false};
    const CamoXpert network(spec);
    save_checkpoint(ours(), network, {.spec = spec, .img_size = 64, .epoch = 5, .step = 40, .iou = 0.25});
  }
  static void TearDownTestSuite() { delete folder_; }

  static std::string path(const std::string& name) { return (folder_->path() / name).string(); }
  static std::string ours() { return path("ours.safetensors"); }

  static void expect_failure(const std::string& arguments, int exit_code, const std::string& text) {
    const ProgramResult result = run_camoxpert(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << arguments << "\n" << result.output;
    EXPECT_THAT(result.output, HasSubstr(text)) << arguments;
  }

  static test::TemporaryFolder* folder_;
};
test::TemporaryFolder* Weights::folder_ = nullptr;

TEST_F(Weights, ConvertThereAndBackIsBitEqual) {
  const ProgramResult there = run_camoxpert("convert " + ours() + " " + path("theirs.pth"));
  ASSERT_EQ(there.exit_code, 0) << there.output;
  EXPECT_THAT(there.output, HasSubstr("theirs.pth: a checkpoint of edgenext_xx_small with 3 experts"));
  const auto file = open_tensor_file(path("theirs.pth"));
  EXPECT_EQ(file->tensors().front().name, "model_state_dict/backbone.stem_0.weight");
  EXPECT_EQ(file->metadata().at("epoch"), "5");
  EXPECT_EQ(file->metadata().at("best_iou"), "0.25");
  EXPECT_EQ(file->metadata().at("args/img_size"), "64");

  ASSERT_EQ(run_camoxpert("convert " + path("theirs.pth") + " " + path("back.safetensors")).exit_code, 0);
  const SafeTensors a = read_safetensors(ours()), b = read_safetensors(path("back.safetensors"));
  EXPECT_EQ(a.metadata, b.metadata);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    EXPECT_EQ(a.tensors[i].first, b.tensors[i].first);
    EXPECT_TRUE(test::bitwise_equal(a.tensors[i].second, b.tensors[i].second)) << a.tensors[i].first;
  }
}

TEST_F(Weights, ConvertMapsNamesAndListsWhatIsLeftOut) {
  const ProgramResult result =
      run_camoxpert("convert " + ours() + " " + path("timm.safetensors") + " --map timm-edgenext");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("a state dict with timm-edgenext names, 156 tensors"));
  EXPECT_THAT(result.output, HasSubstr("left out, as the output's names have no place for them"));
  EXPECT_THAT(result.output, HasSubstr("  final_conv.3.bias"));
  EXPECT_NE(read_safetensors(path("timm.safetensors")).find("stages.3.blocks.1.xca.temperature"), nullptr);
}

TEST_F(Weights, ConvertSaysWhatIsWrong) {
  expect_failure("convert " + ours() + " " + path("x.bin"), 2, "must end with .safetensors, .pth or .pt; got '.bin'");
  for (const char* command : {"convert ", "export "})
    expect_failure(command + ours() + " " + ours(), 2, "out: must be another file than in");
  expect_failure("convert " + ours() + " " + path("no/x.pth"), 2, "out: the file's folder must exist");
  expect_failure("convert " + ours() + " " + path("x.pth") + " --map keras", 2, "--map: must be one of camoxpert");
  expect_failure("convert " + path("none.pth") + " " + path("x.pth"), 4, "none.pth: cannot open");
  expect_failure("convert " + ours() + " " + path("x.pth") + " --group ema", 4, "must have tensors in 'ema'");
  write_safetensors(path("other.safetensors"), {.tensors = {{"conv1.weight", zeros({2})}}, .metadata = {}});
  expect_failure("convert " + path("other.safetensors") + " " + path("x.pth") + " --map camoxpert", 4,
                 "--map needs names of CamoXpert or of an EdgeNeXt");
  write_safetensors(path("stem.safetensors"),
                    {.tensors = {{"decoder_blocks.0.conv.0.weight", zeros({2})}}, .metadata = {}});
  expect_failure("convert " + path("stem.safetensors") + " " + path("x.pth") + " --map timm-edgenext", 4,
                 "no tensor has a name among timm-edgenext");
  EXPECT_FALSE(std::filesystem::exists(path("x.pth")));
  SafeTensors incomplete = read_safetensors(ours());
  incomplete.tensors.pop_back();
  incomplete.metadata.erase("checksums");
  incomplete.metadata.erase("checksum_metadata");
  write_safetensors(path("incomplete.safetensors"), incomplete);
  expect_failure("convert " + path("incomplete.safetensors") + " " + path("x.pth"), 4,
                 "missing in the file (1):\n  final_conv.3.bias");
}

TEST_F(Weights, TrainingBeginsWithPublishedWeights) {
  ASSERT_EQ(run_camoxpert("synth --output " + path("data") + " --train 4 --test 1 --size 64").exit_code, 0);
  ASSERT_EQ(run_camoxpert("convert " + ours() + " " + path("authors.pth") + " --map edgenext-authors").exit_code, 0);
  const std::string train = "train --dataset-path " + path("data") + " --checkpoint-dir " + path("run") +
                            " --backbone edgenext_xx_small --num-experts 3 --img-size 32 --batch-size 2 --max-steps 1"
                            " --num-workers 0 --pretrained ";
  const ProgramResult result = run_camoxpert(train + path("authors.pth"));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("authors.pth: edgenext-authors names: 156 of 156 backbone tensors"));
  EXPECT_THAT(result.output, Not(HasSubstr("random weights")));
  // The first step trains with a frozen backbone: it must still be the file's.
  const SafeTensors before = read_safetensors(ours()),
                    after = read_safetensors(path("run/checkpoints/last.safetensors"));
  for (const auto& [name, tensor] : after.tensors) {
    if (!name.starts_with("backbone.")) continue;
    EXPECT_TRUE(test::bitwise_equal(tensor, before.at(name))) << name;
  }

  const std::string five = " --num-experts 5 --checkpoint-dir " + path("five");
  expect_failure(train + ours() + five, 4, "nothing was loaded; --partial loads what fits");
  EXPECT_FALSE(std::filesystem::exists(path("five")));
  const ProgramResult partial = run_camoxpert(train + ours() + five + " --partial");
  ASSERT_EQ(partial.exit_code, 0) << partial.output;
  EXPECT_THAT(partial.output,
              HasSubstr("different (8):\n  moe_layers.0.gate.fusion.3.weight: network f32 [5, 12], file f32 [3, 12]"));
  EXPECT_THAT(partial.output, HasSubstr("missing in the file ("));
  expect_failure("train --dataset-path " + path("data") + " --partial", 2, "--partial: needs --pretrained FILE");
}

TEST_F(Weights, InfoShowsThePthFile) {
  const ProgramResult result = run_camoxpert("info " + test::golden_file("pth/training.pth").string());
  ASSERT_EQ(result.exit_code, 0) << result.output;
  for (const char* text :
       {"model_state_dict/view.transposed", "[4, 6]", "metadata args/backbone        edgenext_xx_small",
        "names of another model in 'model_state_dict'", "pth, 5 tensors, 52 elements, 208 B, checksum "}) {
    EXPECT_THAT(result.output, HasSubstr(text));
  }
}

TEST_F(Weights, PredictTakesAPthOfTheReference) {
  ASSERT_EQ(run_camoxpert("convert " + ours() + " " + path("reference.pth")).exit_code, 0);
  const std::string predict = "predict --input " + test::golden_file("chelsea.png").string() + " --checkpoint ";
  for (const char* name : {"ours.safetensors", "reference.pth"}) {
    const ProgramResult result =
        run_camoxpert(predict + path(name) + " --output-dir " + path(std::string(name) + ".masks"));
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }
  const Image a = decode_image(path("ours.safetensors.masks/chelsea.png"), 1);
  EXPECT_EQ(a.pixels, decode_image(path("reference.pth.masks/chelsea.png"), 1).pixels);
}

TEST_F(Weights, ExportWritesAModel) {
  const ProgramResult result = run_camoxpert("export " + ours() + " " + path("model.onnx"));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("image [batch, 3, 64, 64] to logits [batch, 1, 64, 64], opset 18"));
  EXPECT_GT(std::filesystem::file_size(path("model.onnx")), std::filesystem::file_size(ours()));
  expect_failure("export " + ours() + " " + path("small.onnx") + " --img-size 31", 2,
                 "--img-size: must be 0 or within 32 and 4096; got 31");
  expect_failure("export " + test::golden_file("pth/training.pth").string() + " " + path("x.onnx"), 4,
                 "is not a checkpoint of camoxpert, nor a state dict of all its tensors; got unknown names");
  ProgramResult without =
      run_camoxpert("export " + ours() + " " + path("x.onnx") + " --verify", "CAMO_PYTHON=/bin/no-python");
  EXPECT_EQ(without.exit_code, 2);
  EXPECT_THAT(without.output, HasSubstr("--verify: runs the model with onnxruntime, which /bin/no-python has not"));
}

TEST_F(Weights, OnnxruntimeAgrees) {
  const char* named = std::getenv("CAMO_PYTHON");
  const std::string python = named != nullptr ? named : "python3";
  if (std::system((python + " -c 'import numpy, onnxruntime' 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << python << " has no onnxruntime (pip install onnxruntime; CAMO_PYTHON names another Python)";
  }
  const std::string picture = " --input " + test::golden_file("chelsea.png").string();
  for (const char* size : {"64", "100"}) {  // 100: stages of odd sizes, skip maps that need a resize
    const ProgramResult result = run_camoxpert("export " + ours() + " " + path("verified.onnx") +
                                               " --verify --tolerance 1e-5 --img-size " + size + picture);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("one by one"));
  }
  const ProgramResult strict =
      run_camoxpert("export " + ours() + " " + path("verified.onnx") + " --verify --tolerance 1e-12");
  EXPECT_EQ(strict.exit_code, 1);
  EXPECT_THAT(strict.output, HasSubstr("--verify: the outputs must agree within 1e-12; got "));
}

}  // namespace
}  // namespace camo
