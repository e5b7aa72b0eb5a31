// Convolution kernels for any problem and every floating dtype: what runs where cuDNN has no engine.
#pragma once

#include "core/tensor.h"
#include "ops/detail/conv_problem.h"

namespace camo::cuda {

// Contiguous tensors on one device; `bias` may be undefined. The last tensor is written.
void direct_forward(const detail::ConvProblem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Tensor& y);
void direct_backward_data(const detail::ConvProblem& problem, const Tensor& dy, const Tensor& weight, const Tensor& dx);
void direct_backward_weight(const detail::ConvProblem& problem, const Tensor& x, const Tensor& dy,
                            const Tensor& dweight);
/// y[..., o] += bias[o].
void add_bias(const Tensor& bias, const Tensor& y);

}  // namespace camo::cuda
