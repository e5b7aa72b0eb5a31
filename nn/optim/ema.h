// Exponential moving average of a model's weights.
#pragma once

#include "nn/module.h"

namespace camo {

/// Shadow copies of all parameters and floating buffers: shadow = decay * shadow + (1 - decay) * value. Whole-number
/// buffers are copied. decay in [0, 1]; the shadow begins with the model's values.
class Ema {
 public:
  Ema(const Module& model, double decay);
  /// Throws, as all that follows, when the model's tensors are not those that the average began with. With a `guard`
  /// (one f64 element on the model's device), nothing is averaged while that is not finite. On a GPU,
  /// whole-number buffers, which are the CPU's, are copied before that is known: copy_counts() sets them right.
  void update(const Module& model, const Tensor& guard = {});
  /// Copies the model's whole-number buffers alone.
  void copy_counts(const Module& model);
  /// Exchanges the model's values with the shadow; calling it twice restores both.
  void swap(Module& model);

  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  double decay_;
  std::vector<NamedTensor> shadow_;
};

}  // namespace camo
