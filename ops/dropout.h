// Dropout.
#pragma once

#include "core/random.h"
#include "core/tensor.h"

namespace camo {

/// Zeroes each element with probability p and scales the others by 1 / (1 - p) (Srivastava et al., JMLR 15, 2014).
/// Element i (row-major) is dropped when key.uniform(i) < p: the same mask on every device; it is recomputed in
/// backward. p in [0, 1].
Tensor dropout(const Tensor& x, double p, RandomKey key);
/// With the next key of default_generator(); x itself when p is 0 or `training` is false.
Tensor dropout(const Tensor& x, double p, bool training);

}  // namespace camo
