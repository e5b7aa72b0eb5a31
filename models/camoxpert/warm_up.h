// Plans for groups of every size, made before training.
#pragma once

#include "core/dtype.h"
#include "models/camoxpert/network.h"

namespace camo {

/// Runs every expert forward and backward on 1 to `batch` pictures of zeros. What libraries make for a shape (plans of
/// cuDNN and cuBLASLt, 1 to 3 ms each, some 800 of them at batch 16) then exists before the first step, whatever groups
/// the gates form, unless it would be too large for the memory. `autocast` is the precision of training. Leaves
/// parameters and random numbers as they were; throws when a parameter has a gradient, which would change.
void warm_up_experts(CamoXpert& network, int64_t batch, int64_t height, int64_t width, DType autocast = f32);

}  // namespace camo
