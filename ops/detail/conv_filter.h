// The gradient of a dense convolution's weight, for maps with many pixels and weights that fit into caches.
#pragma once

#include "ops/detail/conv_problem.h"

namespace camo::detail {

/// Whether conv_filter_gradient takes it, and was measured to be faster than oneDNN.
bool has_conv_filter_gradient(const ConvProblem& problem);

/// Contiguous f32 tensors. The result does not depend on the number of threads.
void conv_filter_gradient(const ConvProblem& problem, const float* x, const float* dy, float* dweight);

}  // namespace camo::detail
