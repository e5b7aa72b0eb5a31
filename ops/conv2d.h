// Two-dimensional convolution (cross-correlation) on channels-last maps.
#pragma once

#include <array>

#include "core/tensor.h"
#include "ops/cpu_kernels.h"

namespace camo {

struct Conv2dOptions {
  std::array<int64_t, 2> stride{1, 1};   // height, width
  std::array<int64_t, 2> padding{0, 0};  // zeros on both sides
  std::array<int64_t, 2> dilation{1, 1};
  int64_t groups = 1;
};

/// x [N, H, W, C], weight [O, KH, KW, C / groups], bias [O] or undefined -> [N, H', W', O] with
/// H' = (H + 2 * padding - dilation * (KH - 1) - 1) / stride + 1. All of one floating dtype,
/// 16-bit ones summed in f32. ops/math_mode.h has the choices of implementation and precision on CUDA.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv2dOptions& options = {});

}  // namespace camo
