// Pooling of channels-last maps [N, H, W, C]. Windows give H' = (H + 2 * padding - kernel) / stride + 1, W' alike.
#pragma once

#include <array>

#include "core/tensor.h"

namespace camo {

struct Pool2dOptions {
  std::array<int64_t, 2> kernel{2, 2};
  std::array<int64_t, 2> stride{0, 0};   // 0: the kernel's size
  std::array<int64_t, 2> padding{0, 0};  // at most half of the kernel
};

/// Mean over the window; padding counts as zeros in the mean.
Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& options);
/// Largest element of the window; padding never wins; the first of equal ones gets the gradient.
Tensor max_pool2d(const Tensor& x, const Pool2dOptions& options);
/// Mean over the windows floor(i*H/h) .. ceil((i+1)*H/h), as PyTorch.
Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width);
/// Means / maxima over H and W: [N, H, W, C] -> [N, C]. The first of equal maxima gets the gradient.
Tensor global_avg_pool2d(const Tensor& x);
Tensor global_max_pool2d(const Tensor& x);

}  // namespace camo
