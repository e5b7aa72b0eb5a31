// f32 attention on sm_90a for D up to 80: what f32_forward.cuh and f32_backward.cuh do with mma.sync, by wgmma.
//
// Decomposition: keys and values (for backward all operands) are split once per head into images of tiles, 64 rows
// each, just as wgmma reads them from shared memory, so that one bulk copy per tile suffices. Where TF32 is allowed,
// halves are rounded instead of split: 11 bits, as many as TF32 has (if not its range: beyond 2^27 below the largest of
// 64 rows they become fewer), and one product replaces three. A block has kGroups warpgroups, each with 64 rows of its
// own, which its warps split themselves; scores and weights live in registers. There is no warp of its own for copies:
// it would take registers from the others. Bound by: tensor cores, and the waits between products and exponentials of a
// warpgroup.
#pragma once

#include <type_traits>

#include "ops/attention/cuda/f32_warp.cuh"
#include "ops/attention/cuda/f32_wgmma_ptx.cuh"

namespace camo::flash::halves {

inline constexpr int kImageRows = 64;                      // of a tile and of a warpgroup
inline constexpr int kImageColumnBytes = kImageRows * 16;  // from one core matrix to the next along a row

/// Operand of products that are contracted along columns; the groups of columns are added to it.
__device__ inline uint64_t by_depth(const __half* image) { return matrix_descriptor(image, 0, 128); }
/// What to add for two groups, first <= second.
constexpr uint64_t groups_of(int first, int second) {
  constexpr uint64_t kGroup = kImageColumnBytes / 16;
  return first * kGroup + ((second - first) * kGroup << 16);
}
/// Right operand of products that are contracted along rows.
__device__ inline uint64_t by_rows(const __half* image) { return matrix_descriptor(image, 128, kImageColumnBytes); }
/// What a descriptor grows by for the next 8 columns, and for the next 8 rows.
inline constexpr uint64_t kNextColumns = kImageColumnBytes / 16, kNextRows = 128 / 16;

/// Own rows of a warpgroup as an image, split by each warp with a scale of its own.
template <class Layout>
struct OwnImage {
  static constexpr int kWidth = Layout::kWidth;
  static constexpr int kHalves = kImageRows * Layout::kRow;
  static constexpr int kStagingPitch = kWidth | 1, kStagingFloats = 16 * kStagingPitch;  // of a warp

  /// Rows [first, first + 16) of the head are rows [16 warp, 16 warp + 16) of the image. Returns what undoes the scale.
  static __device__ float load(__half* image, float* staging, const Heads<const float>& x, int b, int h, int first,
                               int count, int width) {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const float largest =
        warp_max(load_rows<kWidth, 16, 32, kStagingPitch>(staging, x, x.of(b, h), first, count, width));
    const PowerOfTwo scale = scale_for(largest);
    __syncwarp();
#pragma unroll 2
    for (int unit = 0; unit < Layout::kRow / 8; ++unit) {
      const int column = 8 * unit + lane % 4 * 2;
      const Source left = Layout::source(column), right = Layout::source(column + 1);
#pragma unroll
      for (int row = 0; row < 16; row += 8) {
        const float* from = staging + (row + lane / 4) * kStagingPitch;
        uint32_t high, low;
        split(left.column >= 0 ? from[left.column] * scale.up : 0.0f,
              right.column >= 0 ? from[right.column] * scale.up : 0.0f, high, low);
        reinterpret_cast<uint32_t*>(image)[(unit * 8 + 2 * warp + row / 8) * 32 + lane] =
            left.own == Part::low ? low : high;
      }
    }
    __syncwarp();
    return scale.down;
  }
};

/// scores = own rows times the transpose of tile rows, both scaled. [64, D] x [D, 64]. Begins, does not wait.
template <class Layout>
__device__ void begin_by_depth(float (&scores)[8][4], const __half* own, const __half* tile) {
  constexpr int kGroups = Layout::kGroups, kLow = kGroups, kPairs = kGroups / 2 * 2;
  constexpr int kLast = kGroups - 1, kLastLow = kLow + kLast;
  const uint64_t a = by_depth(own), b = by_depth(tile);
  int accumulate = 0;
  const auto add = [&](uint64_t left, uint64_t right) {
    multiply_shared(scores, a + left, b + right, accumulate);
    accumulate = 1;
  };
  // Tensor cores truncate sums to 24 bits at each step: the small products come first. An odd group of low times high
  // goes with one of low times low, and one of high times low with one of high times high.
  if constexpr (Layout::kParts == 2) {
#pragma unroll
    for (int i = 0; i < kPairs; i += 2) {
      add(groups_of(kLow + i, kLow + i + 1), groups_of(i, i + 1));
      add(groups_of(i, i + 1), groups_of(kLow + i, kLow + i + 1));
    }
    if (kGroups % 2) {
      add(groups_of(kLastLow, kLastLow), groups_of(kLast, kLastLow));
      add(groups_of(kLast, kLast), groups_of(kLast, kLastLow));
    }
  }
#pragma unroll
  for (int i = 0; i < kPairs; i += 2) add(groups_of(i, i + 1), groups_of(i, i + 1));
}
/// Weights of 16 rows and 16 columns as a left operand, high alone.
struct RoundedWeights {
  uint32_t high[4];

