// Softmax.
#pragma once

#include "core/tensor.h"

namespace camo {

/// exp(x - max) / sum along one axis, which may count from the end. A row of -infinity gives zeros.
Tensor softmax(const Tensor& x, int axis);
/// x - log(sum(exp(x))) along one axis.
Tensor log_softmax(const Tensor& x, int axis);

}  // namespace camo
