// Initial values of parameters: f32 on default_device(), drawn from default_generator(). Shapes are in memory layout.
#pragma once

#include "core/tensor.h"

namespace camo {

/// Uniform in +-1/sqrt(fan_in): PyTorch's default for weights and biases of linear and convolution layers.
Tensor init_uniform_fan_in(const Shape& shape, int64_t fan_in);
/// Normal with this deviation, redrawn beyond two deviations.
Tensor init_truncated_normal(const Shape& shape, double deviation = 0.02);

/// While one lives, this thread's initial values are left undefined instead of drawn, and the generator stays where it
/// is: for a model whose values are all loaded next. Drawing 31 million numbers takes seconds, loading them a moment.
class SkipInit {
 public:
  SkipInit();
  ~SkipInit();
  SkipInit(const SkipInit&) = delete;
  SkipInit& operator=(const SkipInit&) = delete;

 private:
  bool before_;
};

}  // namespace camo
