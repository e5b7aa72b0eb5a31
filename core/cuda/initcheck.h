// What compute-sanitizer's initcheck does not see.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace camo::cuda {

/// Stands before kernels of NVIDIA's libraries, with `rows` runs of `bytes`, `pitch` bytes apart, that they are going
/// to write: some store through the tensor memory accelerator, which initcheck takes for no store at all. With
/// CAMO_INITCHECK=1 in the environment the memory is filled with zeros first; otherwise nothing happens.
void announce_write(cudaStream_t stream, void* data, size_t bytes, size_t rows = 1, size_t pitch = 0);

}  // namespace camo::cuda
