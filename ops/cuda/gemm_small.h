// Products of many small matrices, such as those between the channels of attention heads.
#pragma once

#include "ops/detail/gemm_cuda.h"

namespace camo::cuda {

/// Whether gemm_small() takes this product: of f32 or 16 bit, the matrices of an operand in two levels of batches,
/// which cuBLASLt has to be called for once for each of the outer level, and two of rows, cols and depth at most 80.
bool fits_gemm_small(const detail::CudaGemm& gemm);
/// One launch on the compute stream. Sums are kept in f32, in an order that depends on the extents alone.
void gemm_small(const detail::CudaGemm& gemm);

}  // namespace camo::cuda
