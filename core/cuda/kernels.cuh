// What kernels of all operations share: launch shapes, vector accesses, loops over strided operands, block reductions.
//
// Launchers take the device of their tensors, run on its compute stream and never synchronise.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/cuda/launch.cuh"
#include "core/cuda/runtime.h"
#include "core/dtype.h"
#include "core/strided_loop.h"

namespace camo::cuda {

inline constexpr int kBlock = 256;  // threads, unless a kernel says otherwise
inline constexpr int kWarp = 32;

/// Calls `fn.template operator()<T>()` for the dtypes that kernels compute in: float, double, Half, BFloat16.
template <class Fn>
decltype(auto) dispatch_floating(DType dtype, const char* op, Fn&& fn) {
  switch (dtype) {
    case DType::f32: return fn.template operator()<float>();
    case DType::f64: return fn.template operator()<double>();
    case DType::f16: return fn.template operator()<Half>();
    case DType::bf16: return fn.template operator()<BFloat16>();
    default: fail(ErrorCode::general, op, ": computes in floating dtypes; got ", dtype, "; convert with to(x, f32)");
  }
}

/// The type that sums and intermediate values of T have: float for the 16-bit types.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

/// N elements that are loaded and stored at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};
/// Elements of T in 16 bytes, the widest access.
template <class T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

inline bool is_aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

/// Blocks for n threads' worth of work, at most enough to fill the device eight times over (kernels loop).
inline unsigned grid_for(int64_t n, Device device, int block = kBlock) {
  const int64_t wanted = (n + block - 1) / block;
  const int64_t full = int64_t{device_info(device).multiprocessors} * (2048 / block) * 8;
  return static_cast<unsigned>(std::clamp<int64_t>(wanted, 1, full));
}

template <class Fn>
__global__ void __launch_bounds__(kBlock) for_each_kernel(int64_t n, Fn fn) {
  wait_for_previous_kernel();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) fn(i);
}

/// Calls fn(i) on the device for i in [0, n). `fn` is a functor with a __device__ operator().
template <class Fn>
void for_each(Device device, int64_t n, const char* name, Fn fn) {
  if (n == 0) return;
  cudaStream_t stream = use(device);
  launch(for_each_kernel<Fn>, grid_for(n, device), kBlock, 0, stream, n, fn);
  CAMO_LAUNCHED(name);
}

/// Division by a number known at launch, as a multiplication (Granlund and Montgomery, 1994). Numerators below 2^31.
struct FastDivide {
  uint32_t divisor = 1, multiplier = 0, shift = 0;

  FastDivide() = default;
  explicit FastDivide(uint32_t d) : divisor(d) {
    while ((uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ uint32_t divide(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

/// The axes of K operands as kernels take them: innermost first.
template <int K>
struct StridedAxes {
  int count = 0;
  FastDivide extents[Shape::kMaxDims];
  int64_t strides[K][Shape::kMaxDims];

  explicit StridedAxes(const camo::detail::LoopAxes<K>& axes) : count(axes.shape.size()) {
    for (int i = 0; i < count; ++i) {
      const int from = count - 1 - i;
      extents[i] = FastDivide(static_cast<uint32_t>(axes.shape[from]));
      for (int k = 0; k < K; ++k) strides[k][i] = axes.strides[static_cast<size_t>(k)][from];
    }
  }
  /// Offsets, in elements, of element `index` in each operand.
  __device__ void offsets(uint32_t index, int64_t (&out)[K]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) out[k] = 0;
    for (int i = 0; i < count; ++i) {
      const uint32_t rest = extents[i].divide(index);
      const uint32_t position = index - rest * extents[i].divisor;
      index = rest;
#pragma unroll
      for (int k = 0; k < K; ++k) out[k] += position * strides[k][i];
    }
  }
};

template <int K, class Fn>
struct StridedCall {
  StridedAxes<K> axes;
  Fn fn;
  __device__ void operator()(int64_t i) const {
    int64_t offsets[K];
    axes.offsets(static_cast<uint32_t>(i), offsets);
    fn(offsets);
  }
};

/// Calls fn(offsets) on the device for every element of K operands of one shape; offsets[k] is in elements.
/// At most 2^31 elements.
template <int K, class Fn>
void for_each_strided(Device device, const Shape& shape, const std::array<Shape, K>& strides, const char* name, Fn fn) {
  CAMO_CHECK(shape.numel() < (int64_t{1} << 31), name, ": at most 2^31 elements on CUDA; got shape ", shape);
  if (shape.numel() == 0) return;
  for_each(device, shape.numel(), name,
           StridedCall<K, Fn>{StridedAxes<K>(camo::detail::LoopAxes<K>(shape, strides)), fn});
}

/// Sum over the lanes of a warp, in all of them.
template <class T>
__device__ T warp_sum(T value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}
template <class T>
__device__ T warp_max(T value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(~0u, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

/// Sum over the threads of a block (a multiple of 32, at most 1024), in all of them and always in the same order.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T partial[kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = warp_sum(value);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarp ? partial[lane] : T(0);
  value = warp_sum(value);
  __syncthreads();  // `partial` may be used again
  return value;
}

}  // namespace camo::cuda
