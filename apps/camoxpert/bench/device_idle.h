// How much of the time of a computation nothing runs on the GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/device.h"

namespace camo::app {

struct Interval {
  int64_t begin = 0, end = 0;
};
/// What no interval covers, between two that do.
struct Gap {
  int64_t length = 0;
  size_t after = 0, before = 0;  // the intervals at its ends, by their index
};
struct Coverage {
  int64_t covered = 0;  // the length of what at least one interval covers
  std::vector<Gap> gaps;
};
/// Of intervals in the order of their begins.
Coverage coverage(const std::vector<Interval>& intervals);

struct DeviceIdle {
  /// What a GPU takes from one kernel to the next of a stream is less; what waits for the host is longer.
  static constexpr int64_t kShortGap = 5000;  // ns

  int runs = 0;
  double wall_ms = 0, busy_ms = 0;  // of all runs; busy: at least one kernel, copy or fill ran
  double between_ms = 0;            // in gaps of at most kShortGap

  /// Gaps between activities of the same two names, in all runs.
  struct Kind {
    std::string after, before;
    int gaps = 0;
    double ms = 0;
  };
  static constexpr size_t kMostKinds = 20;
  std::vector<Kind> waits = {}, between = {};  // longer than kShortGap, and the others; those with the most time first

  double share() const { return wall_ms > 0 ? 1 - busy_ms / wall_ms : 0; }
  /// In gaps longer than kShortGap.
  double waiting_share() const { return wall_ms > 0 ? 1 - (busy_ms + between_ms) / wall_ms : 0; }
  /// The share where a run takes `untraced_ms`: tracing costs the host some time, in which the GPU waits.
  double share_of(double untraced_ms) const {
    return untraced_ms > 0 && runs > 0 ? std::max(0.0, 1 - busy_ms / runs / untraced_ms) : 0;
  }
  /// One line for people, and what it means for runs that take `untraced_ms` each.
  std::string str(double untraced_ms) const;
  /// A line for each of the kinds that wait longest.
  std::string waits_str() const;
  nlohmann::json to_json(double untraced_ms) const;
};

/// What --profile needs where it measures nothing else: throws ErrorCode::usage unless `device` is a GPU, and
/// ErrorCode::device where its kernels can't be traced.
void check_idle_can_be_measured(Device device);

/// Traces calls of `run`, which may leave work queued, after one that does not count; `finish` waits for what is
/// queued, after the last call. Only for a GPU; throws ErrorCode::device where kernels can't be traced.
DeviceIdle measure_idle(Device device, int runs, const std::function<void()>& run, const std::function<void()>& finish);

}  // namespace camo::app
