// Training in mixed precision: resuming with a loss scale, overflows and what is none.
#include <cmath>
#include <limits>

#include "core/checksums.h"
#include "core/safetensors.h"
#include "ops/elementwise.h"
#include "tests/training/run_fixture.h"

namespace camo::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// The usual loss, multiplied with a factor from one call on.
class GrowingLoss final : public Loss {
 public:
  GrowingLoss(int first_call, int last_call, double factor) : first_(first_call), last_(last_call), factor_(factor) {}
  std::string_view name() const override { return "growing"; }
  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override {
    LossOutput result = usual_(output, target);
    const int call = calls_++;
    if (call >= first_ && call <= last_) result.total = result.total * factor_;
    return result;
  }

 private:
  AdvancedCODLoss usual_;
  int first_, last_;
  double factor_;
  mutable int calls_ = 0;
};

class Precision : public test::TinyRun {
 protected:
  /// Small enough for these networks' gradients: no step overflows by itself.
  static constexpr double kScale = 256;
  static TrainOptions options(const std::string& run, const std::string& amp) {
    TrainOptions options = TinyRun::options(run);
    options.common.amp = amp;
    options.loss_scale = kScale;
    return options;
  }
  static nlohmann::json scaler_of(const std::string& run) {
    return nlohmann::json::parse(last(run).run_state).at("scaler");
  }
  static double last_loss(const std::string& run) {
    return nlohmann::json::parse(last(run).run_state).at("history").back().at("loss").get<double>();
  }
};

TEST_F(Precision, RunsIn16BitAreLikeThoseInF32) {
  ASSERT_TRUE(train(options("f32", "off")).complete);
  EXPECT_TRUE(scaler_of("f32").is_null());
  for (const std::string amp : {"bf16", "fp16"}) {
    const Result result = train(options(amp, amp));
    ASSERT_TRUE(result.complete);
    EXPECT_THAT(result.output, HasSubstr(amp + " products"));
    EXPECT_TRUE(all_finite(last(amp)));
    EXPECT_NEAR(last_loss(amp) / last_loss("f32"), 1, 0.03) << amp;
  }
  EXPECT_TRUE(scaler_of("bf16").is_null());
  const nlohmann::json scaler = scaler_of("fp16");
  EXPECT_EQ(scaler.at("scale").get<double>(), kScale);
  EXPECT_EQ(scaler.at("skipped").get<int>(), 0);
  EXPECT_THAT(test::read_text(path("fp16/metrics.jsonl")), HasSubstr("\"loss_scale\":"));
}

TEST_F(Precision, AResumedRunHasTheBitsOfOneThatWasNotStopped) {
  for (const std::string amp : {"bf16", "fp16"}) {
    TrainOptions whole = options(amp + "_whole", amp);
    TrainOptions parts = options(amp + "_parts", amp);
    whole.loss_scale = parts.loss_scale = 65536;  // fp16 begins with steps that overflow
    ASSERT_TRUE(train(whole).complete);
    parts.resume = "auto";
    for (const int64_t stop : {1, 4}) EXPECT_FALSE(train(parts, stop).complete);
    ASSERT_TRUE(train(parts).complete);
    expect_same(last(amp + "_whole"), last(amp + "_parts"));
    EXPECT_EQ(test::read_text(path(amp + "_parts/metrics.jsonl")), test::read_text(path(amp + "_whole/metrics.jsonl")));
  }
}

TEST_F(Precision, AnOverflowIsSkippedWithoutBeingANan) {
  const auto grow = [](Trainer& trainer) { trainer.set_loss(std::make_unique<GrowingLoss>(4, 5, 1e12)); };
  ASSERT_TRUE(train(options("plain", "fp16")).complete);
  const Result result = train(options("overflow", "fp16"), -1, grow);  // --on-nan stop
  EXPECT_TRUE(result.complete);
  EXPECT_THAT(result.output, HasSubstr("step 3 overflows f16 and is skipped: the gradient's norm is"));
  EXPECT_THAT(result.output, HasSubstr("1 steps skipped"));
  EXPECT_THAT(result.output, Not(HasSubstr("not finite  ")));
  EXPECT_TRUE(all_finite(last("overflow")));
  EXPECT_EQ(scaler_of("overflow").at("skipped").get<int>(), scaler_of("plain").at("skipped").get<int>() + 1);
  EXPECT_EQ(scaler_of("overflow").at("scale").get<double>(), scaler_of("plain").at("scale").get<double>() / 2);
  EXPECT_THAT(test::read_text(path("overflow/metrics.jsonl")), HasSubstr("lower the loss scale"));
}

TEST_F(Precision, WhatASmallerScaleCannotHelpIsForOnNan) {
  const auto failure = [](const TrainOptions& options, const GrowingLoss& loss) -> std::string {
    try {
      train(options, -1, [&](Trainer& trainer) { trainer.set_loss(std::make_unique<GrowingLoss>(loss)); });
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::not_finite);
      return error.what();
    }
    return "nothing was thrown";
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::string amp : {"bf16", "fp16"}) {
    EXPECT_THAT(failure(options("nan_" + amp, amp), GrowingLoss(4, 1000, nan)),
                HasSubstr("step 3 is not finite: the loss is nan; the first non-finite tensor is"));
  }
  // The scale is halved 8 times, to 1; the next overflow is none of its making.
  TrainOptions floor = options("floor", "fp16");
  floor.epochs = 4;
  floor.validate_every = 4;
  EXPECT_THAT(failure(floor, GrowingLoss(0, 1000, 1e12)), HasSubstr("step 9 is not finite: the gradient's norm is"));
  EXPECT_EQ(scaler_of("floor").at("scale").get<double>(), 1);
}

TEST_F(Precision, AScalerThatCanNotBeReadIsNamed) {
  TrainOptions settings = options("refused", "fp16");
  train(settings, 2);
  settings.resume = "auto";
  const std::filesystem::path file = checkpoint_path(path("refused"), "last");
  const SafeTensors healthy = read_safetensors(file);
  const std::pair<nlohmann::json, const char*> cases[] = {
      {{{"scale", "large"}}, "train: the state of the gradient scaler can't be read"},
      {{{"scale", 0.25}, {"good_steps", 0}, {"skipped", 0}}, "GradScaler: the scale must be between 1 and 2^64"}};
  for (const auto& [scaler, text] : cases) {
    SafeTensors changed = healthy;
    nlohmann::json state = nlohmann::json::parse(changed.metadata.at("run_state"));
    state["scaler"] = scaler;
    changed.metadata["run_state"] = state.dump();
    changed.metadata.erase("checksums");
    changed.metadata.erase("checksum_metadata");
    add_checksums(changed);
    write_safetensors(file, changed);
    EXPECT_ERROR(train(settings), text);
  }
}

}  // namespace
}  // namespace camo::app
