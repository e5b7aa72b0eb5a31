// Steps that are not finite: what is named, what changes, what goes on.
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "core/checksums.h"
#include "core/safetensors.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "tests/training/run_fixture.h"

namespace camo::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// A batch is known by its masks: also when its step is repeated.
double mark_of(const Tensor& target) { return sum(target).item(); }

/// The usual loss; writes down the batches that it sees.
class RecordingLoss final : public Loss {
 public:
  explicit RecordingLoss(std::vector<double>& marks) : marks_(marks) {}
  std::string_view name() const override { return "recording"; }
  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override {
    marks_.push_back(mark_of(target));
    return usual_(output, target);
  }

 private:
  AdvancedCODLoss usual_;
  std::vector<double>& marks_;
};

/// The usual loss, spoilt for some batches.
class FaultyLoss final : public Loss {
 public:
  enum class Kind { loss, gradient };
  FaultyLoss(std::set<double> marks, Kind kind) : marks_(std::move(marks)), kind_(kind) {}
  std::string_view name() const override { return "faulty"; }

  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override {
    LossOutput result = usual_(output, target);
    if (!marks_.contains(mark_of(target))) return result;
    if (kind_ == Kind::loss) result.total = result.total * std::numeric_limits<double>::quiet_NaN();
    else result.total = result.total + sum(sqrt(output.logits * 0.0));  // 0 * inf
    return result;
  }

 private:
  AdvancedCODLoss usual_;
  std::set<double> marks_;
  Kind kind_;
};

class NotFinite : public test::TinyRun {
 protected:
  static void SetUpTestSuite() {
    TinyRun::SetUpTestSuite();
    marks_.clear();
    train(options("recorded"), -1, [](Trainer& trainer) { trainer.set_loss(std::make_unique<RecordingLoss>(marks_)); });
    ASSERT_EQ(std::set<double>(marks_.begin(), marks_.end()).size(), 12u) << "two batches have equal masks";
  }
  /// Spoils these batches, counted from the start of the run; a step has two.
  static std::function<void(Trainer&)> faulty(const std::vector<size_t>& batches,
                                              FaultyLoss::Kind kind = FaultyLoss::Kind::loss) {
    std::set<double> marks;
    for (const size_t batch : batches) marks.insert(marks_[batch]);
    return [=](Trainer& trainer) { trainer.set_loss(std::make_unique<FaultyLoss>(marks, kind)); };
  }
  static std::string failure(const TrainOptions& options, const std::function<void(Trainer&)>& prepare) {
    try {
      train(options, -1, prepare);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::not_finite);
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
  }

 private:
  static inline std::vector<double> marks_;
};

TEST_F(NotFinite, StopKeepsTheStateBeforeTheStep) {
  const std::string message = failure(options("stop"), faulty({4}));  // the first batch of step 3
  EXPECT_THAT(message, HasSubstr("step 3 is not finite: the loss is nan"));
  EXPECT_THAT(message, HasSubstr("the first non-finite tensor is the result of mul after final_conv.3"));
  EXPECT_THAT(message, HasSubstr("go on with --resume auto"));
  train(options("before"), 2);
  expect_same(last("stop"), last("before"));
  // The fault gone, the run is the one without it.
  TrainOptions settings = options("stop");
  settings.resume = "auto";
  EXPECT_TRUE(train(settings).complete);
  ASSERT_TRUE(train(options("healthy")).complete);
  expect_same(last("stop"), last("healthy"));
}

TEST_F(NotFinite, ASkippedStepChangesNothingButThePosition) {
  for (const auto kind : {FaultyLoss::Kind::loss, FaultyLoss::Kind::gradient}) {
    TrainOptions settings = options("skip");
    settings.on_nan = "skip:1";
    settings.overwrite = true;
    const Result result = train(settings, 5, faulty({8}, kind));  // the first batch of step 5
    EXPECT_THAT(result.output, HasSubstr("skipped, 1 of at most 1"));
    EXPECT_THAT(result.output,
                HasSubstr(kind == FaultyLoss::Kind::loss
                              ? "the loss is nan; the first non-finite tensor is"
                              : "the gradient's norm is nan; the first non-finite tensor is the gradient"));
    TrainOptions before = options("skip_before");
    before.overwrite = true;
    train(before, 4);
    const CheckpointContents a = last("skip"), b = last("skip_before");
    for (const auto& [mine, other] : {std::pair(&a.weights, &b.weights), std::pair(&a.averages, &b.averages),
                                      std::pair(&a.optimizer, &b.optimizer)}) {
      for (size_t i = 0; i < mine->size(); ++i) {
        ASSERT_TRUE(test::bitwise_equal((*mine)[i].second, (*other)[i].second)) << (*mine)[i].first;
      }
    }
    EXPECT_THAT(test::read_text(path("skip/metrics.jsonl")), HasSubstr("\"action\":\"skip\""));
  }
}

