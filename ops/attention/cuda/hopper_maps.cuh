// Tensor maps of single heads: how TMA brings the rows of a head with zeros behind them, wherever heads begin.
#pragma once

#include <numeric>

#include "ops/attention/cuda/hopper_source.cuh"

namespace camo::flash::hopper {

/// A [B, N, H, D] tensor for TMA. Strides of maps are multiples of 16 bytes, heads of D columns side by side are not;
/// but every eighth head (or fewer) is. So there is a map for each place that a head may have in such a group: its rows
/// begin with the group and end with that head, for what lies beyond the end of a map arrives as zeros. Boxes, too,
/// begin at multiples of 16 bytes: a head's columns stand `offset` behind the first of the box, and before them stand
/// some of the head before.
struct HeadMaps {
  CUtensorMap maps[8];
  int period_bits = 0, first_column = 0, columns_per_head = 0;

  __device__ int place(int h) const { return h & ((1 << period_bits) - 1); }
  __device__ int offset(int h) const { return (first_column + place(h) * columns_per_head) % 8; }
  __device__ void load(uint32_t to, uint32_t barrier, int panel, int b, int h, int row) const {
    const int column = (first_column + place(h) * columns_per_head) / 8 * 8;
    load_box(to, maps[place(h)], barrier, column + panel * kPanel, h >> period_bits, row, b);
  }
};

/// Sets to zero what stands before the columns of a head in the rows of a tile.
template <int kRows, int kThreads>
__device__ void clear_before(char* tile, int offset, int thread) {
  for (int row = thread; row < kRows; row += kThreads) {
    uint4& x = *reinterpret_cast<uint4*>(tile + row * 128 + row % 8 * 16);
    const auto kept = [&](int i) { return (2 * i >= offset ? 0xffffu : 0) | (2 * i + 1 >= offset ? 0xffff0000u : 0); };
    x = make_uint4(x.x & kept(0), x.y & kept(1), x.z & kept(2), x.w & kept(3));
  }
}

/// Boxes of `box_rows` rows and one panel.
template <class T>
HeadMaps head_maps(const Heads<const T>& x, int batch, int rows, int heads, int width, int box_rows) {
  HeadMaps all;
  const auto start = reinterpret_cast<uintptr_t>(x.data);
  all.first_column = static_cast<int>(start % 16 / 2);
  all.columns_per_head = static_cast<int>(x.head);
  int period = 1;
  while (heads > 1 && period * x.head % 8 != 0) period *= 2, ++all.period_bits;
  constexpr auto kType = std::is_same_v<T, Half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  for (int place = 0; place < period && place < heads; ++place) {
    const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(all.first_column + place * x.head + width),
                                 static_cast<cuuint64_t>((heads - place + period - 1) / period),
                                 static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(batch)};
    const cuuint64_t strides[3] = {heads > 1 ? static_cast<cuuint64_t>(period * x.head) * 2 : 16,
                                   rows > 1 ? static_cast<cuuint64_t>(x.row) * 2 : 16,
                                   batch > 1 ? static_cast<cuuint64_t>(x.batch) * 2 : 16};
    const cuuint32_t box[4] = {kPanel, 1, static_cast<cuuint32_t>(box_rows), 1}, steps[4] = {1, 1, 1, 1};
    check_map(tensor_map_encoder()(&all.maps[place], kType, 4, reinterpret_cast<void*>(start - start % 16), sizes,
                                   strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  }
  return all;
}

}  // namespace camo::flash::hopper
