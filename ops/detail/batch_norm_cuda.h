// Batch norm on CUDA. The formulas are in ops/batch_norm.cu.
#pragma once

#include "ops/detail/rows.h"
#include "ops/normalization.h"

namespace camo::detail {

/// Fills y [M, C] of x's dtype, and mean and rstd [C] in f64 (f32 for 16-bit x), from the batch or the running
/// statistics. The latter follow the batch where `follow`. All on the device: nothing waits.
void batch_norm_forward_cuda(const Rows& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                             const Tensor& running_var, const BatchNormOptions& options, bool follow, const Tensor& y,
                             const Tensor& mean, const Tensor& rstd);

/// dx [M, C], dweight and dbias [C], each filled unless undefined.
struct BatchNormGradients {
  Tensor dx, dweight, dbias;
};
void batch_norm_backward_cuda(const Rows& x, const Rows& dy, const Tensor& weight, const Tensor& mean,
                              const Tensor& rstd, bool training, const BatchNormGradients& grads);

}  // namespace camo::detail
