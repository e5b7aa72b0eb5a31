// The stages of a run, and the learning rate of each step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/camoxpert/training/train_options.h"

namespace camo::app {

/// Epochs with the same trainable parameters and one schedule.
struct Stage {
  std::string name;
  int64_t first_epoch = 0, end_epoch = 0;
  bool backbone_frozen = false;
  int64_t steps = 0;  // of the schedule
};

/// Stage 1 with a frozen backbone, then everything; --max-steps cuts the last ones off. Stages without steps are left
/// out.
std::vector<Stage> plan_stages(const TrainOptions& options, int64_t batches_per_epoch);

/// Of step 0 .. stage.steps - 1 of a stage, by --schedule.
double learning_rate(const TrainOptions& options, const Stage& stage, int64_t stage_step);

}  // namespace camo::app
