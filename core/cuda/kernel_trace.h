// What ran on the devices, for how long, and between which marks of the host: NVIDIA's CUPTI library, loaded when used.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace camo::cuda {

/// One kernel, copy or fill that ran on a device.
struct DeviceActivity {
  std::string name;   // of the kernel, demangled and without arguments; "copy" or "fill"
  uint64_t tag = 0;   // that was current on the launching thread
  int64_t begin = 0;  // nanoseconds on the device's clock
  int64_t end = 0;
};

/// Empty when traces can be taken; else the reason why not.
std::string why_no_kernel_trace();

/// Everything launched during its life. One at a time. With tags, launches cost the host a few microseconds more.
class KernelTrace {
 public:
  enum class Tags { on, off };
  /// Throws ErrorCode::device where why_no_kernel_trace() gives a reason.
  explicit KernelTrace(Tags tags = Tags::on);
  ~KernelTrace();
  KernelTrace(const KernelTrace&) = delete;
  KernelTrace& operator=(const KernelTrace&) = delete;

  /// Launches of this thread belong to `tag` from here on; 0 at the start. Only with Tags::on.
  void tag(uint64_t tag);
  /// Waits for the device that is current; what ran so far on all of them, in the order in which it began.
  std::vector<DeviceActivity> activities();

 private:
  Tags tags_;
};

}  // namespace camo::cuda
