// Softmax and log-softmax on CUDA. The formulas are in ops/softmax.cu.
#pragma once

#include "ops/detail/rows.h"

namespace camo::detail {

/// Fills y, which is contiguous and has the shape that x was cut from.
void softmax_forward_cuda(const Slabs& x, const Tensor& y, bool is_log);
/// Fills dx from contiguous y and dy.
void softmax_backward_cuda(const Slabs& y, const Tensor& dy, const Tensor& dx, bool is_log);

}  // namespace camo::detail
