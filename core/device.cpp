#include "core/device.h"

#include <charconv>

#include "core/error.h"

namespace camo {

std::string Device::str() const { return is_cpu() ? "cpu" : "cuda:" + std::to_string(index); }

std::string why_no_cuda() { return "this build of camo has no CUDA devices yet"; }

Device parse_device(std::string_view text) {
  if (text == "cpu") return cpu;
  const std::string reason = why_no_cuda();
  if (text == "auto") return reason.empty() ? Device::cuda() : cpu;
  int index = 0;
  bool valid = text == "cuda";
  if (text.starts_with("cuda:")) {
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + 5, end, index);
    valid = parsed.ec == std::errc() && parsed.ptr == end && index >= 0;
  }
  CAMO_CHECK_CODE(usage, valid, "device: must be auto, cpu, cuda or cuda:N; got '", text, "'");
  CAMO_CHECK_CODE(device, reason.empty(), "device: '", text, "' can't be used: ", reason,
                  "; choose --device cpu or auto");
  return Device::cuda(index);
}

}  // namespace camo
