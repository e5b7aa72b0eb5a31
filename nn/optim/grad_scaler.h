// Loss scaling for training in f16 (arXiv:1710.03740).
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace camo {

struct GradScalerOptions {
  double initial = 65536;
  double growth = 2;               // of the scale after `growth_interval` steps in a row that were taken
  double backoff = 0.5;            // of the scale after a step whose gradients are not finite
  int64_t growth_interval = 2000;  // steps
  double floor = 1;                // smaller scales do not help: something else is wrong
};

/// The factor by which the loss is multiplied, so that gradients below f16's smallest number (6e-8) survive. It is as
/// large as gradients allow without overflow:
///
///   backward(scaler.scaled(loss.total));
///   norm = clip_gradients(parameters, max_norm, 1 / scaler.scale());  // true gradients from here on
///   optimizer.step(norm);                                             // not where the norm is not finite
///   if (std::isfinite(norm.item())) scaler.step_taken();
///   else scaler.back_off();                                           // and leave the step out
///
/// A scaler is a few numbers on the host: who need not wait for a device may call step_taken() for a step whose norm is
/// not known yet, and put back a copy of the scaler from before it when that proves wrong.
class GradScaler {
 public:
  struct State {
    double scale = 0;
    int64_t good_steps = 0;  // since the scale changed
    int64_t skipped = 0;     // steps left out, in all
  };

  explicit GradScaler(const GradScalerOptions& options = {});

  double scale() const { return state_.scale; }
  Tensor scaled(const Tensor& loss) const;
  void step_taken();
  bool can_back_off() const { return state_.scale > options_.floor; }
  /// Counts a skipped step and lowers the scale, to the floor at least.
  void back_off();

  const State& state() const { return state_; }
  /// Throws ErrorCode::checkpoint on numbers that no scaler of these options has.
  void load_state(const State& state);

 private:
  GradScalerOptions options_;
  State state_;
};

}  // namespace camo
