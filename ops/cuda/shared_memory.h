// Kernels with more dynamic shared memory than the 48 KiB that need no leave.
#pragma once

#include <cstdint>

#include "core/cuda/runtime.h"

namespace camo::cuda {

template <class Kernel>
void allow_shared_memory(Kernel* kernel, int64_t bytes) {
  if (bytes <= 48 * 1024) return;
  CAMO_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

}  // namespace camo::cuda
