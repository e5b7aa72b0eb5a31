#include "nn/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace camo {
namespace {

/// From `start` at 0 to `stop` at 1 along half a cosine.
double cosine(double start, double stop, double position) {
  return stop + (start - stop) / 2 * (1 + std::cos(std::numbers::pi * position));
}

}  // namespace

double OneCycleSchedule::lr(int64_t step) const {
  CAMO_CHECK(step >= 0 && total_steps > 0, "OneCycleSchedule: step must not be negative and total_steps positive; got ",
             step, " of ", total_steps);
  CAMO_CHECK(warmup_fraction >= 0 && warmup_fraction <= 1, "OneCycleSchedule: warmup_fraction must be in [0, 1]; got ",
             warmup_fraction);
  CAMO_CHECK(max_lr >= 0 && div_factor > 0 && final_div_factor > 0,
             "OneCycleSchedule: max_lr must not be negative, the divisors positive; got max_lr ", max_lr,
             ", div_factor ", div_factor, ", final_div_factor ", final_div_factor);
  const double initial_lr = max_lr / div_factor;
  const double last_step = static_cast<double>(total_steps - 1);
  const double peak_step = warmup_fraction * static_cast<double>(total_steps) - 1;  // may be fractional or negative
  const double now = std::min(static_cast<double>(step), last_step);
  constexpr double kRounding = 1e-9;  // a peak at step 0 may come out as a tiny number
  if (now <= peak_step) return peak_step > kRounding ? cosine(initial_lr, max_lr, now / peak_step) : max_lr;
  return cosine(max_lr, initial_lr / final_div_factor, (now - peak_step) / (last_step - peak_step));
}

double CosineSchedule::lr(int64_t step) const {
  CAMO_CHECK(step >= 0 && warmup_steps >= 0 && total_steps >= warmup_steps,
             "CosineSchedule: step must not be negative and warmup_steps at most total_steps; got step ", step,
             ", warmup_steps ", warmup_steps, ", total_steps ", total_steps);
  if (step < warmup_steps) return max_lr * static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (step >= total_steps) return min_lr;
  return cosine(max_lr, min_lr,
                static_cast<double>(step - warmup_steps) / static_cast<double>(total_steps - warmup_steps));
}

}  // namespace camo
