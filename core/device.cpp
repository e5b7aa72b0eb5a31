#include "core/device.h"

#include <charconv>

#include "core/error.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo {

std::string Device::str() const { return is_cpu() ? "cpu" : "cuda:" + std::to_string(index); }

#ifdef CAMO_WITH_CUDA
int cuda_device_count() { return cuda::device_count(); }

std::string why_no_cuda() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  cudaGetLastError();
  if (status == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is missing or too old for the CUDA version camo was built with; install a newer driver";
  }
  return status == cudaSuccess ? "no CUDA device is visible" : cudaGetErrorString(status);
}
#else
int cuda_device_count() { return 0; }

std::string why_no_cuda() { return "camo was built without CUDA; configure with -DCAMO_CUDA=ON"; }
#endif

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
  CAMO_CHECK_CODE(device, index < cuda_device_count(), "device: '", text, "' does not exist; this machine has ",
                  cuda_device_count(), " CUDA devices, numbered from 0");
  return Device::cuda(index);
}

}  // namespace camo
