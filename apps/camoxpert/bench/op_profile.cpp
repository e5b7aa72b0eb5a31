#include "apps/camoxpert/bench/op_profile.h"

#include <algorithm>

#include "apps/camoxpert/bench/device_idle.h"

#ifdef CAMO_WITH_CUDA
#include "core/cuda/kernel_trace.h"
#else
namespace camo::cuda {
class KernelTrace {};
}  // namespace camo::cuda
#endif

namespace camo::app {

namespace {

constexpr const char* kSums = "sums of gradients";

/// "[16, 96, 96, 80] [80, 3, 3, 1]": the inputs that decide the work.
std::string shapes_of(std::span<const Tensor> inputs) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(inputs.size(), 2); ++i) {
    if (inputs[i].defined()) text += (text.empty() ? "" : " ") + concat_text(inputs[i].shape());
  }
  return text;
}

std::string family_of(const std::string& op, std::span<const Tensor> inputs) {
  const std::string scope = op_scope();
  if (scope == "experts" || scope == "attention") return scope;
  const bool pointwise = op == "linear" && inputs[0].dims() == 4;  // conv2d with a 1x1 kernel
  if (op == "conv2d" || pointwise) return "convolution";
  return op == "scaled_dot_product_attention" ? "attention" : "other";
}

}  // namespace

OpProfile::OpProfile(Device device) : device_(device) {
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) trace_ = std::make_unique<cuda::KernelTrace>();
#endif
  wait_for(device);
  observe_ops(this);
  last_ = Clock::now();
}

OpProfile::~OpProfile() { observe_ops(nullptr); }

size_t OpProfile::row(const std::string& op, const std::string& shapes, const std::string& family, bool is_backward) {
  const std::string key = op + '|' + shapes + '|' + family + (is_backward ? "|backward" : "|forward");
  const auto [found, is_new] = rows_.try_emplace(key, times_.size());
  if (is_new) times_.push_back({.op = op, .shapes = shapes, .family = family, .is_backward = is_backward});
  return found->second;
}

void OpProfile::close_segment(size_t row) {
  ++times_[row].calls;
  segments_.push_back(row);
#ifdef CAMO_WITH_CUDA
  if (trace_) return trace_->tag(segments_.size());
#endif
  const Clock::time_point now = Clock::now();
  times_[row].milliseconds += std::chrono::duration<double, std::milli>(now - last_).count();
  last_ = now;
}

void OpProfile::mark(const std::string& name, const std::string& family) {
  close_segment(row(name, "", family, false));
}

void OpProfile::recorded(const Node& node, std::span<const Tensor> outputs, std::span<const Tensor> inputs) {
  const std::string shapes = shapes_of(inputs), family = family_of(node.name(), inputs);
  const size_t forward = row(node.name(), shapes, family, false);
  times_[forward].cost += forward_cost(node.name(), outputs, inputs);
  backward_rows_[node.sequence()] = {row(node.name(), shapes, family, true),
                                     backward_cost(node.name(), outputs, inputs)};
  close_segment(forward);
}

void OpProfile::backward_begins(const Node&) { mark(kSums); }

void OpProfile::backward_ended(const Node& node) {
  const auto found = backward_rows_.find(node.sequence());
  if (found == backward_rows_.end()) return mark(node.name());  // recorded before the profile began
  times_[found->second.first].cost += found->second.second;
  close_segment(found->second.first);
}

void OpProfile::finish() {
  mark("rest");
  observe_ops(nullptr);
  read_device();
  std::erase_if(times_, [](const OpTime& time) { return time.milliseconds == 0; });
  const auto longer = [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; };
  std::sort(times_.begin(), times_.end(), longer);
  std::sort(kernels_.begin(), kernels_.end(), longer);
}

void OpProfile::read_device() {
#ifdef CAMO_WITH_CUDA
  if (!trace_) return;
  std::map<std::string, KernelTime> kernels;
  std::vector<Interval> intervals;
  for (const cuda::DeviceActivity& activity : trace_->activities()) {
    const double milliseconds = static_cast<double>(activity.end - activity.begin) * 1e-6;
    KernelTime& kernel = kernels[activity.name];
    ++kernel.launches;
    kernel.milliseconds += milliseconds;
    if (activity.tag < segments_.size()) {
      OpTime& time = times_[segments_[activity.tag]];
      ++time.kernels;
      time.milliseconds += milliseconds;
    }
    intervals.push_back({activity.begin, activity.end});
  }
  for (OpTime& time : times_) {
    if (time.op == kSums) time.calls = time.kernels;  // one might be before every backward; few are
  }
  for (auto& [name, kernel] : kernels) {
    kernel.name = name;
    kernels_.push_back(kernel);
  }
  int64_t end = 0;
  for (const Interval& interval : intervals) end = std::max(end, interval.end);
  if (!intervals.empty()) span_ms_ = static_cast<double>(end - intervals.front().begin) * 1e-6;
  idle_ms_ = span_ms_ - static_cast<double>(coverage(intervals).covered) * 1e-6;
  trace_.reset();
#endif
}

}  // namespace camo::app
