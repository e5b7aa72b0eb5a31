// camoxpert bench table: training and inference in one call, beside their floors and a PyTorch peer.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "apps/camoxpert/bench/network_workloads.h"

namespace camo::app {

struct BenchTableOptions {
  NetworkBenchOptions bench;  // its batch size and twice that in training, its batch size and 1 in inference
  std::string peer;           // file of the peer's figures; empty: none
};

/// Prints a row as soon as it is measured, and returns all. Throws before it measures when the peer's file or the data
/// set can't be used.
nlohmann::json run_bench_table(const BenchTableOptions& options, Device device);

}  // namespace camo::app
