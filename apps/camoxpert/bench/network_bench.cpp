#include "apps/camoxpert/bench/network_bench.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/camoxpert/bench/op_breakdown.h"
#include "apps/camoxpert/progress.h"
#include "core/error.h"
#include "core/parallel.h"

namespace camo::app {

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// The value below which this share of the sorted times lies.
double quantile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], position - static_cast<double>(below));
}

void print_timing(const NetworkBenchOptions& options, Device device, const Timing& timing, double rate) {
  const TrainOptions& train = options.train;
  const bool from_disk = !train.dataset_path.empty();
  fmt::print("{} on {}: {}, {} experts, {} px, batch {}, {} threads, {}{}\n", options.trains ? "train-step" : "infer",
             device.str(), train.network.backbone, train.network.num_experts, train.img_size, train.batch_size,
             num_threads(), train.common.precision(device), timing.used_graphs ? ", CUDA graphs" : "");
  fmt::print("median {:.2f} ms ({:.2f} to {:.2f}, {} runs after {})   {}peak memory {}\n", timing.median_ms(),
             timing.sorted_ms.front(), timing.sorted_ms.back(), timing.sorted_ms.size(), options.warmup,
             from_disk ? "" : fmt::format("{:.2f} images/s   ", rate), format_bytes(timing.peak_bytes));
  if (from_disk) {
    fmt::print(
        "pictures of {}, {} workers, --aug {}: {:.2f} ms a step in all, {:.2f} images/s, {:.1f} % of the time "
        "waiting for pictures\n",
        train.dataset_path, train.num_workers, train.aug, timing.mean_ms(), rate, 100 * timing.waited_share());
  }
}

nlohmann::json to_json(const NetworkBenchOptions& options, Device device, const Timing& timing, double rate) {
  const TrainOptions& train = options.train;
  nlohmann::json row{{"bench", options.trains ? "train-step" : "infer"},
                     {"device", device.str()},
                     {"backbone", train.network.backbone},
                     {"experts", train.network.num_experts},
                     {"chosen_experts", options.experts},
                     {"img_size", train.img_size},
                     {"batch_size", train.batch_size},
                     {"threads", num_threads()},
                     {"tf32", device.is_cuda() && train.common.tf32},
                     {"amp", train.common.amp},
                     {"cuda_graphs", timing.used_graphs},
                     {"runs", timing.sorted_ms.size()},
                     {"median_ms", timing.median_ms()},
                     {"min_ms", timing.sorted_ms.front()},
                     {"quartile_1_ms", quantile(timing.sorted_ms, 0.25)},
                     {"quartile_3_ms", quantile(timing.sorted_ms, 0.75)},
                     {"max_ms", timing.sorted_ms.back()},
                     {"mean_ms", timing.mean_ms()},
                     {"images_per_second", rate},
                     {"peak_bytes", timing.peak_bytes},
                     {"result", timing.result}};
  if (!train.dataset_path.empty()) {
    row["dataset_path"] = train.dataset_path;
    row["workers"] = train.num_workers;
    row["aug"] = train.aug;
    row["cache_mb"] = train.cache_mb;
    row["waited_share"] = timing.waited_share();
  }
  return row;
}

}  // namespace

double Timing::median_ms() const { return quantile(sorted_ms, 0.5); }

Timing time_runs(Workload& workload, const NetworkBenchOptions& options, Device device) {
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < options.warmup; ++i) workload.run();
  if (options.warmup > 0) workload.finish();
  reset_peak_memory(device);
  Timing timing;
  const double waited_before = workload.seconds_waited();
  const Clock::time_point first = Clock::now();
  for (int i = 0; i < options.steps; ++i) {
    const Clock::time_point start = Clock::now();
    workload.run();
    timing.sorted_ms.push_back(milliseconds_since(start));
    if (options.max_time > 0 && milliseconds_since(begin) > 1e3 * options.max_time) break;
  }
  timing.result = workload.finish();
  timing.wall_ms = milliseconds_since(first);
  CAMO_CHECK_CODE(not_finite, std::isfinite(timing.result), "bench: the result is ", timing.result);
  timing.waited_ms = 1e3 * (workload.seconds_waited() - waited_before);
  timing.peak_bytes = memory_stats(device).peak_bytes;
  timing.used_graphs = workload.used_graphs();
  std::sort(timing.sorted_ms.begin(), timing.sorted_ms.end());
  return timing;
}

DeviceIdle idle_of(Workload& workload, const NetworkBenchOptions& options, Device device) {
  return measure_idle(
      device, options.profile_steps, [&] { workload.run(); }, [&] { workload.finish(); });
}

nlohmann::json run_network_bench(const NetworkBenchOptions& options, Device device) {
  const bool from_disk = !options.train.dataset_path.empty();
  if (options.profile && from_disk) check_idle_can_be_measured(device);
  const std::unique_ptr<Workload> workload = make_workload(options, device);
  const Timing timing = time_runs(*workload, options, device);
  // Steps from disk count with all that lies between them.
  const double rate =
      1e3 * static_cast<double>(options.train.batch_size) / (from_disk ? timing.mean_ms() : timing.median_ms());
  print_timing(options, device, timing, rate);
  nlohmann::json row = to_json(options, device, timing, rate);
  if (!workload->pictures_per_expert().empty()) row["pictures_per_expert"] = workload->pictures_per_expert();
  if (!options.profile) return row;
  if (!from_disk) {
    const Peaks peaks = measure_peaks(device, options.train.common.autocast());
    OpProfile profile(device);
    workload->run_recorded([&](const char* name, const char* family) { profile.mark(name, family); });
    profile.finish();
    row["profile"] = print_breakdown(profile, peaks, options.rows);
  }
  if (device.is_cuda()) {
    const DeviceIdle idle = idle_of(*workload, options, device);
    fmt::print("idle: {}\n{}", idle.str(timing.mean_ms()), idle.waits_str());
    row["idle"] = idle.to_json(timing.mean_ms());
  }
  return row;
}

}  // namespace camo::app
