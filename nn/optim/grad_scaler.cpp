#include "nn/optim/grad_scaler.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ops/elementwise.h"

namespace camo {

namespace {
constexpr double kLargest = 0x1p64;  // times a loss, still far from f32's largest number
}  // namespace

GradScaler::GradScaler(const GradScalerOptions& options) : options_(options) {
  CAMO_CHECK(options.floor > 0 && options.initial >= options.floor && options.initial <= kLargest,
             "GradScaler: the initial scale must be between the floor, which is above 0, and 2^64; got ",
             options.initial, ", floor ", options.floor);
  CAMO_CHECK(options.growth >= 1 && options.backoff > 0 && options.backoff < 1 && options.growth_interval >= 1,
             "GradScaler: growth and growth_interval must be at least 1, backoff in (0, 1); got ", options.growth, ", ",
             options.growth_interval, ", ", options.backoff);
  state_.scale = options.initial;
}

Tensor GradScaler::scaled(const Tensor& loss) const { return mul(loss, state_.scale); }

void GradScaler::step_taken() {
  if (++state_.good_steps < options_.growth_interval) return;
  state_.good_steps = 0;
  state_.scale = std::min(state_.scale * options_.growth, kLargest);
}

void GradScaler::back_off() {
  ++state_.skipped;
  state_.good_steps = 0;
  state_.scale = std::max(state_.scale * options_.backoff, options_.floor);
}

void GradScaler::load_state(const State& state) {
  CAMO_CHECK_CODE(checkpoint, state.scale >= options_.floor && state.scale <= kLargest,
                  "GradScaler: the scale must be between ", options_.floor, " and 2^64; got ", state.scale);
  CAMO_CHECK_CODE(checkpoint,
                  state.good_steps >= 0 && state.good_steps < options_.growth_interval && state.skipped >= 0,
                  "GradScaler: steps must not be negative, and good ones fewer than ", options_.growth_interval,
                  "; got ", state.good_steps, " good, ", state.skipped, " skipped");
  state_ = state;
}

}  // namespace camo
