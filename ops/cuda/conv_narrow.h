// 3x3 convolutions with few channels in 16 bits, which cuDNN computes in tiles for many.
#pragma once

#include "core/tensor.h"
#include "ops/detail/conv_problem.h"

namespace camo::cuda {

/// f16 or bf16 on tensor cores; 3x3, one group, stride 1, padding = dilation <= 4, as many outputs as inputs: a
/// multiple of 4, at most 40.
bool has_narrow_kernels(const detail::ConvProblem& problem, const Tensor& x);

// Contiguous tensors on one device, not empty; `bias` and `dbias` may be undefined. The last tensors are written.
void narrow_forward(const detail::ConvProblem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Tensor& y);
void narrow_backward_data(const detail::ConvProblem& problem, const Tensor& dy, const Tensor& weight, const Tensor& dx);
/// dweight and dbias are f32.
void narrow_backward_weight(const detail::ConvProblem& problem, const Tensor& x, const Tensor& dy,
                            const Tensor& dweight, const Tensor& dbias);

}  // namespace camo::cuda
