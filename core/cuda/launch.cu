#include <algorithm>

#include "core/cuda/launch.cuh"

namespace camo::cuda {
namespace {

__global__ void empty_kernel() {}

/// The compute capability that the running kernels were compiled for, as the current device loads them.
int compiled_capability() {
  static const int capability = [] {
    cudaFuncAttributes attributes;
    CAMO_CUDA(cudaFuncGetAttributes(&attributes, empty_kernel));
    return attributes.ptxVersion;
  }();
  return capability;
}

int capability_of(Device device) {
  const DeviceInfo& info = device_info(device);
  return info.major * 10 + info.minor;
}

bool all_devices_can() {
  if (compiled_capability() < 90) return false;
  for (int i = 0; i < device_count(); ++i) {
    if (capability_of(Device::cuda(i)) < 90) return false;
  }
  return true;
}

}  // namespace

int usable_capability(Device device) {
  use(device);
  return std::min(capability_of(device), compiled_capability());
}

bool launches_early() {
  static const bool can = all_devices_can();
  return can;
}

}  // namespace camo::cuda
