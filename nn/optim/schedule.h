// Learning-rate schedules: pure functions of the step.
#pragma once

#include <cstdint>

namespace camo {

/// One cycle with cosine annealing (arXiv:1708.07120), as PyTorch's OneCycleLR with its defaults: from
/// max_lr / div_factor up to max_lr over warmup_fraction of the steps, then down to max_lr / (div_factor *
/// final_div_factor).
struct OneCycleSchedule {
  double max_lr = 1e-3;
  int64_t total_steps = 1;
  double warmup_fraction = 0.3;
  double div_factor = 25;
  double final_div_factor = 1e4;

  /// Learning rate of step 0 .. total_steps - 1; later steps keep the last value.
  double lr(int64_t step) const;
};

/// Linear warm-up from 0 over warmup_steps, then a cosine from max_lr to min_lr at total_steps.
struct CosineSchedule {
  double max_lr = 1e-3;
  double min_lr = 0;
  int64_t warmup_steps = 0;
  int64_t total_steps = 1;

  double lr(int64_t step) const;
};

}  // namespace camo
