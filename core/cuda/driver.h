// What the driver says of this machine's GPUs, in words.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace camo::cuda {

/// What cudaGetDeviceCount, cudaDriverGetVersion and cudaRuntimeGetVersion return. Versions are 1000 * major + 10 *
/// minor; the driver's is 0 when there is none.
struct DriverStatus {
  cudaError_t status = cudaSuccess;
  int devices = 0;
  int driver_version = 0, runtime_version = 0;
};
DriverStatus driver_status();

/// Empty when there are GPUs to use; otherwise the reason why not, and what helps.
std::string why_unusable(const DriverStatus& driver);

}  // namespace camo::cuda
