// Sigmoid, softplus and sums in double for losses on CUDA.
#pragma once

#include "core/cuda/kernels.cuh"

namespace camo::detail {

__device__ inline float loss_sigmoid(float x) {
  const float e = ::expf(-::fabsf(x)), s = 1 / (1 + e);
  return x >= 0 ? s : e * s;
}
__device__ inline double loss_sigmoid(double x) {
  const double e = ::exp(-::fabs(x)), s = 1 / (1 + e);
  return x >= 0 ? s : e * s;
}
__device__ inline float loss_softplus(float x) { return ::fmaxf(x, 0) + ::log1pf(::expf(-::fabsf(x))); }
__device__ inline double loss_softplus(double x) { return ::fmax(x, 0) + ::log1p(::exp(-::fabs(x))); }

constexpr int64_t kLossPart = 4096;  // elements a block sums at least
constexpr int64_t kMaxLossParts = 512;

/// Blocks that share the elements of one sum.
inline int64_t loss_parts(int64_t n) { return std::clamp<int64_t>((n + kLossPart - 1) / kLossPart, 1, kMaxLossParts); }

}  // namespace camo::detail
