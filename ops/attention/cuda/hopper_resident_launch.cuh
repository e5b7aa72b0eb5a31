// Which tiles hopper_resident.cuh uses, how heads are divided among blocks, and its launch.
#pragma once

#include "ops/attention/cuda/hopper.h"
#include "ops/attention/cuda/hopper_resident.cuh"

namespace camo::flash {
namespace hopper {

/// Calls fn.template operator()<ResidentTile>() with the tile for boxes of `width` columns; `keys` is at most 720 up to
/// 64 columns, else at most 144.
///
/// Registers: kKeys / 2 scores, kKeys / 4 words of weights, kWidth / 2 sums and about 25 more; four warpgroups leave a
/// thread 128, three 168. Shared memory: all tiles of keys and values, and 64 queries of each warpgroup.
template <class Fn>
void dispatch_resident_tile(int width, Fn&& fn) {
  if (width <= 64) return fn.template operator()<ResidentTile<64, 4, 80>>();
  return fn.template operator()<ResidentTile<80, 3, 144, true>>();
}

/// Ranges of a head's `tiles` tiles of queries that keep the device busy shortest: rounds of blocks, and a tile's worth
/// for what each of them fetches.
inline int resident_ranges(int heads, int tiles, int groups, int multiprocessors) {
  int best = 1, best_cost = INT32_MAX;
  for (int ranges = 1; ranges <= (tiles + groups - 1) / groups; ++ranges) {
    const int each = ((tiles + ranges - 1) / ranges + groups - 1) / groups;
    const int cost = (heads * ranges + multiprocessors - 1) / multiprocessors * (each + 1);
    if (cost < best_cost) best = ranges, best_cost = cost;
  }
  return best;
}

template <class T, class S>
void launch_resident(const Call<T>& call, int multiprocessors, cudaStream_t stream) {
  CAMO_ASSERT(call.keys <= S::kMostTiles * S::kKeys);
  ResidentCall<T> all;
  static_cast<Sizes&>(all) = sizes_of(call);
  all.q = head_maps(call.q, call.batch, call.queries, call.heads, call.width, 64);
  all.k = head_maps(call.k, call.batch, call.keys, call.heads, call.width, S::kKeys);
  all.v = head_maps(call.v, call.batch, call.keys, call.heads, call.width, S::kKeys);
  all.out = call.out;
  all.log_sum_exp = call.log_sum_exp;
  const int heads = call.batch * call.heads, items = (call.queries + 63) / 64;
  const int ranges = resident_ranges(heads, items, S::kGroups, multiprocessors);
  all.range_tiles = (items + ranges - 1) / ranges;
  all.ranges = (items + all.range_tiles - 1) / all.range_tiles;
  const auto kernel = hopper_resident_kernel<T, S>;
  CAMO_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::bytes(S::kMostTiles)));
  const int bytes = S::bytes((call.keys + S::kKeys - 1) / S::kKeys);
  cuda::launch(kernel, static_cast<unsigned>(heads * all.ranges), S::kThreads, static_cast<size_t>(bytes), stream, all);
}

}  // namespace hopper

template <class T>
void forward_hopper_resident(const Call<T>& call, Device device) {
  using namespace hopper;
  cudaStream_t stream = cuda::use(device);
  dispatch_resident_tile(tile_width(call.width), [&]<class S>() {
    launch_resident<T, S>(call, cuda::device_info(device).multiprocessors, stream);
    CAMO_LAUNCHED("hopper_resident_kernel");
  });
}

}  // namespace camo::flash
