// Whether a device runs the Hopper kernels.
#include <map>
#include <mutex>

#include "ops/attention/cuda/hopper_source.cuh"
#include "ops/attention/cuda/launch.h"

namespace camo::flash {
namespace {

/// Has shared memory in code for sm_90a alone.
__global__ void hopper_probe_kernel(int* out) {
#ifdef CAMO_FLASH_HOPPER
  __shared__ volatile int present;
  present = 1;
  *out = present;
#endif
}

bool probe(Device device) {
  if (cuda::device_info(device).major != 9 || hopper::tensor_map_encoder() == nullptr) return false;
  cuda::use(device);
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, hopper_probe_kernel) != cudaSuccess) {
    cudaGetLastError();  // no code for this device at all
    return false;
  }
  return attributes.sharedSizeBytes > 0;
}

}  // namespace

bool has_hopper_kernels(Device device) {
  static std::mutex mutex;
  static std::map<int, bool> known;
  const std::lock_guard lock(mutex);
  const auto [entry, is_new] = known.try_emplace(device.index);
  if (is_new) entry->second = probe(device);
  return entry->second;
}

}  // namespace camo::flash
