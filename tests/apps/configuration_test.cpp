// Where values come from: defaults, --config, CAMO_* variables, flags; and what is refused on the way. No command gets
// as far as reading its files here.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/apps/program.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::ProgramResult;
using test::run_camoxpert;
using ::testing::HasSubstr;
using ::testing::Not;

class Configuration : public ::testing::Test {
 protected:
  /// `camoxpert predict` with these flags, a file for --config and an environment.
  ProgramResult predict(const std::string& flags, const std::string& config = {}, const std::string& environment = {}) {
    std::ofstream(folder_.path() / "run.toml") << config;
    const std::string given = config.empty() ? "" : " --config " + (folder_.path() / "run.toml").string();
    return run_camoxpert("predict --checkpoint none --input none --output-dir none" + given + " " + flags, environment);
  }
  void expect_usage_error(const ProgramResult& result, const std::string& text) {
    EXPECT_EQ(result.exit_code, 2) << result.output;
    EXPECT_THAT(result.output, HasSubstr(text));
  }

  test::TemporaryFolder folder_;
  const std::string wrong_size_ = "--batch-size: must be at least 1; got ";
};

TEST_F(Configuration, FlagsBeatEnvironmentBeatsFile) {
  const std::string file = "[predict]\nbatch-size=0\n";
  expect_usage_error(predict("", file), wrong_size_ + "0");
  expect_usage_error(predict("", file, "CAMO_BATCH_SIZE=-1"), wrong_size_ + "-1");
  expect_usage_error(predict("--batch-size -2", file, "CAMO_BATCH_SIZE=-1"), wrong_size_ + "-2");
}

TEST_F(Configuration, TheEnvironmentCountsWhereverConfigStands) {
  const std::string file = (folder_.path() / "run.toml").string();
  std::ofstream(file) << "[predict]\nbatch-size=0\n";
  for (const std::string& given : {"--config " + file, "--config=" + file}) {
    expect_usage_error(
        run_camoxpert(given + " predict --checkpoint none --input none --output-dir none", "CAMO_BATCH_SIZE=-1"),
        wrong_size_ + "-1");
  }
}

TEST_F(Configuration, NegatedSwitchesHaveVariablesToo) {
  expect_usage_error(predict("", "", "CAMO_NO_TF32=x"), "--no-tf32: a switch must be true, false");
}

TEST_F(Configuration, AnEmptyVariableIsNoVariable) {
  expect_usage_error(predict("--batch-size 0", "", "CAMO_IMG_SIZE= CAMO_OVERLAY= CAMO_TTA="), wrong_size_ + "0");
}

TEST_F(Configuration, MisspeltVariablesAreNamed) {
  EXPECT_THAT(
      predict("", "", "CAMO_BATCHSIZE=8").output,
      HasSubstr("warning: the environment variable CAMO_BATCHSIZE is not known; did you mean CAMO_BATCH_SIZE?"));
  EXPECT_THAT(predict("", "", "CAMO_EPOCHS=8 CAMO_SYNC=1").output, Not(HasSubstr("warning")));  // a flag of train
}

TEST_F(Configuration, KeysOutsideOfSectionsBelongToTheCommand) {
  expect_usage_error(predict("", "batch-size=0\n"), wrong_size_ + "0");
  expect_usage_error(predict("", "batch-size=0\n[train]\nlr=1\n"), wrong_size_ + "0");
}

TEST_F(Configuration, UnknownNamesAreRefusedWithASuggestion) {
  expect_usage_error(predict("", "batch_size=1\n"),
                     "--config: 'predict.batch_size' is no flag of predict; did you mean batch-size?");
  expect_usage_error(predict("", "[train]\nepoch=1\n"), "'train.epoch' is no flag of train; did you mean epochs?");
  expect_usage_error(predict("", "[predict]\nhelp=true\n"), "'predict.help' is no flag of predict");
  expect_usage_error(predict("", "[trian]\nepochs=1\n"),
                     "a section must have the name of a command; got [trian]; did you mean train?");
  expect_usage_error(predict("", "[train.data]\nepochs=1\n"), "got [train.data]");
  expect_usage_error(predict("--batchsize 3"), "'--batchsize' is not known; did you mean --batch-size?");
}

TEST_F(Configuration, EveryKeyHasOneValue) {
  expect_usage_error(predict("", "[predict]\ntta=[]\n"), "'predict.tta' must have a value; got an empty list");
  expect_usage_error(predict("", "[predict]\ntta=[1, 2]\n"), "'predict.tta' must have one value; got 2");
  expect_usage_error(predict("", "[predict]\nbatch-size=1\nbatch-size=2\n"),
                     "'predict.batch-size' must have one value; got 2");
  expect_usage_error(predict("", "batch-size=1\n[predict]\nimg-size=64\nbatch-size=2\n"),
                     "'predict.batch-size' must have one value; got another one further down");
}

