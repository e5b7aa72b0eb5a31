#include "core/cuda/launch.cuh"
#include "core/cuda/recording.h"

namespace camo::cuda {
namespace {

__global__ void empty_kernel() {}

bool devices_and_code_can() {
  if (compiled_capability() < 90) return false;
  for (int i = 0; i < device_count(); ++i) {
    if (device_info(Device(Device::Kind::cuda, i)).major < 9) return false;
  }
  return true;
}

}  // namespace

int compiled_capability() {
  static const int capability = [] {
    cudaFuncAttributes attributes;
    CAMO_CUDA(cudaFuncGetAttributes(&attributes, empty_kernel));
    return attributes.ptxVersion;
  }();
  return capability;
}

bool launches_early() {
  static const bool can = devices_and_code_can();
  return can && !is_recording();  // in graphs there is next to nothing to gain
}

}  // namespace camo::cuda
