// Which tiles hopper_backward.cuh uses, and its launches: a kernel that prepares, one or two that multiply, a kernel
// that converts dq.
#pragma once

#include "core/tensor.h"
#include "ops/attention/cuda/hopper.h"
#include "ops/attention/cuda/hopper_backward.cuh"

namespace camo::flash {
namespace hopper {

/// L and delta of each query, and dq sums and turns set to zero: a block for each tile, eight lanes a query.
template <class T, class S>
__global__ void __launch_bounds__(256) hopper_backward_prepare_kernel(const __grid_constant__ BackwardCall<T> call) {
  const int head = blockIdx.x / call.tiles, tile = blockIdx.x % call.tiles;
  const int b = head / call.heads, h = head % call.heads, lane = threadIdx.x % 8;
  float* statistics = call.statistics_memory + int64_t{blockIdx.x} * S::kStatistics;
#pragma unroll
  for (int local = threadIdx.x / 8; local < S::kQueries; local += 32) {
    const int i = tile * S::kQueries + local;
    float sum = 0;
    if (i < call.queries) {
      const T *y = call.y.of(b, h) + i * call.y.row, *dy = call.dy_rows.of(b, h) + i * call.dy_rows.row;
      if (call.y.access == 16 && call.dy_rows.access == 16) {
        using Eight = cuda::Pack<T, 8>;
        for (int d = lane * 8; d < call.width; d += 64) {
          const Eight a = *reinterpret_cast<const Eight*>(y + d), c = *reinterpret_cast<const Eight*>(dy + d);
#pragma unroll
          for (int e = 0; e < 8; ++e) sum = fmaf(static_cast<float>(a.values[e]), static_cast<float>(c.values[e]), sum);
        }
      } else {
        for (int d = lane; d < call.width; d += 8) sum = fmaf(static_cast<float>(y[d]), static_cast<float>(dy[d]), sum);
      }
    }
    for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0) {
      const float l = i < call.queries ? call.log_sum_exp[static_cast<int64_t>(head) * call.queries + i] : -INFINITY;
      statistics[local] = l == -INFINITY ? INFINITY : l * kLog2E;
      statistics[S::kQueries + local] = sum;
    }
  }
  if (threadIdx.x < S::kGroups) call.turns[blockIdx.x * S::kGroups + threadIdx.x] = 0;
  if (!call.clears_sums) return;
  float4* sums = reinterpret_cast<float4*>(call.dq_sums + int64_t{blockIdx.x} * S::kSums);
  for (int i = threadIdx.x; i < S::kSums / 4; i += 256) sums[i] = make_float4(0, 0, 0, 0);
}

/// dq from its f32 sums: a block for each tile.
template <class T, class S>
__global__ void __launch_bounds__(S::kGroups* kWarpgroup)
    hopper_backward_finish_kernel(const __grid_constant__ BackwardCall<T> call) {
  const int head = blockIdx.x / call.tiles, tile = blockIdx.x % call.tiles, group = threadIdx.x / kWarpgroup;
  const float* from = call.dq_sums + (int64_t{blockIdx.x} * S::kGroups + group) * (kWarpgroup * S::kOutCount) +
                      threadIdx.x % kWarpgroup * 4;
  float sums[S::kOutCount];
#pragma unroll
  for (int i = 0; i < S::kOutCount; i += 4) {
    *reinterpret_cast<float4*>(sums + i) = *reinterpret_cast<const float4*>(from + i * kWarpgroup);
  }
  const float scales[2] = {call.scale, call.scale};
  const int first_column = S::kSplitRows ? 0 : group * S::kOutColumns;
  store_accumulators<T>(call.dq, head / call.heads, head % call.heads, sums, scales,
                        tile * S::kQueries + (S::kSplitRows ? 64 * group : 0), call.queries, call.width,
                        call.k.offset(head % call.heads) - first_column);
}

/// Bytes of f32 sums, statistics and turns that a call needs, all beginning at multiples of 16.
template <class S>
int64_t backward_workspace(int batch, int heads, int queries) {
  const int64_t tiles = int64_t{batch} * heads * ((queries + S::kQueries - 1) / S::kQueries);
  return tiles * (S::kSums * 4 + S::kStatistics * 4 + 16);
}

/// Launches the main kernel of one part.
template <class T, class S, bool kOrdered>
void launch_backward_part(const BackwardCall<T>& all, bool causal, unsigned blocks, cudaStream_t stream) {
  constexpr bool kAdds = kOrdered && S::kGradients;  // the other part adds to no dq
  const auto kernel = causal ? hopper_backward_kernel<T, S, true, kAdds> : hopper_backward_kernel<T, S, false, kAdds>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
  kernel<<<blocks, S::kThreads, S::kBytes, stream>>>(all);
}

/// S: what makes dq. V: what makes dv, where that is another launch.
template <class T, class S, class V = S, bool kOrdered = true>
void launch_backward_tile(const Call<T>& call, void* workspace, cudaStream_t stream) {
  static_assert(S::kQueries == V::kQueries && S::kKeys == V::kKeys);
  BackwardCall<T> all;
  static_cast<Sizes&>(all) = sizes_of(call);
  all.q = source_of(call.q, call.batch, call.queries, call.heads, call.width, S::kQueries);
  all.k = source_of(call.k, call.batch, call.keys, call.heads, call.width, S::kKeys);
  all.v = source_of(call.v, call.batch, call.keys, call.heads, call.width, S::kKeys);
  all.dy = source_of(call.dy, call.batch, call.queries, call.heads, call.width, S::kQueries);
  all.dq = call.dq;
  all.dk = call.dk;
  all.dv = call.dv;
  all.y = call.y;
  all.dy_rows = call.dy;
  all.log_sum_exp = call.log_sum_exp;
  all.blocks = (call.keys + S::kKeys - 1) / S::kKeys;
  all.tiles = (call.queries + S::kQueries - 1) / S::kQueries;
  all.clear =
      heads_are_merged(call.q) || heads_are_merged(call.k) || heads_are_merged(call.v) || heads_are_merged(call.dy);
  // A tile that the first block does not visit has no first sum.
  all.clears_sums = !(kOrdered && S::kHasWriter) || (call.rules.causal && call.queries > call.keys);
  const int heads = call.batch * call.heads, tiles = heads * all.tiles;
  all.all_heads = heads;
  // As many as surely stay in the L2 cache of 50 MiB with queries, gradients and sums of dq.
  constexpr int64_t kCached = 32 << 20;
  all.together = static_cast<int>(std::clamp<int64_t>(kCached / (int64_t{call.queries} * call.width * 8), 1, heads));
  all.dq_sums = static_cast<float*>(workspace);
  all.statistics_memory = all.dq_sums + int64_t{tiles} * S::kSums;
  all.turns = reinterpret_cast<int*>(all.statistics_memory + int64_t{tiles} * S::kStatistics);
  all.statistics = rows_map(all.statistics_memory, tiles, S::kStatistics);
  hopper_backward_prepare_kernel<T, S><<<static_cast<unsigned>(tiles), 256, 0, stream>>>(all);
  const auto blocks = static_cast<unsigned>(all.blocks * heads);
  launch_backward_part<T, S, kOrdered>(all, call.rules.causal, blocks, stream);
  if constexpr (!S::kValues) {
    if (call.dv.data) launch_backward_part<T, V, kOrdered>(all, call.rules.causal, blocks, stream);
  }
  if (call.dq.data) {
    hopper_backward_finish_kernel<T, S><<<static_cast<unsigned>(tiles), S::kGroups * kWarpgroup, 0, stream>>>(all);
  }
}

/// Calls fn.template operator()<S, V>() with the tiles for boxes of `width` columns (launch_backward_tile).
///
/// 128 keys, and as many queries as registers allow (240 a thread: as many scores and products as half the queries,
/// kWidth sums, and about 25 more). Beyond D = 128 the sums alone are too many: dv is a launch of its own.
template <class Fn>
void dispatch_backward_tile(int width, Fn&& fn) {
  const auto call = [&]<class S, class V = S>() { fn.template operator()<S, V>(); };
  if (width <= 48) return call.template operator()<BackwardTile<48, 128>>();
  if (width <= 64) return call.template operator()<BackwardTile<64, 128>>();
  if (width <= 128) return call.template operator()<BackwardTile<128, 64>>();
  call.template operator()<BackwardTile<256, 64, 1, BackwardPart::queries_and_keys>,
                           BackwardTile<256, 64, 2, BackwardPart::values>>();
}

}  // namespace hopper

template <class T>
bool hopper_takes_backward(const Call<T>& call) {
  using namespace hopper;
  return hopper_takes_forward(call) && boxed_width(call.width, call.heads, call.q, call.dy) <= tile_width(call.width) &&
         offsets_agree(call.v, call.dy) && is_loadable(call.dy, call.batch, call.queries);
}

template <class T>
void backward_hopper(const Call<T>& call, Device device) {
  using namespace hopper;
  cudaStream_t stream = cuda::use(device);
  dispatch_backward_tile(tile_width(call.width), [&]<class S, class V>() {
    const Tensor workspace = empty({backward_workspace<S>(call.batch, call.heads, call.queries) / 4}, f32, device);
    launch_backward_tile<T, S, V>(call, workspace.data<float>(), stream);
    CAMO_LAUNCHED("hopper_backward_kernel");
  });
}

}  // namespace camo::flash