TEST_F(Configuration, CommentsEndWhereQuotesBegin) {
  expect_usage_error(predict("", "\xEF\xBB\xBF# a file\r\n[predict] # a section\r\nbatch-size=0 # none\r\n"),
                     wrong_size_ + "0");
  const std::string file = (folder_.path() / "paths.toml").string();
  std::ofstream(file) << "[prepare]\ninput=\"no#such 'folder'\" # [1, 2]\noutput='none'\nsize=32\n";
  const ProgramResult result = run_camoxpert("prepare --config " + file);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.output, HasSubstr("no#such 'folder'"));
}

TEST_F(Configuration, SwitchesAreBooleans) {
  const std::string rule = "a switch must be true, false, on, off, yes, no, 1 or 0; got '";
  for (const std::string value : {"18446744073709551614", "-18446744073709551614", "2", "maybe", "1.0", "tru"}) {
    expect_usage_error(predict("", "[predict]\nno-tf32=" + value + "\n"),
                       "--config: 'predict.no-tf32': " + rule + value + "'");
    expect_usage_error(predict("--overlay=" + value), "--overlay: " + rule + value + "'");
    expect_usage_error(predict("", "", "CAMO_OVERLAY=" + value), "--overlay: " + rule + value + "'");
  }
  expect_usage_error(predict("--overlay="), "--overlay: " + rule + "'");
  for (const std::string value : {"true", "False", "ON", "off", "yes", "no", "1", "0"}) {
    expect_usage_error(predict("--batch-size 0 --no-tf32=" + value, "[predict]\noverlay=" + value + "\n"),
                       wrong_size_ + "0");
  }
}

TEST_F(Configuration, AFlagTakesNoOtherFlagForItsValue) {
  expect_usage_error(predict("--img-size --batch-size 3"), "--img-size: must have a value; got the flag --batch-size");
  expect_usage_error(predict("--backbone= --batch-size 0"), wrong_size_ + "0");
}

TEST_F(Configuration, NumbersAreDecimalAndFit) {
  for (const std::string value : {"", "abc", "1.5", "1e3", "0x10", "010", " 3", "99999999999999999999", "nan"}) {
    const std::string text = "--batch-size: must be a whole number of 64 bits; got '" + value + "'";
    expect_usage_error(predict("'--batch-size=" + value + "'"), text);
    expect_usage_error(predict("--batch-size '" + value + "'"), text);
    expect_usage_error(predict("", "[predict]\nbatch-size=\"" + value + "\"\n"),
                       "'predict.batch-size': must be a whole");
  }
  expect_usage_error(predict("--threshold 0x1"), "--threshold: must be a number; got '0x1'");
  expect_usage_error(run_camoxpert("synth --output none --seed -1"),
                     "--seed: must be a whole number from 0 to 2^64 - 1; got '-1'");
}

TEST_F(Configuration, NumbersHaveBounds) {
  const std::string train = "train --dataset-path none ";
  for (const auto& [flags, text] : std::vector<std::pair<std::string, std::string>>{
           {train + "--epochs 9223372036854775807", "--epochs: must be within 1 and 1000000; got 9223372036854775807"},
           {train + "--accumulation-steps 9223372036854775807", "--accumulation-steps: must be within 1 and 1000000"},
           {train + "--num-workers 100000", "--num-workers: must be within 0 and 256; got 100000"},
           {train + "--cache-mb -1", "--cache-mb: must be within 0 and"},
           {train + "--img-size 5000", "--img-size: must be within 32 and 4096; got 5000"},
           {train + "--threads 1000000", "--threads: must be within 0 and 4096; got 1000000"},
           {"export none none.onnx --img-size 31", "--img-size: must be 0 or within 32 and 4096; got 31"},
           {"export none none.onnx --tolerance nan", "--tolerance: must not be negative; got nan"},
           {"export none none/none.onnx", "out: the file's folder must exist; got none/none.onnx"},
           {"verify-attention --img-size 16", "--img-size: must be 0 or within 32 and 4096; got 16"},
           {"verify-attention --batch-size -1", "--batch-size: must not be negative; got -1"},
           {"bench infer --rows -1", "--rows: must not be negative; got -1"},
           {"bench infer --max-time nan", "--max-time: must not be negative; got nan"},
           {"bench infer --num-experts 1000000", "num_experts must be at least 1 and at most 256; got 1000000"},
           {"bench attention --seconds -1", "--seconds: must be within 0 and 3600; got -1"}}) {
    expect_usage_error(run_camoxpert(flags), text);
  }
}

TEST_F(Configuration, SynthChecksBeforeItWrites) {
  const std::string output = (folder_.path() / "made").string();
  for (const auto& [flags, text] : std::vector<std::pair<std::string, std::string>>{
           {"--size 7", "a picture's sides must be within 8 and 8192; got 7 x 7"},
           {"--cue nan", "cue must be within 0 and 1; got nan"},
           {"--test 9223372036854775807", "counts must be within 0 and 4294967295"},
           {"--train 0 --test 0", "no pair to write"}}) {
    expect_usage_error(run_camoxpert("synth --output " + output + " " + flags), text);
  }
  EXPECT_FALSE(std::filesystem::exists(output));
  EXPECT_EQ(run_camoxpert("synth --train 1 --test 0 --output /dev/null/folder").exit_code, 3);
}

}  // namespace
}  // namespace camo
