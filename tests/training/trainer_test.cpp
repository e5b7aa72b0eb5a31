// What a run does besides going on and failing: stages, early stop, files.
#include <cerrno>
#include <regex>

#include "core/file_calls.h"
#include "tests/training/run_fixture.h"

namespace camo::app {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class Training : public test::TinyRun {};

/// The usual loss, for which memory does not last in one of its calls.
class FailingLoss final : public Loss {
 public:
  explicit FailingLoss(int failing) : failing_(failing) {}
  std::string_view name() const override { return "failing"; }
  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override {
    if (++calls_ == failing_) fail(ErrorCode::out_of_memory, "memory: nothing left");
    return usual_(output, target);
  }

 private:
  AdvancedCODLoss usual_;
  int failing_;
  mutable int calls_ = 0;
};

TEST_F(Training, TheFirstStageFreezesTheBackbone) {
  TrainOptions settings = options("stages");
  settings.use_ema = false;
  train(settings, 0);
  const CheckpointContents untrained = last("stages");
  settings.overwrite = true;
  train(settings, 3);
  const CheckpointContents first = last("stages");
  settings.overwrite = false;
  settings.resume = "auto";
  EXPECT_TRUE(train(settings).complete);
  const CheckpointContents second = last("stages");
  int moved = 0;
  for (size_t i = 0; i < first.weights.size(); ++i) {
    const auto& [name, tensor] = first.weights[i];
    if (name.starts_with("backbone.")) {
      EXPECT_TRUE(test::bitwise_equal(tensor, untrained.weights[i].second)) << name;
      moved += static_cast<bool>(test::bitwise_equal(tensor, second.weights[i].second)) ? 0 : 1;
    }
  }
  EXPECT_GT(moved, 50);
}

TEST_F(Training, CheckpointingOfGradientsGivesTheSameBits) {
  TrainOptions settings = options("kept");
  ASSERT_TRUE(train(settings).complete);
  settings = options("recomputed");
  settings.network.gradient_checkpointing = true;
  ASSERT_TRUE(train(settings).complete);
  expect_same(last("kept"), last("recomputed"));
}

TEST_F(Training, CudaGraphsGiveTheSameBitsAndAreGivenUpWhereMemoryDoesNotLast) {
  TrainOptions settings = options("graphs");
  const auto third_fails = [](Trainer& trainer) { trainer.set_loss(std::make_unique<FailingLoss>(3)); };
  settings.common.cuda_graphs = "off";
  ASSERT_TRUE(train(settings).complete);
  const CheckpointContents eager = last("graphs");
  settings.overwrite = true;
  EXPECT_ERROR(train(settings, -1, third_fails), "memory: nothing left");
  if (default_device().is_cuda()) {
    settings.common.cuda_graphs = "on";
    EXPECT_ERROR(train(settings, -1, third_fails), "memory: nothing left");
    settings.common.cuda_graphs = "auto";
    const Result recorded = train(settings);
    EXPECT_THAT(recorded.output, HasSubstr("graphs       all but the experts"));
    EXPECT_THAT(recorded.output, Not(HasSubstr("without CUDA graphs")));
    expect_same(eager, last("graphs"));
    const Result given_up = train(settings, -1, third_fails);
    EXPECT_THAT(given_up.output, HasSubstr("warning: going on without CUDA graphs: memory: nothing left"));
    expect_same(eager, last("graphs"));
  }
  settings.common.device = "cpu";
  settings.common.cuda_graphs = "on";
  EXPECT_ERROR(train(settings), "--cuda-graphs on: needs a GPU; got --device cpu; use auto");
}

TEST_F(Training, EarlyStop) {
  TrainOptions settings = options("early");
  settings.lr = 1e-12;  // nothing gets better
  settings.epochs = 6;
  settings.patience = 2;
  settings.schedule = "cosine";
  const Result result = train(settings);
  EXPECT_TRUE(result.complete);
  EXPECT_THAT(result.output, HasSubstr("; stopped early"));
  const RunState state = run_state_from_text(last("early").run_state, "early");
  EXPECT_EQ(state.validations_without_gain, 2);
  EXPECT_LT(state.epoch, 6);
  // Nothing is left to do, unless more patience is asked for.
  settings.resume = "auto";
  EXPECT_TRUE(train(settings).complete);
  EXPECT_EQ(run_state_from_text(last("early").run_state, "early").epoch, state.epoch);
  settings.patience = 3;
  train(settings);
  EXPECT_GT(run_state_from_text(last("early").run_state, "early").epoch, state.epoch);
}

TEST_F(Training, OutOfTime) {
  TrainOptions settings = options("short");
  settings.max_time = 1e-9;
  const Result result = train(settings);
  EXPECT_TRUE(result.complete);
  EXPECT_THAT(result.output, HasSubstr("done: 1 steps"));
  EXPECT_THAT(result.output, HasSubstr("; out of time"));
  // Later it goes on; the validation in between changes no weights.
  settings.max_time = 0;
  settings.resume = "auto";
  EXPECT_TRUE(train(settings).complete);
  ASSERT_TRUE(train(options("long")).complete);
  const CheckpointContents a = last("short"), b = last("long");
  for (size_t i = 0; i < a.weights.size(); ++i) {
    ASSERT_TRUE(test::bitwise_equal(a.weights[i].second, b.weights[i].second)) << a.weights[i].first;
  }
}

TEST_F(Training, TheRunFolder) {
  TrainOptions settings = options("files");
  settings.expert_report_every = 1;
  settings.best_by = "s-measure";
  const Result result = train(settings);
  ASSERT_TRUE(result.complete);
  for (const char* file :
       {"config.toml", "env.json", "log.txt", "metrics.jsonl", "history.json", "checkpoints/last.safetensors",
        "checkpoints/best.safetensors", "samples/epoch_000.png", "samples/epoch_002.png"}) {
    EXPECT_TRUE(std::filesystem::exists(path("files") / file)) << file;
  }
  const std::string shown =
      std::regex_replace(result.output, std::regex("[^\n]*  ETA [^\n]*\n"), "");  // of slow epochs
  EXPECT_EQ(test::read_text(path("files/log.txt")), shown) << "what is shown is also logged, but for the progress";
  const auto history = nlohmann::json::parse(test::read_text(path("files/history.json")));
  ASSERT_EQ(history.size(), 3u);
  for (const char* key : {"epoch", "step", "seconds", "val_iou", "val_sm", "val_wfm", "val_mae"}) {
    EXPECT_TRUE(history[2].contains(key)) << key;
  }
  EXPECT_EQ(history[2]["expert_counts"][0].size(), 2u);
  EXPECT_THAT(result.output, HasSubstr("experts "));
  EXPECT_THAT(result.output, HasSubstr("S-measure   untrained"));
  EXPECT_THAT(result.output, ContainsRegex("memory      [0-9.]+ MiB at the peak\n"));
  EXPECT_THAT(result.output, HasSubstr("next        camoxpert evaluate --dataset-path"));
  const CheckpointContents best = read_checkpoint(checkpoint_path(path("files"), "best"));
  EXPECT_FALSE(best.averages.empty());
  EXPECT_FALSE(best.optimizer.empty());
}

TEST_F(Training, ASaveThatFailsKeepsTheOldCheckpoint) {
  TrainOptions settings = options("blocked");
  train(settings, 2);
  const std::string old = test::read_text(checkpoint_path(path("blocked"), "last"));
  settings.resume = "auto";
  settings.save_every = 1;
  const auto full_disk = [](Trainer&) {
    file_calls().write = [](int, const void*, size_t) -> ssize_t {
      errno = ENOSPC;
      return -1;
    };
  };
  const FileCalls original = file_calls();
  EXPECT_ERROR(train(settings, -1, full_disk), "last.safetensors: cannot write: No space left on device");
  file_calls() = original;
  EXPECT_EQ(test::read_text(checkpoint_path(path("blocked"), "last")), old);
  settings.save_every = 0;
  EXPECT_TRUE(train(settings).complete);
}

}  // namespace
}  // namespace camo::app
