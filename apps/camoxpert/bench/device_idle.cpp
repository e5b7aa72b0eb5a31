#include "apps/camoxpert/bench/device_idle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#ifdef CAMO_WITH_CUDA
#include <chrono>

#include "core/cuda/kernel_trace.h"
#include "core/cuda/runtime.h"
#endif

namespace camo::app {

Coverage coverage(const std::vector<Interval>& intervals) {
  Coverage result;
  size_t last = 0;  // to end so far
  for (size_t i = 0; i < intervals.size(); ++i) {
    const int64_t end = i == 0 ? intervals[0].begin : intervals[last].end;
    if (intervals[i].begin > end) result.gaps.push_back({intervals[i].begin - end, last, i});
    result.covered += std::max<int64_t>(0, intervals[i].end - std::max(intervals[i].begin, end));
    if (intervals[i].end > end) last = i;
  }
  return result;
}

std::string DeviceIdle::str(double untraced_ms) const {
  const int counted = std::max(runs, 1);
  return fmt::format(
      "the GPU is busy for {:.2f} ms of a run, idle for {:.1f} % of {:.2f} ms; in {} traced runs of {:.2f} ms for "
      "{:.1f} %: {:.1f} % in gaps of at most {} us, as between kernels, {:.1f} % in longer ones",
      busy_ms / counted, 100 * share_of(untraced_ms), untraced_ms, runs, wall_ms / counted, 100 * share(),
      100 * (share() - waiting_share()), kShortGap / 1000, 100 * waiting_share());
}

std::string DeviceIdle::waits_str() const {
  constexpr size_t kLines = 6, kName = 48;
  std::string text;
  for (size_t i = 0; i < std::min(kLines, waits.size()); ++i) {
    const Kind& kind = waits[i];
    text += fmt::format("  {:8.3f} ms a run  {:5.1f} times  after {:.{}}, before {:.{}}\n", kind.ms / runs,
                        static_cast<double>(kind.gaps) / runs, kind.after, kName, kind.before, kName);
  }
  return text;
}

nlohmann::json DeviceIdle::to_json(double untraced_ms) const {
  const auto list = [](const std::vector<Kind>& kinds) {
    nlohmann::json rows = nlohmann::json::array();
    for (const Kind& kind : kinds)
      rows.push_back({{"after", kind.after}, {"before", kind.before}, {"gaps", kind.gaps}, {"ms", kind.ms}});
    return rows;
  };
  return {{"runs", runs},
          {"wall_ms", wall_ms},
          {"busy_ms", busy_ms},
          {"between_ms", between_ms},
          {"share", share()},
          {"waiting_share", waiting_share()},
          {"waits", list(waits)},
          {"between", list(between)},
          {"share_untraced", share_of(untraced_ms)}};
}

void check_idle_can_be_measured(Device device) {
  CAMO_CHECK_CODE(usage, device.is_cuda(),
                  "--profile: with --dataset-path or table it measures how long a GPU idles; got device ", device,
                  "; leave it out, or profile train-step on random pictures");
#ifdef CAMO_WITH_CUDA
  const std::string reason = cuda::why_no_kernel_trace();
  CAMO_CHECK_CODE(device, reason.empty(), "profile: kernels can't be traced: ", reason);
#endif
}

#ifdef CAMO_WITH_CUDA

namespace {

/// By the names at both ends.
class Kinds {
 public:
  void add(const std::string& after, const std::string& before, int64_t nanoseconds) {
    DeviceIdle::Kind& kind = kinds_[{after, before}];
    ++kind.gaps;
    kind.ms += static_cast<double>(nanoseconds) * 1e-6;
  }
  std::vector<DeviceIdle::Kind> largest() const {
    std::vector<DeviceIdle::Kind> all;
    for (const auto& [names, kind] : kinds_) all.push_back({names.first, names.second, kind.gaps, kind.ms});
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.ms > b.ms; });
    all.resize(std::min(all.size(), DeviceIdle::kMostKinds));
    return all;
  }

 private:
  std::map<std::pair<std::string, std::string>, DeviceIdle::Kind> kinds_;
};

}  // namespace

DeviceIdle measure_idle(Device device, int runs, const std::function<void()>& run,
                        const std::function<void()>& finish) {
  CAMO_CHECK_CODE(device, device.is_cuda(), "measure_idle: the device must be a GPU; got ", device);
  using Clock = std::chrono::steady_clock;
  cuda::KernelTrace trace(cuda::KernelTrace::Tags::off);
  run();  // pays for what tracing sets up
  finish();
  cuda::synchronize(device);
  const size_t before = trace.activities().size();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < runs; ++i) run();
  finish();
  cuda::synchronize(device);
  DeviceIdle idle{.runs = runs, .wall_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count()};
  std::vector<cuda::DeviceActivity> activities = trace.activities();
  activities.erase(activities.begin(), activities.begin() + static_cast<std::ptrdiff_t>(before));  // the first run's
  std::vector<Interval> intervals;
  for (const cuda::DeviceActivity& activity : activities) intervals.push_back({activity.begin, activity.end});
  const Coverage found = coverage(intervals);
  Kinds waits, between;
  for (const Gap& gap : found.gaps) {
    const bool is_short = gap.length <= DeviceIdle::kShortGap;
    if (is_short) idle.between_ms += static_cast<double>(gap.length) * 1e-6;
    (is_short ? between : waits).add(activities[gap.after].name, activities[gap.before].name, gap.length);
  }
  idle.busy_ms = static_cast<double>(found.covered) * 1e-6;
  idle.waits = waits.largest();
  idle.between = between.largest();
  return idle;
}

#else

DeviceIdle measure_idle(Device device, int, const std::function<void()>&, const std::function<void()>&) {
  fail(ErrorCode::device, "measure_idle: the device must be a GPU; got ", device.str());
}

#endif

}  // namespace camo::app
