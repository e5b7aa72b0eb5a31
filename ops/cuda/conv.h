// The convolution passes on CUDA: depthwise kernels, kernels for few channels, cuDNN, or the kernels for any problem.
#pragma once

#include "core/tensor.h"
#include "ops/detail/conv_problem.h"

namespace camo::cuda {

// Contiguous tensors on one device. `bias` may be undefined.
Tensor conv_forward(const detail::ConvProblem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias);
/// dx, added to `sum` where that is defined, laid out as a new tensor: where adds_to_dx().
Tensor conv_backward_data(const detail::ConvProblem& problem, const Tensor& dy, const Tensor& weight,
                          const Tensor& sum);
bool adds_to_dx(const detail::ConvProblem& problem, const Tensor& dy);

struct ConvWeightGradients {
  Tensor weight, bias;
};
/// The gradient of the bias, where wanted, is computed together with the weight's. In the dtype of x, or in f32.
ConvWeightGradients conv_backward_weight(const detail::ConvProblem& problem, const Tensor& x, const Tensor& dy,
                                         bool with_bias);

/// Whether conv2d should permute the windows and multiply matrices: they do not overlap, and somebody chose so.
bool chooses_patches(const detail::ConvProblem& problem);

}  // namespace camo::cuda
