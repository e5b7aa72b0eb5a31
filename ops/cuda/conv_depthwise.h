// Kernels for convolutions with one output channel a group: one input channel (depthwise), or four (the gate's).
#pragma once

#include "core/tensor.h"
#include "ops/detail/conv_problem.h"

namespace camo::cuda {

/// Square kernels of 3, 5, 7 or 9 with one input a group, of 3 with four; stride and dilation 1; below 2^31 elements.
bool has_depthwise_kernels(const detail::ConvProblem& problem);

// Contiguous tensors on one device, not empty; `bias` and `dbias` may be undefined. The last tensors are written.
void depthwise_forward(const detail::ConvProblem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias,
                       const Tensor& y);
void depthwise_backward_data(const detail::ConvProblem& problem, const Tensor& dy, const Tensor& weight,
                             const Tensor& dx);
void depthwise_backward_weight(const detail::ConvProblem& problem, const Tensor& x, const Tensor& dy,
                               const Tensor& dweight, const Tensor& dbias);

}  // namespace camo::cuda
