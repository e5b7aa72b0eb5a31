#include "apps/camoxpert/training/stages.h"

#include <algorithm>
#include <cmath>

#include "nn/optim/schedule.h"

namespace camo::app {

std::vector<Stage> plan_stages(const TrainOptions& options, int64_t batches_per_epoch) {
  const int64_t per_epoch = (batches_per_epoch + options.accumulation_steps - 1) / options.accumulation_steps;
  int64_t left = options.max_steps > 0 ? options.max_steps : options.epochs * per_epoch;
  std::vector<Stage> stages;
  const auto add = [&](const char* name, int64_t first, int64_t end, bool frozen) {
    const int64_t steps = std::min(left, (end - first) * per_epoch);
    left -= steps;
    if (steps > 0) stages.push_back({name, first, end, frozen, steps});
  };
  add("stage 1, backbone frozen", 0, options.stage1_epochs, true);
  add(options.stage1_epochs > 0 ? "stage 2, all weights" : "all weights", options.stage1_epochs, options.epochs, false);
  return stages;
}

double learning_rate(const TrainOptions& options, const Stage& stage, int64_t stage_step) {
  if (options.schedule == "cosine") {
    // A step later than the textbook's: a first step with learning rate 0 would be lost.
    const auto warmup = std::llround(options.warmup * static_cast<double>(stage.steps));
    return CosineSchedule{.max_lr = options.lr, .warmup_steps = warmup, .total_steps = stage.steps + 1}.lr(stage_step +
                                                                                                           1);
  }
  return OneCycleSchedule{.max_lr = options.lr, .total_steps = stage.steps, .warmup_fraction = options.warmup}.lr(
      stage_step);
}

}  // namespace camo::app
