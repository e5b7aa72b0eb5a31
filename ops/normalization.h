// Normalisations over the last (channel) axis.
#pragma once

#include "core/tensor.h"

namespace camo {

/// y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis (arXiv:1607.06450). weight, bias: [C].
/// Statistics are kept in f32 (f64 for f64). Under Autocast the result of f32 x is 16-bit.
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);

struct BatchNormOptions {
  bool training = false;
  double momentum = 0.1;  // running = (1 - momentum) * running + momentum * batch
  double eps = 1e-5;
};

/// Batch normalisation of [..., C] over all axes but the last (arXiv:1502.03167). Training: batch statistics normalise
/// (biased variance), and running_mean, running_var ([C], changed in place, variance unbiased) follow them, except
/// inside a checkpoint's second run. Else the running statistics normalise. Training needs more than one value per
/// channel.
Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options);

/// x + branch * gamma with one number a channel (LayerScale, arXiv:2103.17239). x, branch: [..., C], gamma: [C]. On
/// CUDA operands may mix f32 and a 16-bit dtype; the result then is f32.
Tensor scaled_residual(const Tensor& x, const Tensor& branch, const Tensor& gamma);

/// x / max(|x|, eps) with the Euclidean norm along one axis, which may count from the end; eps > 0.
Tensor l2_normalize(const Tensor& x, int axis, double eps = 1e-12);

}  // namespace camo
