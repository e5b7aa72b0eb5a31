// camoxpert bench op: single operations at the network's shapes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/device.h"

namespace camo::app {

struct OpBenchOptions {
  int64_t batch_size = 16;
  std::string filter;                     // only operations whose name contains it
  std::string convolution = "automatic";  // or cudnn, direct
};

/// Prints a table and returns its rows: what was computed, milliseconds forward and for each gradient, and floors.
nlohmann::json run_op_bench(const OpBenchOptions& options, Device device);

}  // namespace camo::app
