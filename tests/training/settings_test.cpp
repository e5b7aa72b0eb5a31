// The small parts of training: policies, schedules, configurations, state as text.
#include <gmock/gmock.h>

#include <cmath>

#include "apps/camoxpert/json_text.h"
#include "apps/camoxpert/max_or_nan.h"
#include "apps/camoxpert/training/loss_means.h"
#include "apps/camoxpert/training/on_nan.h"
#include "apps/camoxpert/training/report.h"
#include "apps/camoxpert/training/run_state.h"
#include "apps/camoxpert/training/stages.h"
#include "tests/support/test_support.h"

namespace camo::app {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(OnNan, Texts) {
  EXPECT_EQ(parse_on_nan("stop").action, OnNan::Action::stop);
  EXPECT_EQ(parse_on_nan("rollback").action, OnNan::Action::rollback);
  EXPECT_EQ(parse_on_nan("skip:12").action, OnNan::Action::skip);
  EXPECT_EQ(parse_on_nan("skip:12").limit, 12);
  for (const char* wrong : {"", "skip", "skip:", "skip:0", "skip:-1", "skip:3x", "Stop", "rollback:2"}) {
    EXPECT_ERROR(parse_on_nan(wrong), "--on-nan: must be stop, rollback or skip:N with N above 0; got ");
  }
}

TEST(Options, Limits) {
  const auto rejects = [](auto change, const char* text) {
    TrainOptions options;
    change(options);
    EXPECT_ERROR(options.check(), text);
  };
  rejects([](TrainOptions& o) { o.lr = 1e7; }, "--lr: must be above 0 and at most 1e+06; got 1e+07");
  rejects([](TrainOptions& o) { o.lr = 10, o.weight_decay = 1; },
          "--weight-decay: must be at most 1 / --lr (0.1); got 1");
  rejects([](TrainOptions& o) { o.loss_scale = 0.5; }, "--loss-scale: must be between 1 and 2^64; got 0.5");
  rejects([](TrainOptions& o) { o.backbone_lr_scale = 2; }, "--backbone-lr-scale: must be in [0, 1]; got 2");
  rejects([](TrainOptions& o) { o.schedule = "step"; }, "--schedule: must be onecycle or cosine; got step");
  rejects([](TrainOptions& o) { o.aug = "heavy"; }, "--aug: must be off, light or strong; got heavy");
  rejects([](TrainOptions& o) { o.warmup = 1.5; }, "--warmup: must be in [0, 1]; got 1.5");
  rejects([](TrainOptions& o) { o.best_by = "mae"; }, "--best-by: must be iou or s-measure; got mae");
  rejects([](TrainOptions& o) { o.patience = -1; }, "--patience: must be at least 0; got -1");
  rejects([](TrainOptions& o) { o.common.cuda_graphs = "on", o.network.gradient_checkpointing = true; },
          "--cuda-graphs on: not with --gradient-checkpointing, whose steps are not recorded; use auto");
  rejects([](TrainOptions& o) { o.save_every = -1; }, "--save-every: must be at least 0; got -1");
  rejects([](TrainOptions& o) { o.expert_report_every = 0; }, "--expert-report-every: must be at least 1; got 0");
}

TEST(Stages, FrozenBackboneFirst) {
  TrainOptions options;
  options.epochs = 5, options.stage1_epochs = 2, options.accumulation_steps = 4;
  const std::vector<Stage> stages = plan_stages(options, 10);  // 3 steps an epoch: 4, 4 and 2 batches
  ASSERT_THAT(stages, SizeIs(2));
  EXPECT_TRUE(stages[0].backbone_frozen);
  EXPECT_EQ(stages[0].steps, 6);
  EXPECT_FALSE(stages[1].backbone_frozen);
  EXPECT_EQ(stages[1].steps, 9);
  EXPECT_EQ(stages[1].first_epoch, 2);
  options.max_steps = 7;
  EXPECT_EQ(plan_stages(options, 10)[1].steps, 1);
  options.max_steps = 6;
  EXPECT_THAT(plan_stages(options, 10), SizeIs(1));
}

TEST(Stages, LearningRates) {
  TrainOptions options;
  options.lr = 1;
  const Stage stage{.name = "s", .end_epoch = 1, .steps = 100};
  const auto curve = [&] {
    std::vector<double> values;
    for (int64_t step = 0; step < stage.steps; ++step) values.push_back(learning_rate(options, stage, step));
    return values;
  };
  for (const char* schedule : {"onecycle", "cosine"}) {
    options.schedule = schedule;
    const std::vector<double> values = curve();
    const auto peak = std::max_element(values.begin(), values.end());
    EXPECT_NEAR(*peak, 1, 1e-12) << schedule;
    EXPECT_EQ(peak - values.begin(), 9) << schedule << ": warm-up over the first tenth";
    EXPECT_GT(values.front(), 0) << schedule;
    EXPECT_LT(values.back(), 1e-3) << schedule;
    EXPECT_GT(values.back(), 0) << schedule;
    EXPECT_TRUE(std::is_sorted(values.begin(), peak)) << schedule;
    EXPECT_TRUE(std::is_sorted(peak, values.end(), std::greater<>())) << schedule;
  }
}

TEST(RunState, TextKeepsEveryBit) {
  RunState state;
  state.stage = 1, state.epoch = 3, state.batch = 7, state.step = 123, state.stage_step = 23, state.validated_step = 99;
  state.random = {0xFFFFFFFFFFFFFFFF, 0x8000000000000001};
  state.epoch_losses = {.sums = {{"loss", 0.1 + 0.2}, {"bce", 1e-300}}, .count = 3};
  state.expert_counts = {{1, 2}, {3, 4}};
  state.best = {.value = 1.0 / 3, .epoch = 2, .step = 88};
  state.history.push_back({{"epoch", 0}, {"val_iou", 0.7}});
  state.config = "[train]\nlr=1\n";
  const std::string text = to_text(state);
  const RunState again = run_state_from_text(text, "file");
  EXPECT_EQ(to_text(again), text);
  EXPECT_EQ(again.epoch_losses.sums[0].second, 0.1 + 0.2);
  EXPECT_EQ(again.random.stream, state.random.stream);
  EXPECT_TRUE(again.scaler.is_null());
  EXPECT_ERROR(run_state_from_text("{}", "a.safetensors"), "a.safetensors: the state of the run can't be read");
  EXPECT_ERROR(run_state_from_text(text.substr(9), "a.safetensors"),
               "a.safetensors: the state of the run can't be read");
  for (const char* key : {"batch", "random", "scaler"}) {
    nlohmann::json changed = nlohmann::json::parse(text);
    if (std::string(key) == "batch") changed[key] = 1e300;
    else if (std::string(key) == "random") changed[key] = {1e300, 2};
    else changed[key] = {{"scale", 2.0}, {"good_steps", 0.5}, {"skipped", 0}};
    EXPECT_ERROR(run_state_from_text(changed.dump(), "a.safetensors"), "must be a whole number; got ");
  }
}

TEST(Configs, WhatMayChange) {
  const std::string stored = "[train]\nseed=1\nlr=0.1\nnum-workers=2\nloss=\"dice\"\n";
  EXPECT_THAT(compare_configs(stored, stored), SizeIs(0));
  EXPECT_THAT(compare_configs(stored, "[train]\nseed=1\nlr=0.1\nnum-workers=8\nnew-flag=3\n"), SizeIs(0));
  EXPECT_THAT(compare_configs(stored + "cuda-graphs=\"off\"\n", stored + "cuda-graphs=\"auto\"\n"), SizeIs(0));
  EXPECT_THAT(compare_configs(stored, "[train]\nseed=1\nlr=0.2\nnum-workers=2\nloss=\"dice\"\n"),
              ElementsAre(HasSubstr("warning: --lr is 0.2 now, and was 0.1 before")));
  EXPECT_ERROR(compare_configs(stored, "[train]\nseed=2\nlr=0.1\n"),
               "--resume: --seed must be that of the stopped run, 1; got 2; give the same value, or start a new run");
  EXPECT_THAT(compare_configs("lr=0.001\nepochs=20\n", "lr=1e-3\nepochs=2e1\n"), SizeIs(0));
  EXPECT_THAT(compare_configs("lr=0.001\n", "lr=1e-3x\n"), SizeIs(1));
  EXPECT_ERROR(compare_configs("best-by=\"iou\"\n", "best-by=\"s-measure\"\n"), "--best-by must be that of");
}

TEST(Differences, NotANumberStays) {
  const double nan = std::nan("");
  EXPECT_EQ(max_or_nan(1, 2), 2);
  EXPECT_EQ(max_or_nan(2, 1), 2);
  EXPECT_TRUE(std::isnan(max_or_nan(1, nan)));
  EXPECT_TRUE(std::isnan(max_or_nan(nan, 1)));
  EXPECT_TRUE(std::isnan(max_or_nan(nan, nan)));
}

TEST(JsonText, NamesThatAreNotUtf8) {
  EXPECT_EQ(json_text({{"name", "caf\xe9.jpg"}}), "{\"name\":\"caf\ufffd.jpg\"}");
  EXPECT_EQ(json_text({1, 2}, 1), "[\n 1,\n 2\n]");
}

TEST(Report, ExpertTable) {
  const std::string table = expert_table({{1, 0, 3}, {2, 2, 0}});
  EXPECT_THAT(table, HasSubstr("texture attention    hybrid"));
  EXPECT_THAT(table, HasSubstr("stage 1       25.0 %    unused    75.0 %"));
  EXPECT_THAT(table, HasSubstr("stage 2       50.0 %    50.0 %    unused"));
  EXPECT_EQ(expert_table({}), "");
}

TEST(LossMeans, AddAndShow) {
  LossMeans all;
  all.add({.sums = {{"loss", 3}, {"bce", 1}}, .count = 2});
  all.add({.sums = {{"loss", 1}, {"bce", 1}}, .count = 2});
  EXPECT_EQ(all.str(), "loss 1.0000  bce 0.5000");
}

}  // namespace
}  // namespace camo::app
