// Tiles of the kernels that read windows, and their launches.
#pragma once

#include "core/tensor.h"
#include "ops/attention/cuda/dispatch.cuh"
#include "ops/attention/cuda/narrow_backward.cuh"
#include "ops/attention/cuda/narrow_forward.cuh"
#include "ops/attention/cuda/shapes.cuh"
#include "ops/attention/cuda/whole_backward.cuh"
#include "ops/attention/window.h"

namespace camo::flash {

/// The tiles of the forward pass, by the width of the window. More warps on a multiprocessor hide latencies better than
/// more rows of a warp, down to 32; those divide 9216, 2304 and 576. Polynomials pay where exponentials outlast the
/// products.
template <class T, int kWidth>
struct NarrowForwardShape;
//                                           width, row tiles, warps, keys of a tile, of a chunk, stages, polynomials of
//                                           8 exponentials, blocks on a multiprocessor, whether a column is free
template <class T>
struct NarrowForwardShape<T, 16> : NarrowForward<T, 16, 2, 4, 128, 16, 3, 1, 5, true> {};
template <class T>
struct NarrowForwardShape<T, 24> : NarrowForward<T, 24, 3, 4, 128, 16, 3, 1, 3, true> {};
template <class T>
struct NarrowForwardShape<T, 40> : NarrowForward<T, 40, 2, 6, 64, 16, 4, 0, 2, true> {};
template <class T>
struct NarrowForwardShape<T, 64> : NarrowForward<T, 64, 2, 4, 64, 16, 3, 1, 2, false> {};
template <class T>
struct NarrowForwardShape<T, 80> : NarrowForward<T, 80, 1, 9, 48, 16, 5, 0, 1, false> {};

/// The tiles of the backward pass: more keys of a warp spread the cost of a step, as far as the registers of three
/// warps of a scheduler go. D 10 N 9216 with 2 key tiles and 16 warps 6960 us, 3 and 12 6500, 4 and 8 7390 us. D 20 N
/// 2304 with 2 and 12 657 us, 3 and 8 671 (H100, batch 16, 8 heads). Summands of 576 queries
/// cost 3 % of the time at D 10, those of 384 at D 20 8 %, and blocks that wait for one another 16 % of a wave.
template <class T, int kWidth>
struct NarrowBackwardShape;
//                                            width, key tiles of a warp, warps, queries of a summand, at most
template <class T>
struct NarrowBackwardShape<T, 16> : NarrowBackward<T, 16, 3, 12, 1152> {};
template <class T>
struct NarrowBackwardShape<T, 24> : NarrowBackward<T, 24, 2, 12, 2304> {};

/// Summands that a block makes, of a head's `sums`: what takes least time when blocks come in waves, one on a
/// multiprocessor. A block's start and end, its loads of keys and its turn cost what a part of a summand does.
inline int sums_of_block(int64_t heads, int sums, int most, int multiprocessors) {
  constexpr double kBlockCost = 0.1;
  int best = 1;
  double least = 0;
  for (int count = 1; count <= std::min(most, sums); ++count) {
    const int64_t blocks = heads * ((sums + count - 1) / count);
    const double time = static_cast<double>((blocks + multiprocessors - 1) / multiprocessors) * (count + kBlockCost);
    if (count > 1 && time >= least) continue;
    best = count;
    least = time;
  }
  return best;
}

/// Calls fn.template operator()<kWidth>() for the narrowest of the widths that holds `window` columns.
template <int kFirst, int... kRest, class Fn>
void dispatch_window(int window, Fn&& fn) {
  if constexpr (sizeof...(kRest) > 0) {
    if (window > kFirst) return dispatch_window<kRest...>(window, fn);
  }
  fn.template operator()<kFirst>();
}

inline unsigned blocks_for(int64_t n) { return static_cast<unsigned>((n + cuda::kBlock - 1) / cuda::kBlock); }

template <class T>
void forward_narrow(const Call<T>& call, Device device) {
  const int window = static_cast<int>(packed_window(call.width));
  const int needed = window == call.width && window <= 40 ? window + 8 : window;  // with a free column
  dispatch_window<16, 24, 40, 64, 80>(needed, [&]<int kWidth>() {
    using S = NarrowForwardShape<T, kWidth>;
    const int blocks = (call.queries + S::kRows - 1) / S::kRows;
    const auto kernel = flash_narrow_forward_kernel<S>;
    cudaStream_t stream = cuda::use(device);
    allow_shared(kernel, S::kBytes);
    kernel<<<static_cast<unsigned>(blocks * call.batch * call.heads), S::kThreads, S::kBytes, stream>>>(call, blocks);
    CAMO_LAUNCHED("flash_narrow_forward_kernel");
  });
}

/// Bytes of shared memory that one block may have.
inline int shared_limit(Device device) {
  int bytes = 0;
  cuda::use(device);
  CAMO_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index));
  return bytes;
}

