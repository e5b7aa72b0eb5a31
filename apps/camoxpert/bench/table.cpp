#include "apps/camoxpert/bench/table.h"

#include <fmt/core.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/camoxpert/bench/network_bench.h"
#include "apps/camoxpert/bench/op_cost.h"
#include "apps/camoxpert/bench/peer_file.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/training/data_plan.h"
#include "core/parallel.h"

namespace camo::app {

namespace {

using Json = nlohmann::json;

constexpr double kGiB = 1 << 30;

/// "bf16", "fp16", "tf32" or "f32": the peer's names.
std::string precision_name(const CommonOptions& common, Device device) {
  if (common.amp != "off") return common.amp;
  return device.is_cuda() && common.tf32 ? "tf32" : "f32";
}

std::string text_or_dash(const std::optional<double>& number, const char* unit = "") {
  return number ? fmt::format("{:.2f}{}", *number, unit) : "-";
}

class Table {
 public:
  Table(const BenchTableOptions& options, Device device) : options_(options), device_(device) {
    if (!options.peer.empty()) peer_ = PeerFile(options.peer);
    if (!options.bench.train.dataset_path.empty()) plan_data(options.bench.train);
  }

  Json measure() {
    print_head();
    NetworkBenchOptions bench = options_.bench;
    bench.train.dataset_path.clear();
    const int64_t batch = bench.train.batch_size;
    const Json step = add("train step", bench);
    bench.train.batch_size = 2 * batch;
    add("train step", bench);
    bench.train.batch_size = batch;
    if (bench.train.common.amp != "off") {
      NetworkBenchOptions wide = bench;
      wide.train.common.amp = "off";
      add("train step", wide);
    }
    if (!options_.bench.train.dataset_path.empty()) {
      const Json real = add("train step, from disk", options_.bench);
      fmt::print("  {:.2f} times the step over random pictures; {:.1f} % of the time waiting for pictures\n",
                 real["ms"].get<double>() / step["ms"].get<double>(), 100 * real["waited_share"].get<double>());
    }
    bench.trains = false;
    add("inference", bench);
    bench.train.batch_size = 1;
    if (batch > 1) add("inference", bench);
    add_memory(step);
    const TrainOptions& train = options_.bench.train;
    Json peaks = Json::object();
    for (const auto& [name, peak] : peaks_)
      peaks[name] = {{"flops_per_second", peak.flops_per_second}, {"bytes_per_second", peak.bytes_per_second}};
    return {{"bench", "table"},
            {"device", device_.str()},
            {"backbone", train.network.backbone},
            {"experts", train.network.num_experts},
            {"img_size", train.img_size},
            {"threads", num_threads()},
            {"peaks", peaks},
            {"rows", rows_}};
  }

 private:
  void print_head() const {
    const TrainOptions& train = options_.bench.train;
    fmt::print("{}, {} experts, {} px on {}, {} threads; medians of {} runs after {}; from disk: all the time a step\n",
               train.network.backbone, train.network.num_experts, train.img_size, device_.str(), num_threads(),
               options_.bench.steps, options_.bench.warmup);
    if (!options_.peer.empty()) fmt::print("peer: {} of {}\n", peer_.lines().front().peer, options_.peer);
    fmt::print("{:<40} {:>13} {:>10} {:>13} {:>13} {:>12}\n", "", "camo", "images/s", "floor", "peer", "camo / peer");
  }

  PeerFile::Configuration configuration(const NetworkBenchOptions& bench) const {
    return {.device = device_.is_cuda() ? "cuda" : "cpu",
            .backbone = bench.train.network.backbone,
            .dtype = precision_name(bench.train.common, device_),
            .batch = bench.train.batch_size,
            .size = bench.train.img_size};
  }

  /// Measured in the precision of the row's products.
  const Peaks& peaks(const NetworkBenchOptions& bench) {
    const std::string name = precision_name(bench.train.common, device_);
    auto found = peaks_.find(name);
    if (found == peaks_.end())
      found = peaks_.emplace(name, measure_peaks(device_, bench.train.common.autocast())).first;
    return found->second;
  }

