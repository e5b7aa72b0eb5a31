#include "tests/training/run_fixture.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "apps/camoxpert/training/stop_signals.h"
#include "core/file_calls.h"
#include "data/synthetic.h"

namespace camo::app::test {

namespace {

TemporaryFolder* folder = nullptr;

void expect_same_tensors(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].first, b[i].first);
    ASSERT_TRUE(bitwise_equal(a[i].second, b[i].second)) << a[i].first;
  }
}

nlohmann::json without_times(const std::string& run_state) {
  nlohmann::json state = nlohmann::json::parse(run_state);
  for (const char* key : {"seconds", "training_seconds", "config"}) state.erase(key);
  for (nlohmann::json& row : state["history"]) row.erase("seconds");
  return state;
}

}  // namespace

std::string read_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void TinyRun::SetUpTestSuite() {
  folder = new TemporaryFolder;
  file_calls().fsync = [](int) { return 0; };  // nobody cuts the power of a test, and disks are slow
  write_synthetic_dataset(
      {.folder = path("data"), .train_count = 12, .test_count = 2, .scene = {.width = 32, .height = 32}});
}
void TinyRun::TearDownTestSuite() { delete folder; }

std::filesystem::path TinyRun::path(const std::string& name) { return folder->path() / name; }

TrainOptions TinyRun::options(const std::string& run) {
  TrainOptions options;
  options.common.device = default_device().str();
  options.dataset_path = path("data").string();
  options.checkpoint_dir = path(run).string();
  options.val_fraction = 1;
  options.img_size = 32;
  options.num_workers = 1;
  options.network = {.backbone = "edgenext_xx_small", .num_experts = 2, .deep_supervision = true};
  options.epochs = 2, options.stage1_epochs = 1;
  options.batch_size = 2, options.accumulation_steps = 2;
  options.lr = 1e-3;
  options.use_ema = true, options.ema_decay = 0.9;
  return options;
}

TinyRun::Result TinyRun::train(const TrainOptions& options, int64_t stop,
                               const std::function<void(Trainer&)>& prepare) {
  ::testing::internal::CaptureStdout();
  Result result;
  try {
    Trainer trainer(options, "[train]\nseed=42\n");
    trainer.set_stop_request([&] { return trainer.state().step == stop ? SIGTERM : 0; });
    if (prepare) prepare(trainer);
    trainer.run();
    result.complete = true;
  } catch (const StoppedBySignal&) {
  } catch (...) {
    ::testing::internal::GetCapturedStdout();
    throw;
  }
  result.output = ::testing::internal::GetCapturedStdout();
  return result;
}

CheckpointContents TinyRun::last(const std::string& run) { return read_checkpoint(checkpoint_path(path(run), "last")); }

void TinyRun::expect_same(const CheckpointContents& a, const CheckpointContents& b) {
  expect_same_tensors(a.weights, b.weights);
  expect_same_tensors(a.averages, b.averages);
  expect_same_tensors(a.optimizer, b.optimizer);
  EXPECT_EQ(without_times(a.run_state), without_times(b.run_state));
}

bool TinyRun::all_finite(const CheckpointContents& contents) {
  for (const StateDict* state : {&contents.weights, &contents.averages, &contents.optimizer}) {
    for (const auto& [name, tensor] : *state) {
      if (tensor.dtype() != f32) continue;
      for (const float value : tensor.to_vector<float>()) {
        if (!std::isfinite(value)) return false;
      }
    }
  }
  return true;
}

}  // namespace camo::app::test
