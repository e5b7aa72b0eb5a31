// The running maximum and sum of exponentials of softmax.
#pragma once

#include <limits>

#include "core/cuda/kernels.cuh"

namespace camo::detail {

template <class A>
constexpr A kHidden = -std::numeric_limits<A>::infinity();

__device__ inline float exponential(float x) { return ::expf(x); }
__device__ inline double exponential(double x) { return ::exp(x); }
__device__ inline float logarithm(float x) { return ::logf(x); }
__device__ inline double logarithm(double x) { return ::log(x); }

/// The largest element so far and the sum of exp(x - largest). Elements of -infinity add nothing.
template <class A>
struct MaxSum {
  A top, sum;

  static __device__ MaxSum none() { return {kHidden<A>, A(0)}; }
  __device__ void add(A x) {
    if (x > top) {
      sum *= exponential(top - x);  // exp(-infinity) = 0 at the first element
      top = x;
    }
    if (top != kHidden<A>) sum += exponential(x - top);
    else if (x != x) sum = x;  // NaN stays
  }
  __device__ void merge(const MaxSum& other) {
    const A larger = other.top > top ? other.top : top;
    if (larger == kHidden<A>) {
      sum += other.sum;
      return;
    }
    sum = sum * exponential(top - larger) + other.sum * exponential(other.top - larger);
    top = larger;
  }
  __device__ MaxSum over_warp() const {
    MaxSum total = *this;
#pragma unroll
    for (int offset = cuda::kWarp / 2; offset > 0; offset /= 2) {
      total.merge({__shfl_xor_sync(~0u, total.top, offset), __shfl_xor_sync(~0u, total.sum, offset)});
    }
    return total;
  }
  /// For blocks of kBlock threads.
  __device__ MaxSum over_block() const {
    __shared__ MaxSum s_partial[cuda::kBlock / cuda::kWarp];
    MaxSum total = over_warp();
    if (threadIdx.x % cuda::kWarp == 0) s_partial[threadIdx.x / cuda::kWarp] = total;
    __syncthreads();
    total = s_partial[0];
#pragma unroll
    for (int warp = 1; warp < cuda::kBlock / cuda::kWarp; ++warp) total.merge(s_partial[warp]);
    __syncthreads();  // s_partial may be used again
    return total;
  }
  /// What is subtracted before exp: 0 where nothing is visible.
  __device__ A shift() const { return top == kHidden<A> ? A(0) : top; }
  /// What softmax multiplies with, or log_softmax subtracts.
  __device__ A normalizer(bool is_log) const {
    if (is_log) return logarithm(sum);
    return sum == A(0) ? A(0) : A(1) / sum;
  }
};

}  // namespace camo::detail