  __device__ RoundedWeights() {}
  __device__ RoundedWeights(const float (&left)[4], const float (&right)[4])
      : high{round(left[0], left[1]), round(left[2], left[3]), round(right[0], right[1]), round(right[2], right[3])} {}
  /// Adds what they were rounded to, of rows g and g + 8.
  __device__ void add_to(float (&total)[2]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __half22float2(reinterpret_cast<const __half2&>(high[i]));
      total[i % 2] += pair.x + pair.y;
    }
  }

 private:
  static __device__ uint32_t round(float x, float y) {
    const __half2 rounded = __floats2half2_rn(x, y);
    return reinterpret_cast<const uint32_t&>(rounded);
  }
};
/// Weights of 64 rows and columns as left operands of Layout's products.
template <class Layout>
struct TileWeights {
  std::conditional_t<Layout::kParts == 1, RoundedWeights, SplitWeights> step[4];

  explicit __device__ TileWeights(const float (&x)[8][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) step[i] = {x[2 * i], x[2 * i + 1]};
  }
};
/// sums = weights times tile rows. [64, 64] x [64, 8 kColumns]. Begins, does not wait.
template <class Layout, int kColumns>
__device__ void begin_by_rows(float (&sums)[kColumns][4], const TileWeights<Layout>& weights, const __half* tile) {
  constexpr uint64_t kLow = Layout::kLow / 8 * kNextColumns;
  const uint64_t b = by_rows(tile);
  if constexpr (Layout::kParts == 2) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const uint64_t at = b + 2 * step * kNextRows;
      multiply_registers<kColumns>(sums, weights.step[step].low, at, step > 0);
      multiply_registers<kColumns>(sums, weights.step[step].high, at + kLow, 1);
    }
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_registers<kColumns>(sums, weights.step[step].high, b + 2 * step * kNextRows,
                                 Layout::kParts == 2 || step > 0);
  }
}
template <int kColumns>
__device__ void add_scaled(float (&to)[kColumns][4], const float (&x)[kColumns][4], float factor) {
#pragma unroll
  for (int w = 0; w < kColumns; ++w) {
#pragma unroll
    for (int e = 0; e < 4; ++e) to[w][e] = fmaf(x[w][e], factor, to[w][e]);
  }
}

/// Two stages of shared memory between the copies, which thread 0 starts, and the warpgroups.
struct Pipeline {
  uint64_t full[2], empty[2];

  __device__ void init(int consumer_warps) {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < 2; ++stage) {
        barrier_init(&full[stage], 1);
        barrier_init(&empty[stage], consumer_warps);
      }
      fence_async();
    }
    __syncthreads();
  }
  /// A warp has read what it needs of a tile.
  __device__ void release(int tile) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&empty[tile % 2]);
  }
  __device__ void await(int tile) { barrier_wait(&full[tile % 2], tile / 2 % 2); }
  /// Thread 0 calls copy(tile, barrier) for the first two tiles, ...
  template <class Copy>
  __device__ void begin(int tiles, Copy&& copy) {
    if (threadIdx.x != 0) return;
    for (int tile = 0; tile < min(2, tiles); ++tile) copy(tile, &full[tile % 2]);
  }
  /// ... and while `tile` is computed, for the next one, once all warps have released the one before.
  template <class Copy>
  __device__ void proceed(int tile, int tiles, Copy&& copy) {
    const int next = tile + 1;
    if (threadIdx.x != 0 || next < 2 || next >= tiles) return;
    barrier_wait(&empty[next % 2], (next / 2 - 1) % 2);
    copy(next, &full[next % 2]);
  }
};

}  // namespace camo::flash::halves
