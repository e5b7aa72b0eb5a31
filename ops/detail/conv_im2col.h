// Convolution as a matrix product: the windows of x, laid out in rows, times the weight.
#pragma once

#include "core/tensor.h"
#include "ops/detail/conv_problem.h"

namespace camo::detail {

/// Problems with one group.
inline bool has_im2col(const ConvProblem& p) { return p.groups == 1; }

// Contiguous tensors of one dtype, f32 or f64; `bias` may be undefined.
Tensor im2col_forward(const ConvProblem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias);
Tensor im2col_backward_data(const ConvProblem& problem, const Tensor& dy, const Tensor& weight);
Tensor im2col_backward_weight(const ConvProblem& problem, const Tensor& x, const Tensor& dy);

}  // namespace camo::detail
