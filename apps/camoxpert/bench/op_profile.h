// The time of every operation of a computation: on a GPU that of its kernels, on the CPU that of the calling thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "apps/camoxpert/bench/op_cost.h"
#include "core/op_observer.h"

namespace camo::cuda {
class KernelTrace;
}

namespace camo::app {

/// All runs of an operation on the same shapes, in one direction.
struct OpTime {
  std::string op, shapes;  // shapes of its first inputs
  std::string family;      // convolution, attention, experts, data or other
  bool is_backward = false;
  int64_t calls = 0, kernels = 0;
  double milliseconds = 0;
  OpCost cost = {};  // of all calls together
};

/// Kernels of one name.
struct KernelTime {
  std::string name;
  int64_t launches = 0;
  double milliseconds = 0;
};

class OpProfile final : public OpObserver {
 public:
  /// Watches this thread during its life. On a GPU it needs NVIDIA's CUPTI library; throws where that is missing.
  explicit OpProfile(Device device);
  ~OpProfile() override;

  /// What was done since the last operation or mark goes by this name.
  void mark(const std::string& name, const std::string& family = "other");
  /// Ends the profile. Longest first.
  void finish();
  const std::vector<OpTime>& times() const { return times_; }
  const std::vector<KernelTime>& kernels() const { return kernels_; }
  /// From the first kernel's begin to the last one's end, and within that: nothing ran on the device.
  double span_ms() const { return span_ms_; }
  double idle_ms() const { return idle_ms_; }

  void recorded(const Node& node, std::span<const Tensor> outputs, std::span<const Tensor> inputs) override;
  void backward_begins(const Node& node) override;
  void backward_ended(const Node& node) override;

 private:
  /// The row of times_ for these, made when new.
  size_t row(const std::string& op, const std::string& shapes, const std::string& family, bool is_backward);
  /// What ran since the last call belongs to this row.
  void close_segment(size_t row);
  void read_device();

  using Clock = std::chrono::steady_clock;
  Device device_;
  std::unique_ptr<cuda::KernelTrace> trace_;
  std::vector<OpTime> times_;
  std::vector<KernelTime> kernels_;
  std::map<std::string, size_t> rows_;
  std::vector<size_t> segments_;                                           // the rows of the marks so far
  std::unordered_map<uint64_t, std::pair<size_t, OpCost>> backward_rows_;  // by the node's sequence number
  Clock::time_point last_;
  double span_ms_ = 0, idle_ms_ = 0;
};

}  // namespace camo::app
