// What happens around a run: signals, a standard output that goes away, two processes in one folder, leftovers.
#include <gmock/gmock.h>

#include <fstream>

#include "apps/camoxpert/folder_lock.h"
#include "tests/apps/small_data.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using test::expect_failure;
using test::expect_success;
using test::read_text;
using test::small_data;
using ::testing::HasSubstr;

std::string train(const std::string& run) {
  return "train --dataset-path " + small_data().data() + " --checkpoint-dir " + run +
         " --backbone edgenext_xx_small --num-experts 2 --img-size 32 --batch-size 2 --accumulation-steps 1 --epochs 1"
         " --stage1-epochs 0 --num-workers 0";
}

/// What the shell makes of a script in which $CAMOXPERT is the program.
std::string shell(const std::string& script) {
  const fs::path file = small_data().path("script.sh"), output = small_data().path("script.out");
  std::ofstream(file) << "CAMOXPERT='" << CAMOXPERT_BINARY << "'\n" << script;
  const std::string command = "sh " + file.string() + " > " + output.string() + " 2>&1";
  EXPECT_GE(std::system(command.c_str()), 0);
  return read_text(output);
}

TEST(Interrupted, AClosedTerminalStopsARunThatGoesOnLater) {
  const std::string run = small_data().path("hung_up");
  const std::string output =
      shell("$CAMOXPERT " + train(run) + " --epochs 100000 &\n" + "until grep -q untrained " + run +
            "/log.txt 2> /dev/null; do sleep 0.1; done\n" + "kill -HUP $!; kill -HUP $!; wait $!; echo exit code $?\n");
  EXPECT_THAT(output, HasSubstr("exit code 75"));
  EXPECT_THAT(read_text(run + "/log.txt"), HasSubstr("stopped by signal 1 after step"));
  EXPECT_TRUE(fs::exists(run + "/checkpoints/last.safetensors"));
}

TEST(Interrupted, TrainingOutlivesItsStandardOutput) {
  const std::string piped = small_data().path("piped"), full = small_data().path("full");
  EXPECT_THAT(shell("($CAMOXPERT " + train(piped) + "; echo exit code $? >&2) | head -c 1 > /dev/null\n"),
              HasSubstr("exit code 0"));
  EXPECT_THAT(read_text(piped + "/log.txt"), HasSubstr("done: 4 steps"));
  EXPECT_THAT(shell("$CAMOXPERT " + train(full) + " > /dev/full; echo exit code $?\n"), HasSubstr("exit code 0"));
}

TEST(Interrupted, LostOutputOfOtherCommandsIsAnError) {
  const std::string output = shell("$CAMOXPERT info > /dev/full; echo exit code $?\n");
  EXPECT_THAT(output, HasSubstr("standard output: can't be written"));
  EXPECT_THAT(output, HasSubstr("exit code 3"));
}

TEST(Interrupted, OneProcessAtATimeWritesToAFolder) {
  const std::string run = small_data().path("locked");
  fs::create_directory(run);
  {
    const app::FolderLock lock("--checkpoint-dir", run);
    EXPECT_ERROR(app::FolderLock("--output", run), "--output: another process is writing to " + run);
    expect_failure(train(run), 2, "--checkpoint-dir: another process is writing to " + run);
    expect_failure("prepare --input " + small_data().data() + " --size 32 --output " + run, 2,
                   "--output: another process is writing to " + run);
    EXPECT_TRUE(fs::is_empty(run));
  }
  expect_success(train(run));
}

TEST(Interrupted, PrepareRemovesWhatAKilledOneLeft) {
  const std::string copy = small_data().path("prepared");
  const std::string prepare = "prepare --input " + small_data().data() + " --size 32 --output " + copy;
  expect_success(prepare);
  const fs::path leftover = copy + "/Train/GT/00001.png.tmp-1234-0";
  std::ofstream(leftover) << "half";
  EXPECT_THAT(expect_success(prepare), HasSubstr("0 pairs of 32 x 32 px"));
  EXPECT_FALSE(fs::exists(leftover));
}

TEST(Interrupted, AConfigurationTakenBackReplacesNothing) {
  const std::string run = small_data().path("replaced");
  expect_success(train(run) + " --max-steps 1");
  expect_success(train(run) + " --max-steps 1 --overwrite");
  EXPECT_THAT(read_text(run + "/config.toml"), HasSubstr("overwrite=false"));
  expect_failure("train --config " + run + "/config.toml", 2, "holds a run; give --resume auto");
  for (const char* typed : {"=1", "=on", "=TRUE"}) {
    expect_success(train(run) + " --max-steps 1 --use-ema" + typed + " --overwrite" + typed);
    EXPECT_THAT(read_text(run + "/config.toml"), HasSubstr("overwrite=false"));
    EXPECT_THAT(read_text(run + "/config.toml"), HasSubstr("use-ema=true"));
  }
  expect_failure("train --config " + run + "/config.toml", 2, "holds a run; give --resume auto");
}

TEST(Interrupted, GoingOnInTheFolderOfAnotherRun) {
  const std::string first = small_data().path("first"), second = small_data().path("second");
  const auto steps = [](const std::string& run) { return read_text(run + "/metrics.jsonl"); };
  expect_success(train(first) + " --max-steps 3");
  expect_success(train(second) + " --max-steps 2 --seed 3");
  const std::string config = read_text(second + "/config.toml"), metrics = steps(second);
  const std::string go_on = train(second) + " --max-steps 3 --resume " + first + "/checkpoints/best.safetensors";
  expect_failure(go_on, 2, second + " holds another run than that of --resume; give --overwrite to replace it");
  EXPECT_EQ(read_text(second + "/config.toml"), config);
  EXPECT_EQ(steps(second), metrics);
  expect_success(go_on + " --overwrite");
  EXPECT_EQ(steps(second).find("\"step\":1,"), std::string::npos);
}

}  // namespace
}  // namespace camo
