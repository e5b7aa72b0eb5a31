// Resizing of channels-last maps.
#pragma once

#include "core/tensor.h"

namespace camo {

/// x [N, H, W, C] -> [N, height, width, C], bilinear with half-pixel centres and no antialiasing: source position
/// (i + 0.5) * H / height - 0.5, floor at 0, edges repeated (PyTorch align_corners=False, OpenCV INTER_LINEAR).
/// x itself when the size does not change.
Tensor resize_bilinear(const Tensor& x, int64_t height, int64_t width);

}  // namespace camo
