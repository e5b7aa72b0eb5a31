// Two-dimensional convolution (cross-correlation) on channels-last maps.
#pragma once

#include <array>

#include "core/tensor.h"

namespace camo {

struct Conv2dOptions {
  std::array<int64_t, 2> stride{1, 1};   // height, width
  std::array<int64_t, 2> padding{0, 0};  // zeros on both sides
  std::array<int64_t, 2> dilation{1, 1};
  int64_t groups = 1;
};

/// x [N, H, W, C], weight [O, KH, KW, C / groups], bias [O] or undefined -> [N, H', W', O] with
/// H' = (H + 2 * padding - dilation * (KH - 1) - 1) / stride + 1.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv2dOptions& options = {});

/// Which implementation conv2d uses on the CPU: the library where it can (f32), or the plain loops (the oracle).
enum class CpuKernels { fast, plain };
CpuKernels cpu_kernels();
/// For tests and measurements. Applies to all operations with a fast CPU path; default fast.
void set_cpu_kernels(CpuKernels choice);

}  // namespace camo
