// Depthwise convolutions by tiles in shared memory: the usual case of conv_depthwise.h.
#pragma once

#include "core/tensor.h"
#include "ops/detail/conv_problem.h"

namespace camo::cuda {

/// What has_depthwise_kernels() covers with one input a group, in f32, f16 and bf16, with pixels of both maps that are
/// whole pieces of 16 bytes.
bool has_depthwise_tiles(const detail::ConvProblem& problem, const Tensor& in, const Tensor& out);

// Contiguous tensors on one device, not empty; `bias` and `dbias` may be undefined. The last tensors are written; dx
// is added to where `adds`.
void depthwise_tile_forward(const detail::ConvProblem& problem, const Tensor& x, const Tensor& weight,
                            const Tensor& bias, const Tensor& y);
void depthwise_tile_backward_data(const detail::ConvProblem& problem, const Tensor& dy, const Tensor& weight,
                                  const Tensor& dx, bool adds);
/// dweight and dbias are f32.
void depthwise_tile_backward_weight(const detail::ConvProblem& problem, const Tensor& x, const Tensor& dy,
                                    const Tensor& dweight, const Tensor& dbias);

}  // namespace camo::cuda
