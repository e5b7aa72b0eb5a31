// Max pooling on CUDA. Contiguous tensors on one device; positions (i64) are pixels of x's image, H * W of them.
#pragma once

#include "ops/pool.h"

namespace camo::cuda {

/// x [N, H, W, C] -> y and positions [N, OH, OW, C]; strides of 0 already replaced.
void max_pool(const Tensor& x, const Pool2dOptions& options, const Tensor& y, const Tensor& positions);
/// x [N, H, W, C] -> y and positions [N, C].
void global_max_pool(const Tensor& x, const Tensor& y, const Tensor& positions);
/// dx[pixel] = (or, where `adds`, +=) sum of the dy whose window's maximum is that pixel, in a fixed order. For global
/// pools the window is the map.
void max_pool_backward(const Tensor& dy, const Tensor& positions, const Pool2dOptions& options, const Tensor& dx,
                       bool adds);

}  // namespace camo::cuda
