// cuDNN's handles and checked calls. For the sources of ops/ that use cuDNN: core itself does not link it.
#pragma once

#include <cudnn.h>

#include <vector>

#include "core/cuda/runtime.h"
#include "core/error.h"

/// Throws camo::Error (device) naming the call, its file and line, and cuDNN's own words, when a cuDNN call fails.
#define CAMO_CUDNN(call) ::camo::cuda::check_cudnn((call), #call, __FILE__, __LINE__)

namespace camo::cuda {

/// cuDNN's words on the last call of this thread that failed.
inline std::string cudnn_error(cudnnStatus_t status) {
  char detail[512] = "";
  cudnnGetLastErrorString(detail, sizeof detail);
  return concat_text(cudnnGetErrorString(status), detail[0] != '\0' ? ": " : "", static_cast<const char*>(detail));
}

inline void check_cudnn(cudnnStatus_t status, const char* call, const char* file, int line) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  const bool lacks_memory = status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ||
                            status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
  fail(lacks_memory ? ErrorCode::out_of_memory : ErrorCode::device, "cudnn: ", call, " failed at ", file, ":", line,
       ": ", cudnn_error(status));
}

/// The handle of this thread and device, on the device's compute stream; makes the device current. It lives as long as
/// the process: the order in which libraries end is not known.
inline cudnnHandle_t cudnn_handle(Device device) {
  cudaStream_t stream = use(device);
  thread_local auto* handles = new std::vector<cudnnHandle_t>(static_cast<size_t>(device_count()));
  cudnnHandle_t& handle = (*handles)[static_cast<size_t>(device.index)];
  if (handle == nullptr) {
    cudnnHandle_t made = nullptr;
    CAMO_CUDNN(cudnnCreate(&made));
    CAMO_CUDNN(cudnnSetStream(made, stream));
    handle = made;
  }
  return handle;
}

}  // namespace camo::cuda
