// cuBLASLt: its handle per device, and checked calls.
#pragma once

#include <cublasLt.h>

#include "core/cuda/runtime.h"

/// Throws camo::Error (device) naming the call, its file and line when a cuBLAS call fails.
#define CAMO_CUBLAS(call) ::camo::cuda::check((call), #call, __FILE__, __LINE__)

namespace camo::cuda {

void check(cublasStatus_t status, const char* call, const char* file, int line);

/// The handle of a device; it lives as long as the process. Calls may come from several threads.
cublasLtHandle_t cublas_handle(Device device);

}  // namespace camo::cuda
