#include "apps/camoxpert/bench/device_idle.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#ifdef CAMO_WITH_CUDA
#include <chrono>

#include "core/cuda/kernel_trace.h"
#include "core/cuda/runtime.h"
#endif

namespace camo::app {

Coverage coverage(std::vector<Interval> intervals, int64_t short_gap) {
  std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  Coverage result;
  if (intervals.empty()) return result;
  int64_t end = intervals.front().begin;
  for (const Interval& interval : intervals) {
    if (const int64_t gap = interval.begin - end; gap > 0 && gap <= short_gap) result.short_gaps += gap;
    const int64_t begin = std::max(interval.begin, end);
    result.covered += std::max<int64_t>(0, interval.end - begin);
    end = std::max(end, interval.end);
  }
  return result;
}

std::string DeviceIdle::str() const {
  return fmt::format(
      "nothing ran on the GPU in {:.1f} % of {} traced runs of {:.2f} ms: {:.1f} % in gaps of at most {} us, as "
      "between kernels, {:.1f} % in longer ones",
      100 * share(), runs, runs > 0 ? wall_ms / runs : 0, 100 * (share() - waiting_share()), kShortGap / 1000,
      100 * waiting_share());
}

nlohmann::json DeviceIdle::to_json() const {
  return {{"runs", runs},       {"wall_ms", wall_ms},
          {"busy_ms", busy_ms}, {"between_ms", between_ms},
          {"share", share()},   {"waiting_share", waiting_share()}};
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
  const std::vector<cuda::DeviceActivity> activities = trace.activities();
  std::vector<Interval> intervals;  // those of the first run began before all others
  for (size_t i = before; i < activities.size(); ++i) intervals.push_back({activities[i].begin, activities[i].end});
  const Coverage found = coverage(std::move(intervals), DeviceIdle::kShortGap);
  idle.busy_ms = static_cast<double>(found.covered) * 1e-6;
  idle.between_ms = static_cast<double>(found.short_gaps) * 1e-6;
  return idle;
}

#else

DeviceIdle measure_idle(Device device, int, const std::function<void()>&, const std::function<void()>&) {
  fail(ErrorCode::device, "measure_idle: the device must be a GPU; got ", device.str());
}

#endif

}  // namespace camo::app
