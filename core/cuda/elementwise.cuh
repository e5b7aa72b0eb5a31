// y[i] = fn(a[i], b[i], ...) on the device, for any number of operands that broadcast to y.
//
// Everything contiguous: one flat loop over packs of 16 bytes. Else threads walk the merged axes of all operands, N
// neighbours of the innermost axis at once where its extent, strides and alignment allow it; operands that do not
// change along that axis are read once for all N. So a vector over the channels, gates [N, 1, 1, C] and [N, H, W, 1],
// and slices of the last axis take packs as well.
#pragma once

#include <utility>

#include "core/cuda/packs.cuh"

namespace camo::cuda {

/// Functors return the type they compute with.
template <int N, class R, class Fn, class... Ts>
__device__ void apply_pack(R* y, const Fn& fn, const Pack<Ts, N>&... in) {
  Pack<R, N> out;
#pragma unroll
  for (int n = 0; n < N; ++n) out.values[n] = convert<R>(fn(convert<Value<Ts>>(in.values[n])...));
  store_pack<N>(y, out);
}

template <int N, class R, class Fn, class... Ts>
__global__ void __launch_bounds__(kBlock) elementwise_flat_kernel(int64_t count, R* y, Fn fn, const Ts*... in) {
  wait_for_previous_kernel();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t packs = count / N, rest = packs * N + thread;
  for (int64_t p = thread; p < packs; p += step) apply_pack<N>(y + p * N, fn, load_pack<N>(in + p * N)...);
  if (rest < count) apply_pack<1>(y + rest, fn, load_pack<1>(in + rest)...);
}

/// N neighbours, or one element for all of them.
template <int N, class T>
__device__ Pack<T, N> load_operand(const T* p, bool repeated) {
  if (!repeated) return load_pack<N>(p);
  Pack<T, N> pack;
#pragma unroll
  for (int n = 0; n < N; ++n) pack.values[n] = *p;
  return pack;
}

/// The axes count packs along the innermost one. Bit k of `repeated`: operand k (y is 0) has one element for a pack.
template <int N, class R, class Fn, class... Ts>
__global__ void __launch_bounds__(kBlock) elementwise_strided_kernel(int64_t packs, StridedAxes<1 + sizeof...(Ts)> axes,
                                                                     unsigned repeated, R* y, Fn fn, const Ts*... in) {
  wait_for_previous_kernel();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t p = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; p < packs; p += step) {
    int64_t offsets[1 + sizeof...(Ts)];
    axes.offsets(static_cast<uint32_t>(p), offsets);
    [&]<size_t... K>(std::index_sequence<K...>) {
      apply_pack<N>(y + offsets[0], fn, load_operand<N>(in + offsets[1 + K], (repeated >> (1 + K)) & 1u)...);
    }
    (std::make_index_sequence<sizeof...(Ts)>());
  }
}

/// Whether N neighbours along the innermost axis can be taken at once.
template <size_t K>
bool packs_fit(const camo::detail::LoopAxes<static_cast<int>(K)>& axes, const std::array<const void*, K>& pointers,
               const std::array<size_t, K>& sizes, int n) {
  const int last = axes.shape.size() - 1;
  if (axes.shape[last] % n != 0 || axes.strides[0][last] != 1) return false;
  for (size_t k = 0; k < K; ++k) {
    const Shape& strides = axes.strides[k];
    if (strides[last] == 0) continue;
    if (strides[last] != 1 || !is_aligned(pointers[k], sizes[k] * static_cast<size_t>(n))) return false;
    for (int i = 0; i < last; ++i) {
      if (strides[i] % n != 0) return false;
    }
  }
  return true;
}

/// y = fn(operands...), where R is y's element type and Ts are the operands'; types of the same size serve for copies.
/// y has any strides and may be one of the operands. Without kStridedPacks only the flat loop takes packs: for
/// operations that are rare on strided operands, as it takes fewer kernels.
template <bool kStridedPacks, class R, class... Ts, class Fn, class... Operands>
void elementwise(const char* name, const Tensor& y, Fn fn, const Operands&... operands) {
  static_assert(sizeof...(Ts) == sizeof...(Operands));
  constexpr size_t K = 1 + sizeof...(Ts);
  constexpr int kWidest = static_cast<int>(16 / std::max({sizeof(R), sizeof(Ts)...}));
  const int64_t count = y.numel();
  if (count == 0) return;
  const Device device = y.device();
  const std::array<const void*, K> pointers{y.raw_data(), operands.raw_data()...};
  const std::array<size_t, K> sizes{sizeof(R), sizeof(Ts)...};
  bool is_flat = y.is_contiguous() && ((operands.shape() == y.shape() && operands.is_contiguous()) && ...);
  for (size_t k = 0; k < K; ++k) is_flat = is_flat && is_aligned(pointers[k], sizes[k] * kWidest);
  if (is_flat) {
    cudaStream_t stream = use(device);
    launch(elementwise_flat_kernel<kWidest, R, Fn, Ts...>, grid_for((count + kWidest - 1) / kWidest, device), kBlock, 0,
           stream, count, static_cast<R*>(y.raw_data()), fn, static_cast<const Ts*>(operands.raw_data())...);
    CAMO_LAUNCHED(name);
    return;
  }
  CAMO_CHECK(count < (int64_t{1} << 31), name, ": at most 2^31 strided elements on CUDA; got shape ", y.shape());
  camo::detail::LoopAxes<static_cast<int>(K)> axes(
      y.shape(), {y.strides(), camo::detail::broadcast_strides(operands, y.shape())...});
  const auto launch_packs = [&]<int N>() {
    const int last = axes.shape.size() - 1;
    unsigned repeated = 0;
    axes.shape[last] /= N;
    for (size_t k = 0; k < K; ++k) {
      if (axes.strides[k][last] == 0) repeated |= 1u << k;
      axes.strides[k][last] *= N;
    }
    cudaStream_t stream = use(device);
    launch(elementwise_strided_kernel<N, R, Fn, Ts...>, grid_for(count / N, device), kBlock, 0, stream, count / N,
           StridedAxes<static_cast<int>(K)>(axes), repeated, static_cast<R*>(y.raw_data()), fn,
           static_cast<const Ts*>(operands.raw_data())...);
    CAMO_LAUNCHED(name);
  };
  if constexpr (kStridedPacks) {
    if (packs_fit<K>(axes, pointers, sizes, kWidest)) return launch_packs.template operator()<kWidest>();
    if constexpr (kWidest > 2) {
      if (packs_fit<K>(axes, pointers, sizes, 2)) return launch_packs.template operator()<2>();
    }
  }
  launch_packs.template operator()<1>();
}

/// Calls `fn.template operator()<T>()` for the dtypes of dispatch_floating and int64_t.
template <class Fn>
decltype(auto) dispatch_arithmetic(DType dtype, const char* op, Fn&& fn) {
  if (dtype == DType::i64) return std::forward<Fn>(fn).template operator()<int64_t>();
  return cuda::dispatch_floating(dtype, op, std::forward<Fn>(fn));
}

/// The element as it is.
struct Identity {
  template <class T>
  __device__ T operator()(T value) const {
    return value;
  }
};

}  // namespace camo::cuda
