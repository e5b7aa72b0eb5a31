// Where the first non-finite number of a training step came from.
#pragma once

#include <functional>
#include <string>

#include "models/camoxpert/network.h"

namespace camo::app {

/// Runs `step` (forward and backward passes over `network`) and looks at every tensor on the way: parameters, results
/// in the order of the computation, then gradients, then buffers. Returns a description of the first that holds NaN or
/// infinity, by its layer, or an empty text. The step must not use gradient checkpointing. Slow: it waits for each
/// result.
std::string find_first_non_finite(CamoXpert& network, const std::function<void()>& step);

}  // namespace camo::app
