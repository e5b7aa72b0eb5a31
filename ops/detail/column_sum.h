// Sums of the columns of a matrix on CUDA: the gradient of a bias.
#pragma once

#include "core/tensor.h"

namespace camo::detail {

/// out[c] = sum over m of x[m, c]. x is contiguous [..., C] in a floating dtype; out is contiguous [C], of x's dtype or
/// f32, and is overwritten. Accumulates in double, always in the same order. M may be 0.
void column_sum_cuda(const Tensor& out, const Tensor& x);

}  // namespace camo::detail
