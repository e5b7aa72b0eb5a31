#include "apps/camoxpert/bench/device_idle.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#ifdef CAMO_WITH_CUDA
#include <chrono>

#include "core/cuda/kernel_trace.h"
#include "core/cuda/runtime.h"
#endif

namespace camo::app {

int64_t covered(std::vector<Interval> intervals) {
  std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  int64_t length = 0, end = std::numeric_limits<int64_t>::min();
  for (const Interval& interval : intervals) {
    const int64_t begin = std::max(interval.begin, end);
    length += std::max<int64_t>(0, interval.end - begin);
    end = std::max(end, interval.end);
  }
  return length;
}

nlohmann::json DeviceIdle::to_json() const {
  return {{"runs", runs}, {"wall_ms", wall_ms}, {"busy_ms", busy_ms}, {"share", share()}};
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
  idle.busy_ms = static_cast<double>(covered(std::move(intervals))) * 1e-6;
  return idle;
}

#else

DeviceIdle measure_idle(Device device, int, const std::function<void()>&, const std::function<void()>&) {
  fail(ErrorCode::device, "measure_idle: the device must be a GPU; got ", device.str());
}

#endif

}  // namespace camo::app
