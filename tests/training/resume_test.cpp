// A run that is stopped and goes on ends with the bits of one that was not. tests/campaigns has the large version.
#include "apps/camoxpert/training/resume.h"

#include <fstream>

#include "core/safetensors.h"
#include "tests/training/run_fixture.h"

namespace camo::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Resume : public test::TinyRun {};

TrainOptions resumed(TrainOptions options, int workers = 1) {
  options.resume = "auto";
  options.num_workers = workers;
  return options;
}

TEST_F(Resume, AnyStepAnyNumberOfWorkers) {
  const TrainOptions whole = options("whole");
  ASSERT_TRUE(train(whole).complete);
  const std::string metrics = test::read_text(path("whole/metrics.jsonl"));
  // Before the first step, within the epochs, at the end of a stage and at the end: each part with other workers.
  const TrainOptions parts = options("parts");
  const int workers[] = {0, 1, 4, 8};
  for (int64_t stop = 0; stop <= 6; ++stop) {
    const Result result = train(resumed(parts, workers[stop % 4]), stop);
    EXPECT_FALSE(result.complete) << stop;
    EXPECT_THAT(result.output, HasSubstr("stopped by signal 15 after step " + std::to_string(stop)));
  }
  const Result end = train(resumed(parts));
  EXPECT_TRUE(end.complete);
  EXPECT_THAT(end.output, HasSubstr("going on after step 6"));
  expect_same(last("whole"), last("parts"));
  EXPECT_EQ(test::read_text(path("parts/metrics.jsonl")), metrics);
  // Of a run that is complete nothing is left to do.
  EXPECT_TRUE(train(resumed(parts)).complete);
  expect_same(last("whole"), last("parts"));
}

TEST_F(Resume, StrongAugmentationInTheMiddleOfAnEpoch) {
  TrainOptions whole = options("strong");
  whole.aug = "strong";
  ASSERT_TRUE(train(whole).complete);
  TrainOptions parts = options("strong_parts");
  parts.aug = "strong";
  for (const int64_t stop : {1, 2, 4}) EXPECT_FALSE(train(resumed(parts, static_cast<int>(stop)), stop).complete);
  EXPECT_TRUE(train(resumed(parts, 0)).complete);
  expect_same(last("strong"), last("strong_parts"));
  EXPECT_EQ(test::read_text(path("strong/metrics.jsonl")), test::read_text(path("strong_parts/metrics.jsonl")));
  // It is not the light set under another name.
  ASSERT_TRUE(train(options("light")).complete);
  EXPECT_NE(test::read_text(path("strong/metrics.jsonl")), test::read_text(path("light/metrics.jsonl")));
}

TEST_F(Resume, AutoTakesTheNewestValidCheckpoint) {
  TrainOptions settings = options("damage");
  settings.save_every = 1;
  train(settings, 5);
  std::vector<std::string> warnings;
  EXPECT_EQ(newest_resume_point(path("damage"), warnings)->state.step, 5);
  const std::filesystem::path file = checkpoint_path(path("damage"), "last");
  std::string bytes = test::read_text(file);
  bytes[bytes.size() / 2] ^= 1;  // in a tensor
  std::ofstream(file, std::ios::binary) << bytes;
  const std::optional<ResumePoint> older = newest_resume_point(path("damage"), warnings);
  EXPECT_EQ(older->state.step, 3) << "best, of the end of the first epoch";
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], HasSubstr("does not have the checksum"));
  EXPECT_EQ(older->file, checkpoint_path(path("damage"), "best"));
  // Nothing but the steps since is lost.
  const Result result = train(resumed(settings));
  EXPECT_TRUE(result.complete);
  EXPECT_THAT(result.output, HasSubstr("warning: passed over: "));
  ASSERT_TRUE(train(options("undamaged")).complete);
  expect_same(last("damage"), last("undamaged"));
  // Without any valid one, the run does not silently begin again.
  for (const char* name : {"last", "best"}) std::ofstream(checkpoint_path(path("damage"), name)) << "cut";
  EXPECT_ERROR(train(resumed(settings)), "--resume auto: no checkpoint in");
}

TEST_F(Resume, WithoutACheckpointANewRunBegins) {
  const Result result = train(resumed(options("fresh")), 1);
  EXPECT_THAT(result.output, HasSubstr("no checkpoint to go on from yet"));
}

TEST_F(Resume, ARunIsNotOverwrittenByMistake) {
  TrainOptions settings = options("kept");
  train(settings, 1);
  EXPECT_ERROR(train(settings),
               "holds a run; give --resume auto to go on, --overwrite to replace it, or another folder");
  std::ofstream(path("kept/notes.txt")) << "mine";
  settings.overwrite = true;
  const Result result = train(settings, 2);
  EXPECT_THAT(result.output, Not(HasSubstr("going on")));
  EXPECT_EQ(test::read_text(path("kept/notes.txt")), "mine");
}

TEST_F(Resume, WhatDoesNotFitIsRefused) {
  train(options("first"), 1);
  const std::string file = checkpoint_path(path("first"), "last").string();
  TrainOptions other = options("second");
  other.resume = path("nowhere.safetensors").string();
  EXPECT_ERROR(train(other), "nowhere.safetensors");
  other.resume = file;
  other.network.num_experts = 3;
  EXPECT_ERROR(train(other), "while going on from");
  other = options("second");
  other.resume = file;
  other.val_path = other.dataset_path;
  other.dataset_path += "/Test";  // other pictures
  EXPECT_ERROR(train(other), "--resume: the training pairs must be those of the stopped run (12 pairs");
  // Weights alone.
  SafeTensors weights = read_safetensors(file);
  weights.metadata.erase("run_state");
  weights.metadata.erase("checksums");
  weights.metadata.erase("checksum_metadata");
  other = options("second");
  other.resume = path("weights.safetensors").string();
  write_safetensors(other.resume, weights);
  EXPECT_ERROR(train(other), "holds weights, but no state of a run to go on from");
  EXPECT_FALSE(std::filesystem::exists(path("second"))) << "nothing is written before the checks";
}

TEST_F(Resume, FromAFileIntoAnotherFolder) {
  train(options("from"), 2);
  TrainOptions settings = options("to");
  settings.resume = checkpoint_path(path("from"), "last").string();
  EXPECT_TRUE(train(settings).complete);
  ASSERT_TRUE(train(options("straight")).complete);
  expect_same(last("to"), last("straight"));
}

TEST_F(Resume, LeftoversOfAKilledRunAreRemoved) {
  train(options("killed"), 1);
  const auto leftover = path("killed/checkpoints/last.safetensors.tmp-1234-0");
  std::ofstream(leftover) << "half";
  std::ofstream(path("killed/metrics.jsonl"), std::ios::app) << "{\"step\": 2}\n{\"st";
  train(resumed(options("killed")), 2);
  EXPECT_FALSE(std::filesystem::exists(leftover));
  EXPECT_EQ(test::read_text(path("killed/metrics.jsonl")).find("{\"st\n"), std::string::npos);
}

}  // namespace
}  // namespace camo::app
