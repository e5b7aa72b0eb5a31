// Gaussian blur, for structural similarity.
#pragma once

#include "core/tensor.h"

namespace camo::detail {

/// Each channel of x [N, H, W, C] under a Gaussian window of odd size whose weights add up to one, with zero padding.
Tensor gaussian_blur(const Tensor& x, int64_t window, double deviation);

}  // namespace camo::detail