TEST_F(NotFinite, SkipsAreLimitedAndTheRunGoesOn) {
  TrainOptions settings = options("skips");
  settings.on_nan = "skip:2";
  const Result result = train(settings, -1, faulty({2, 8}));
  EXPECT_TRUE(result.complete);
  EXPECT_THAT(result.output, HasSubstr("2 steps skipped, 0 rollbacks"));
  EXPECT_TRUE(all_finite(last("skips")));
  settings = options("too_many");
  settings.on_nan = "skip:1";
  const std::string message = failure(settings, faulty({2, 8}));  // steps 2 and 5
  EXPECT_THAT(message, HasSubstr("step 5 is not finite"));
  EXPECT_THAT(message, HasSubstr("after as many skips as --on-nan allows"));
  EXPECT_TRUE(all_finite(last("too_many")));
}

TEST_F(NotFinite, RollbackReturnsToTheLastCheckpoint) {
  TrainOptions settings = options("rollback");
  settings.on_nan = "rollback";
  const Result result = train(settings, 5, faulty({8}));  // step 5; the last checkpoint is of step 3, stage 1
  EXPECT_THAT(result.output, HasSubstr("rolled back to the weights of step 3"));
  EXPECT_THAT(result.output, HasSubstr("going on behind step 5"));
  train(options("rollback_before"), 3);
  const CheckpointContents a = last("rollback"), b = last("rollback_before");
  for (size_t i = 0; i < a.weights.size(); ++i) {
    ASSERT_TRUE(test::bitwise_equal(a.weights[i].second, b.weights[i].second)) << a.weights[i].first;
  }
  EXPECT_TRUE(a.optimizer.empty()) << "stage 2 begins again";
  settings.overwrite = true;
  EXPECT_TRUE(train(settings, -1, faulty({8})).complete);
  // What never heals ends the run.
  settings = options("hopeless");
  settings.on_nan = "rollback";
  EXPECT_THAT(failure(settings, faulty({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})),
              HasSubstr("after as many rollbacks as help"));
}

/// Weights that overflow: the layer is named, whether its stage trains, is frozen or is computed twice.
TEST_F(NotFinite, TheLayerIsNamed) {
  train(options("poison"), 1);
  const std::filesystem::path file = checkpoint_path(path("poison"), "last");
  const SafeTensors healthy = read_safetensors(file);
  struct Case {
    const char* parameter;
    const char* named;
  };
  for (const Case& each :
       {Case{"backbone.stages_1.blocks.0.mlp.fc1.weight", "linear in backbone.stages_1.blocks.0.mlp.fc1"},
        Case{"decoder_blocks.2.conv.0.weight", "conv2d in decoder_blocks.2.conv.0"}}) {
    for (const bool checkpointing : {false, true}) {
      SafeTensors poisoned = healthy;
      for (auto& [name, tensor] : poisoned.tensors) {
        if (name != each.parameter) continue;
        tensor = full(tensor.shape(), 3e38, f32, cpu);
      }
      poisoned.metadata.erase("checksums");
      poisoned.metadata.erase("checksum_metadata");
      add_checksums(poisoned);
      write_safetensors(file, poisoned);
      TrainOptions settings = options("poison");
      settings.resume = "auto";
      settings.network.gradient_checkpointing = checkpointing;
      const std::string message = failure(settings, {});
      EXPECT_THAT(message, HasSubstr("step 2 is not finite"));
      EXPECT_THAT(message, HasSubstr(std::string("the first non-finite tensor is the result of ") + each.named));
      EXPECT_TRUE(all_finite(last("poison")));
    }
  }
}

TEST_F(NotFinite, ExtremeLearningRatesLeaveFiniteWeights) {
  TrainOptions settings = options("extreme");
  settings.lr = 1e6;
  settings.weight_decay = 1e-6;
  settings.on_nan = "skip:100";
  settings.save_every = 1;
  try {
    train(settings);
  } catch (const Error& error) {  // the validation of such weights
    EXPECT_THAT(error.what(), HasSubstr("not finite"));
  }
  // Some of the steps would have left infinite running statistics, with a finite loss and gradient.
  const CheckpointContents reached = last("extreme");
  EXPECT_GE(reached.info.step, 3);
  EXPECT_TRUE(all_finite(reached));
}

}  // namespace
}  // namespace camo::app
