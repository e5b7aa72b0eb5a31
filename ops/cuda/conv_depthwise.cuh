// What the depthwise kernels share: how threads are laid over channels and pixels.
//
// A thread holds one pack of channels and kTile pixels in a row. Threads run along channels first (`lanes` packs, the
// channels of a block's tile), then along rows of the map, so that the rows a window needs are read by neighbours.
#pragma once

#include "core/cuda/packs.cuh"
#include "ops/detail/conv_problem.h"

namespace camo::cuda {

inline constexpr int kTile = 6;       // divides the widths of 12, 24, 48 and 96 that networks have at 384 x 384
inline constexpr int kMaxLanes = 64;  // packs of channels in a block's tile
inline constexpr int64_t kSharedLimit = 48 * 1024;

/// Channel packs over tiles of equal size.
struct ChannelTiles {
  int packs, tiles, lanes;
  ChannelTiles(int64_t pack_count, int64_t most_lanes) : packs(static_cast<int>(pack_count)) {
    tiles = static_cast<int>((pack_count + most_lanes - 1) / most_lanes);
    lanes = (packs + tiles - 1) / tiles;
  }
};

/// The tensor itself, or a copy where its first element is not on a boundary of `bytes`.
inline Tensor aligned(const Tensor& x, size_t bytes) { return is_aligned(x.raw_data(), bytes) ? x : clone(x); }

}  // namespace camo::cuda
