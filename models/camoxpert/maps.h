// Small helpers on feature maps that several parts of the network share.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace camo {

/// Mean over the pixels, as a map: [N, H, W, C] -> [N, 1, 1, C].
Tensor mean_map(const Tensor& x);

/// channels / 4. Throws naming `who` when that leaves a remainder.
int64_t quarter_of(int64_t channels, const char* who);

}  // namespace camo
