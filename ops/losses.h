// Losses over logits, each a tensor of shape [], and the edge operators they use. Targets are in [0, 1], have shape and
// dtype of the logits, and get no gradient (an error when they require one). Edges and SSIM want maps [N, H, W, C].
#pragma once

#include "core/tensor.h"

namespace camo {

/// Mean of max(x, 0) - x*t + log(1 + exp(-|x|)).
Tensor bce_with_logits(const Tensor& logits, const Tensor& target);

/// Depthwise 3x3 Sobel filters with zero padding on [N, H, W, C], as correlations: x [-1 0 1; -2 0 2; -1 0 1], y its
/// transpose.
Tensor sobel_x(const Tensor& x);
Tensor sobel_y(const Tensor& x);
/// Depthwise [0 1 0; 1 -4 1; 0 1 0] with zero padding.
Tensor laplacian(const Tensor& x);
/// sqrt(sobel_x(x)^2 + sobel_y(x)^2 + eps).
Tensor edge_magnitude(const Tensor& x, double eps);

/// 1 - mean over images of (sum(p*t) + smooth) / (sum p + sum t - sum(p*t) + smooth), p = sigmoid(logits), [N, ...].
Tensor iou_loss(const Tensor& logits, const Tensor& target, double smooth = 1e-5);
/// 1 - mean over images of (2*sum(p*t) + smooth) / (sum p + sum t + smooth).
Tensor dice_loss(const Tensor& logits, const Tensor& target, double smooth = 1);
/// Mean of (edge_magnitude(sigmoid(logits)) - edge_magnitude(target))^2 with this eps.
Tensor edge_loss(const Tensor& logits, const Tensor& target, double eps = 1e-5);
/// 1 - SSIM of sigmoid(logits) and target with one window over the whole image (Wang et al., IEEE TIP 13(4), 2004):
/// means, variances and covariance per image and channel, c1 = 0.01^2, c2 = 0.03^2; mean over images.
Tensor global_ssim_loss(const Tensor& logits, const Tensor& target);
/// 1 - mean SSIM map with a Gaussian window of this size (deviation 1.5), zero padding, c1 = 0.01^2, c2 = 0.03^2.
Tensor windowed_ssim_loss(const Tensor& logits, const Tensor& target, int64_t window = 11);

}  // namespace camo
