// Layer norm on CUDA. The formulas are in ops/layer_norm.cu.
#pragma once

#include "ops/detail/rows.h"

namespace camo::detail {

/// Fills y [M, C] of x's dtype, or 16-bit for f32 x, and mean and rstd [M] in f32 (f64 for f64).
void layer_norm_forward_cuda(const Rows& x, const Tensor& weight, const Tensor& bias, double eps, const Tensor& y,
                             const Tensor& mean, const Tensor& rstd);

/// dx [M, C], dweight and dbias [C], each filled unless undefined; dx added to where `adds_dx`.
struct LayerNormGradients {
  Tensor dx, dweight, dbias;
  bool adds_dx = false;
};
void layer_norm_backward_cuda(const Rows& x, const Rows& dy, const Tensor& weight, const Tensor& mean,
                              const Tensor& rstd, const LayerNormGradients& grads);

}  // namespace camo::detail
