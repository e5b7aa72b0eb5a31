// Tile shapes of the 16-bit attention kernels for any rules (forward.cuh, backward.cuh).
#pragma once

#include "core/cuda/runtime.h"
#include "ops/attention/cuda/fragments.cuh"

namespace camo::flash {

struct TileShape {
  int row_tiles;  // rows of a warp / 16: more of them reuse what is read from shared memory, and cost registers
  int warps;
  int streamed;  // rows of a streamed tile, a multiple of 16
  bool keep;     // own rows stay in registers
  int blocks;    // at least, on a multiprocessor: what the registers of dense kernels are limited to
};

/// Forward: own rows are queries, keys stream past.
/// Narrow heads are bound by exponentials, so all operands stay in registers, 128 rows share each tile, and 12 to 16
/// warps cover each other's waits; tiles of 48 keys instead of 64 leave them the registers. For wide ones the
/// accumulators fill the registers. 96 rows divide N = 576 and 48 divide N = 144, stages 3 and 4 of CamoXpert at 384
/// pixels; stage 4 then fits the device at once.
constexpr TileShape forward_shape(int width) {
  if (width <= 16) return {2, 4, 48, true, 4};
  if (width <= 24) return {2, 4, 48, true, 3};
  if (width <= 40) return {2, 3, 48, true, 4};
  if (width <= 64) return {2, 4, 64, false, 2};
  if (width <= 80) return {1, 3, 48, false, 4};
  return {1, 4, 64, false, 3};
}

/// Backward, both passes: two products of scores and one or two sums are alive at once.
constexpr TileShape backward_shape(int width) {
  if (width <= 16) return {2, 4, 32, true, 3};
  if (width <= 24) return {2, 4, 32, false, 3};
  if (width <= 40) return {2, 3, 32, false, 3};
  if (width <= 64) return {1, 4, 64, false, 3};
  if (width <= 80) return {1, 3, 48, false, 4};
  return {1, 4, 32, false, 1};
}

/// A shape with all that follows from it.
template <class T, int kWidth_, TileShape kShape>
struct Tiling {
  static constexpr int kWidth = kWidth_;
  static constexpr int kRowTiles = kShape.row_tiles;
  static constexpr int kThreads = 32 * kShape.warps;
  static constexpr int kRows = 16 * kShape.row_tiles * kShape.warps;  // of a block
  static constexpr int kWarpRows = 16 * kShape.row_tiles;
  static constexpr int kStreamed = kShape.streamed;
  static constexpr int kColumns = kWidth / 8;
  static constexpr int kTiles = kShape.streamed / 8;
  static constexpr bool kKeep = kShape.keep;
  static constexpr int kBlocks = kShape.blocks;
  static constexpr int kPitch = Mma<T>::pitch(kWidth);
  static constexpr int kOwnSize = kRows * kPitch;  // elements
  static constexpr int kTileSize = kStreamed * kPitch;
  static constexpr int kForwardBytes = (kOwnSize + 4 * kTileSize) * static_cast<int>(sizeof(T));
  static constexpr int kBackwardBytes = (2 * kOwnSize + 4 * kTileSize) * static_cast<int>(sizeof(T)) + 16 * kStreamed;
  static_assert(kStreamed % 16 == 0 && kForwardBytes % 16 == 0 && kBackwardBytes % 16 == 0);
  static_assert(kBackwardBytes <= 227 * 1024);
};
template <class T, int kWidth>
using ForwardTiling = Tiling<T, kWidth, forward_shape(kWidth)>;
template <class T, int kWidth>
using BackwardTiling = Tiling<T, kWidth, backward_shape(kWidth)>;

/// Calls fn.template operator()<kWidth>() for the narrowest kernel that holds `width` columns.
template <class Fn>
void dispatch_width(int width, Fn&& fn) {
  if (width <= 16) fn.template operator()<16>();
  else if (width <= 24) fn.template operator()<24>();
  else if (width <= 40) fn.template operator()<40>();
  else if (width <= 64) fn.template operator()<64>();
  else if (width <= 80) fn.template operator()<80>();
  else fn.template operator()<128>();
}

/// Raises a kernel's limit of dynamic shared memory where its tiles need more than the default.
template <class Kernel>
void allow_shared(Kernel kernel, int bytes) {
  if (bytes > 48 * 1024) CAMO_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

}  // namespace camo::flash
