// camoxpert bench attention: the time and error of attention at the network's shapes and beyond.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/device.h"

namespace camo::app {

struct AttentionBenchOptions {
  int64_t batch_size = 16;  // of the network's and the published shapes
  std::string shapes;       // B16H8N2304D20 and so on, separated by commas; empty: the table
  std::string dtypes;       // separated by commas; empty: those the device computes
  bool memory = false;      // the table of memory up to 65536 tokens
  double seconds = 0.2;     // for each time
};

/// Prints tables and returns their rows.
nlohmann::json run_attention_bench(const AttentionBenchOptions& options, Device device);

}  // namespace camo::app
