#include "core/device.h"

#include <charconv>

#include "core/error.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/driver.h"
#include "core/cuda/runtime.h"
#endif

namespace camo {

std::string Device::str() const { return is_cpu() ? "cpu" : "cuda:" + std::to_string(index); }

#ifdef CAMO_WITH_CUDA
int cuda_device_count() { return cuda::device_count(); }

namespace cuda {

DriverStatus driver_status() {
  DriverStatus found;
  found.status = cudaGetDeviceCount(&found.devices);
  cudaDriverGetVersion(&found.driver_version);
  cudaRuntimeGetVersion(&found.runtime_version);
  cudaGetLastError();
  return found;
}

std::string why_unusable(const DriverStatus& driver) {
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  if (driver.status == cudaSuccess && driver.devices > 0) return {};
  if (driver.driver_version == 0) return "no NVIDIA driver is installed; install one";
  if (driver.status == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is for CUDA " + version(driver.driver_version) + ", too old for CUDA " +
           version(driver.runtime_version) + " that camo was built with; install a newer driver";
  }
  if (driver.status == cudaSuccess || driver.status == cudaErrorNoDevice)
    return "no CUDA device is visible; see nvidia-smi and CUDA_VISIBLE_DEVICES";
  return cudaGetErrorString(driver.status);
}

}  // namespace cuda

std::string why_no_cuda() { return cuda::why_unusable(cuda::driver_status()); }
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
