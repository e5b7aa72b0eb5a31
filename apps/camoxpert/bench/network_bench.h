// camoxpert bench train-step and infer: a network's time and memory, and where the time goes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "apps/camoxpert/bench/device_idle.h"
#include "apps/camoxpert/bench/network_workloads.h"

namespace camo::app {

struct Timing {
  std::vector<double> sorted_ms;  // of each run
  double wall_ms = 0;             // of all runs together
  double waited_ms = 0;           // of that, for pictures
  int64_t peak_bytes = 0;
  double result = 0;
  bool used_graphs = false;

  double median_ms() const;
  /// Milliseconds of wall time a run.
  double mean_ms() const { return wall_ms / static_cast<double>(sorted_ms.size()); }
  double waited_share() const { return waited_ms / wall_ms; }
};

/// After the warm-up, as often as options.steps and max_time say. Throws ErrorCode::not_finite when the result is not.
Timing time_runs(Workload& workload, const NetworkBenchOptions& options, Device device);

/// How long a GPU idles during options.profile_steps runs.
DeviceIdle idle_of(Workload& workload, const NetworkBenchOptions& options, Device device);

/// Prints what was measured and returns it.
nlohmann::json run_network_bench(const NetworkBenchOptions& options, Device device);

}  // namespace camo::app
