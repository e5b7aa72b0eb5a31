// How much of the time of a computation nothing runs on the GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/device.h"

namespace camo::app {

struct Interval {
  int64_t begin = 0, end = 0;
};
struct Coverage {
  int64_t covered = 0;     // the length of what at least one interval covers
  int64_t short_gaps = 0;  // of the gaps in it that are not longer than `short_gap`, added up
};
Coverage coverage(std::vector<Interval> intervals, int64_t short_gap);

struct DeviceIdle {
  /// What a GPU takes from one kernel to the next of a stream is less; what waits for the host is longer.
  static constexpr int64_t kShortGap = 5000;  // ns

  int runs = 0;
  double wall_ms = 0, busy_ms = 0;  // of all runs; busy: at least one kernel, copy or fill ran
  double between_ms = 0;            // in gaps of at most kShortGap

  double share() const { return wall_ms > 0 ? 1 - busy_ms / wall_ms : 0; }
  /// In gaps longer than kShortGap.
  double waiting_share() const { return wall_ms > 0 ? 1 - (busy_ms + between_ms) / wall_ms : 0; }
  /// One line for people.
  std::string str() const;
  nlohmann::json to_json() const;
};

/// What --profile needs where it measures nothing else: throws ErrorCode::usage unless `device` is a GPU, and
/// ErrorCode::device where its kernels can't be traced.
void check_idle_can_be_measured(Device device);

/// Traces calls of `run`, which may leave work queued, after one that does not count; `finish` waits for what is
/// queued, after the last call. Only for a GPU; throws ErrorCode::device where kernels can't be traced.
DeviceIdle measure_idle(Device device, int runs, const std::function<void()>& run, const std::function<void()>& finish);

}  // namespace camo::app
