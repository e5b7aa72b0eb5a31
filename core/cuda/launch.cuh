// Launches that overlap: programmatic dependent launch, compute capability 9.0.
//
// Between two kernels of a stream lie two microseconds in which nothing runs, as the second is set up after the first
// has ended; a training step has thousands of short kernels. One that launch() starts is set up before: its blocks may
// be resident while the kernel in front of it ends, and wait_for_previous_kernel() holds them until that has ended and
// all that it wrote is visible.
#pragma once

#include <cuda_runtime.h>

#include "core/cuda/runtime.h"

namespace camo::cuda {

/// The first statement of every kernel that launch() starts; nothing may be read or written before.
__device__ inline void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Whether kernels are compiled for starting early, and devices can. In recorded graphs they do too.
bool launches_early();

/// kernel<<<grid, block, shared_bytes, stream>>>(args...), early where possible. CAMO_LAUNCHED stands behind it.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Args&&... args) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = launches_early() ? 1 : 0;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...));
}

}  // namespace camo::cuda
