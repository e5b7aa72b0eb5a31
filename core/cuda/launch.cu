#include <algorithm>

#include "core/cuda/launch.cuh"
#include "core/cuda/recording.h"

namespace camo::cuda {
namespace {

__global__ void empty_kernel() {}

/// The compute capability that the running kernels were compiled for.
int compiled_capability() {
  static const int capability = [] {
    cudaFuncAttributes attributes;
    CAMO_CUDA(cudaFuncGetAttributes(&attributes, empty_kernel));
    return attributes.ptxVersion;
  }();
  return capability;
}

bool all_devices_can() {
  for (int i = 0; i < device_count(); ++i) {
    if (usable_capability(Device(Device::Kind::cuda, i)) < 90) return false;
  }
  return true;
}

}  // namespace

int usable_capability(Device device) {
  const DeviceInfo& info = device_info(device);
  return std::min(info.major * 10 + info.minor, compiled_capability());
}

bool launches_early() {
  static const bool can = all_devices_can();
  return can && !is_recording();  // in graphs there is next to nothing to gain
}

}  // namespace camo::cuda