  Json add(const std::string& name, const NetworkBenchOptions& bench) {
    bench.train.common.apply();
    const bool from_disk = !bench.train.dataset_path.empty();
    const std::unique_ptr<Workload> workload = make_workload(bench, device_);
    const Timing timing = time_runs(*workload, bench, device_);
    const double ms = from_disk ? timing.mean_ms() : timing.median_ms();
    const double rate = 1e3 * static_cast<double>(bench.train.batch_size) / ms;
    double floor = 0;
    {
      FloorObserver observer(peaks(bench));
      workload->run_recorded([](const char*, const char*) {});
      floor = observer.floor_ms();
    }
    const PeerFile::Configuration wanted = configuration(bench);
    const std::optional<double> peer =
        peer_.best(wanted, bench.trains ? &PeerLine::train_ms : &PeerLine::infer_ms, from_disk);
    Json row{{"row", name},
             {"precision", wanted.dtype},
             {"batch_size", wanted.batch},
             {"ms", ms},
             {"median_ms", timing.median_ms()},
             {"min_ms", timing.sorted_ms.front()},
             {"max_ms", timing.sorted_ms.back()},
             {"runs", timing.sorted_ms.size()},
             {"images_per_second", rate},
             {"floor_ms", floor},
             {"peak_bytes", timing.peak_bytes},
             {"cuda_graphs", timing.used_graphs}};
    if (from_disk) row["waited_share"] = timing.waited_share();
    if (!from_disk) row["pictures_per_expert"] = workload->pictures_per_expert();
    print_row(row, fmt::format("{:.2f} ms", ms), fmt::format("{:.1f}", rate), fmt::format("{:.2f} ms", floor),
              text_or_dash(peer, " ms"), peer ? std::optional(ms / *peer) : std::nullopt);
    if (peer) row["peer_ms"] = *peer, row["camo_over_peer"] = ms / *peer;
    if (bench.profile && bench.trains) {
      const DeviceIdle idle = idle_of(*workload, bench, device_);
      fmt::print("  {}\n", idle.str(timing.mean_ms()));
      row["idle"] = idle.to_json(timing.mean_ms());
    }
    rows_.push_back(row);
    return row;
  }

  /// Of the first row's step.
  void add_memory(const Json& step) {
    const auto bytes = step["peak_bytes"].get<int64_t>();
    const std::optional<double> peer = peer_.best(configuration(options_.bench), &PeerLine::peak_gib);
    const double gib = static_cast<double>(bytes) / kGiB;
    Json row{{"row", "peak memory"},
             {"precision", step["precision"]},
             {"batch_size", step["batch_size"]},
             {"peak_bytes", bytes}};
    print_row(row, format_bytes(bytes), "-", "-", text_or_dash(peer, " GiB"),
              peer ? std::optional(gib / *peer) : std::nullopt);
    if (peer) row["peer_gib"] = *peer, row["camo_over_peer"] = gib / *peer;
    rows_.push_back(row);
  }

  static void print_row(const Json& row, const std::string& camo, const std::string& rate, const std::string& floor,
                        const std::string& peer, const std::optional<double>& ratio) {
    const std::string name = fmt::format("{}, {}, batch {}", row["row"].get<std::string>(),
                                         row["precision"].get<std::string>(), row["batch_size"].get<int64_t>());
    fmt::print("{:<40} {:>13} {:>10} {:>13} {:>13} {:>12}\n", name, camo, rate, floor, peer, text_or_dash(ratio));
    std::fflush(stdout);  // what was measured stays, whatever comes
  }

  BenchTableOptions options_;
  Device device_;
  PeerFile peer_;
  std::map<std::string, Peaks> peaks_;
  Json rows_ = Json::array();
};

}  // namespace

Json run_bench_table(const BenchTableOptions& options, Device device) {
  if (options.bench.profile) check_idle_can_be_measured(device);
  return Table(options, device).measure();
}

}  // namespace camo::app
