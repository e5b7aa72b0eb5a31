// What compute-sanitizer is told of.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace camo::cuda {

/// Tells compute-sanitizer that `rows` runs of `bytes`, `pitch` bytes apart, are initialized: initcheck does not see
/// what kernels of NVIDIA's libraries store through the tensor memory accelerator. To be called after every such kernel
/// with what it is specified to write. Costs nothing when no tool listens.
void mark_written(cudaStream_t stream, const void* data, size_t bytes, size_t rows = 1, size_t pitch = 0);

}  // namespace camo::cuda
