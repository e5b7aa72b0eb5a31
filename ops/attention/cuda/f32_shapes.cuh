// Tile shapes of the f32 attention kernels.
#pragma once

#include "ops/attention/cuda/f32_warp.cuh"

namespace camo::flash::halves {

struct TileShape {
  int row_tiles;  // rows of a warp / 16: more of them reuse what is read from shared memory, and cost registers
  int warps;
  int streamed;  // rows of a streamed tile
  int chunk;     // of which so many are multiplied at once
  int group;     // columns of the result / 8 that are summed at once; 0 for all
  bool keep;     // own rows stay in registers
  int blocks;    // at least, on a multiprocessor: what the registers of dense kernels are limited to
};

template <int kWidth>
constexpr TileShape forward_shape() {
  if (kWidth <= 10) return {2, 8, 64, 16, 0, true, 2};
  if (kWidth <= 21) return {2, 6, 64, 16, 0, true, 2};
  if (kWidth <= 37) return {1, 12, 64, 32, 0, true, 1};
  if (kWidth <= 64) return {1, 4, 32, 32, 0, true, 3};
  if (kWidth <= 80) return {1, 3, 32, 32, 0, true, 3};
  if (kWidth <= 128) return {1, 4, 32, 32, 4, false, 2};
  return {1, 4, 32, 32, 4, false, 1};
}

template <int kWidth>
constexpr TileShape backward_shape() {
  if (kWidth <= 10) return {2, 4, 64, 16, 0, true, 3};
  if (kWidth <= 21) return {2, 4, 64, 16, 0, true, 2};
  if (kWidth <= 37) return {1, 4, 64, 16, 0, true, 3};
  if (kWidth <= 64) return {1, 4, 32, 32, 4, false, 2};
  if (kWidth <= 80) return {1, 3, 32, 32, 5, false, 2};
  if (kWidth <= 128) return {1, 4, 32, 32, 4, false, 1};
  return {1, 4, 16, 16, 4, false, 1};
}

/// Calls fn.template operator()<kWidth>() for the narrowest kernel that holds `width` columns.
template <class Fn>
void dispatch_width(int width, Fn&& fn) {
  if (width <= 2) fn.template operator()<2>();
  else if (width <= 10) fn.template operator()<10>();
  else if (width <= 21) fn.template operator()<21>();
  else if (width <= 37) fn.template operator()<37>();
  else if (width <= 64) fn.template operator()<64>();
  else if (width <= 80) fn.template operator()<80>();
  else if (width <= 128) fn.template operator()<128>();
  else fn.template operator()<256>();
}

/// Warpgroups of a block on sm_90a, and blocks of a multiprocessor, at least: as many as the registers allow.
struct WgmmaShape {
  int forward, forward_blocks, keys, keys_blocks, queries, queries_blocks;
};
constexpr WgmmaShape wgmma_shape(int width, int parts) {
  if (parts == 1) {
    if (width <= 15) return {2, 4, 4, 1, 2, 2};
    if (width <= 23) return {2, 3, 1, 4, 2, 2};
    if (width <= 39) return {3, 2, 3, 1, 3, 1};
    if (width <= 64) return {2, 2, 3, 1, 2, 2};
    return {4, 1, 3, 1, 3, 1};
  }
  if (width <= 15) return {3, 2, 3, 1, 2, 1};
  if (width <= 23) return {2, 3, 3, 1, 2, 1};
  if (width <= 39) return {2, 2, 3, 1, 3, 1};
  if (width <= 64) return {3, 1, 2, 1, 3, 1};
  return {2, 1, 2, 1, 2, 1};
}
inline constexpr int kTiny = 2;          // up to here three parts of each number are multiplied, by mma.sync
inline constexpr int kWidestWgmma = 80;  // beyond, the gradients of 64 rows do not fit the registers
/// Calls fn.template operator()<kWidth, kParts>(), of one part where numbers are rounded.
template <class Fn>
void dispatch_wgmma(int width, bool rounded, Fn&& fn) {
  const auto of_width = [&]<int kWidth>() {
    if (rounded) fn.template operator()<kWidth, 1>();
    else fn.template operator()<kWidth, 2>();
  };
  if (width <= 15) of_width.template operator()<15>();
  else if (width <= 23) of_width.template operator()<23>();
  else if (width <= 39) of_width.template operator()<39>();
  else if (width <= 64) of_width.template operator()<64>();
  else of_width.template operator()<80>();
}

}  // namespace camo::flash::halves