template <class T>
void backward_narrow(const Call<T>& call, Device device) {
  const int needed = std::max(static_cast<int>(packed_window(call.width)), call.width + 3);  // free columns
  dispatch_window<16, 24>(needed, [&]<int kWidth>() {
    using S = NarrowBackwardShape<T, kWidth>;
    const int tile_bytes = (call.width + 1) / 2 * S::kPairBytes;
    const int round_bytes = S::kRows / 16 * tile_bytes;                      // of dq
    const int room = (shared_limit(device) - S::kFixedBytes) / round_bytes;  // rounds
    const int rounds = (call.queries + S::kRows - 1) / S::kRows, most = std::min(room, S::kSumRows / S::kRows);
    const int64_t heads = int64_t{call.batch} * call.heads, rows = heads * call.queries;
    NarrowPlan plan;
    const int sums = (rounds + most - 1) / most;
    plan.sum_rounds = (rounds + sums - 1) / sums;
    plan.sums_of_head = (rounds + plan.sum_rounds - 1) / plan.sum_rounds;
    plan.range_sums =
        sums_of_block(heads, plan.sums_of_head, room / plan.sum_rounds, cuda::device_info(device).multiprocessors);
    plan.ranges = (plan.sums_of_head + plan.range_sums - 1) / plan.range_sums;
    cudaStream_t stream = cuda::use(device);
    const Tensor numbers = empty({rows, 2}, f32, device);
    plan.numbers = reinterpret_cast<const float2*>(numbers.data<float>());
    Tensor parts, turns;
    const int64_t warps = heads * ((call.keys + S::kGroupKeys - 1) / S::kGroupKeys * S::kWarps);
    if (plan.sums_of_head > 1) {  // 8 bytes for each element of k, rounded up, whatever the number of summands
      parts = empty({2, warps * S::kKeyTiles * tile_bytes / 4}, f32, device);
      plan.sums = parts.data<float>();
    }
    const int64_t turn_count = plan.ranges > 1 ? warps : 0;
    if (turn_count > 0) {
      turns = empty({turn_count}, f32, device);  // as int
      plan.turns = reinterpret_cast<int*>(turns.data<float>());
    }
    flash_numbers_kernel<T, kWidth><<<blocks_for(std::max(rows, turn_count)), cuda::kBlock, 0, stream>>>(
        call, reinterpret_cast<float2*>(numbers.data<float>()), plan.turns, turn_count);
    CAMO_LAUNCHED("flash_numbers_kernel");
    const int bytes = S::kFixedBytes + std::min(plan.range_sums * plan.sum_rounds, rounds) * round_bytes;
    const auto kernel = flash_narrow_backward_kernel<S>;
    allow_shared(kernel, bytes);
    kernel<<<static_cast<unsigned>(plan.ranges * heads), S::kThreads, bytes, stream>>>(call, plan);
    CAMO_LAUNCHED("flash_narrow_backward_kernel");
  });
}

template <class T>
void backward_whole(const Call<T>& call, Device device) {
  using S = WholeBackward<T, 80, 9>;
  const auto kernel = flash_whole_backward_kernel<S>;
  cudaStream_t stream = cuda::use(device);
  allow_shared(kernel, S::kBytes);
  kernel<<<static_cast<unsigned>(call.batch * call.heads), S::kThreads, S::kBytes, stream>>>(call);
  CAMO_LAUNCHED("flash_whole_backward_kernel");
}

}  // namespace camo::flash
