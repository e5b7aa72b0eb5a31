// f32 attention where all tokens of a head fit one block's shared memory: up to 144 tokens of D up to 80, which is
// stage 4 of CamoXpert at 384 pixels. Products of pairs of halves (f32_halves.cuh).
//
// Decomposition: a block has one head. q, k, v (and dy) arrive by cp.async, each row is split in place, in the memory
// where it arrived: D numbers become D high and D low halves. Each instruction runs only a few times, so loops stay
// loops: unrolled ones wait for instructions to be fetched. Bound by: memory, then tensor cores, one after the other.
#pragma once

#include "ops/attention/cuda/f32_warp.cuh"

namespace camo::flash::halves {

/// Layout of one matrix of a head.
struct WholeHead {
  static constexpr int kTokens = 144, kWidth = 80;
  using Layout = DepthLayout<kWidth>;
  static constexpr int kPitch = Layout::kPitch, kMatrix = kTokens * kPitch;  // halves
  static constexpr int kSteps = Layout::kSteps, kColumns = kWidth / 8;
  static_assert(kPitch * 2 >= kWidth * 4 && !Layout::kPacked);
};

/// Starts to copy a warp's rows [first, first + kRows) of a head; zeros beyond the count.
template <int kRows>
__device__ void fetch_rows(__half* matrix, const Heads<const float>& x, const float* source, int first, int count,
                           int width) {
  const int lane = threadIdx.x % 32;
  auto* to = reinterpret_cast<float*>(matrix + first * WholeHead::kPitch);
  const float* from = source + first * x.row;
#pragma unroll 1
  for (int i = 0; i < kRows; ++i, from += x.row, to += WholeHead::kPitch / 2) {
    const bool inside = first + i < count;
    if (inside && x.access == 16) {
      if (4 * lane < width) copy_async_16(to + 4 * lane, from + 4 * lane);
      continue;
    }
#pragma unroll
    for (int column = lane; column < WholeHead::kWidth; column += 32) {
      if (column >= width) continue;
      if (inside) copy_async_4(to + column, from + column);
      else to[column] = 0;
    }
  }
}
template <int kRows>
__device__ float largest_of_rows(const __half* matrix, int first, int width) {
  const int lane = threadIdx.x % 32;
  float largest = 0;
#pragma unroll 4
  for (int i = 0; i < kRows; ++i) {
    const auto* row = reinterpret_cast<const float*>(matrix + (first + i) * WholeHead::kPitch);
#pragma unroll
    for (int column = lane; column < WholeHead::kWidth; column += 32) {
      if (column < width) largest = fmaxf(largest, fabsf(row[column]));
    }
  }
  return warp_max(largest);
}
/// Numbers of a warp's rows become halves.
template <int kRows>
__device__ void split_in_place(__half* matrix, int first, float up, int width) {
  constexpr int kBatch = 4;
  const int lane = threadIdx.x % 32;
  static_assert(kRows % kBatch == 0);
#pragma unroll 1
  for (int batch = 0; batch < kRows; batch += kBatch) {
    float x[kBatch][4];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const auto* row = reinterpret_cast<const float*>(matrix + (first + batch + i) * WholeHead::kPitch);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = 2 * lane + e / 2 * 64 + e % 2;
        x[i][e] = column < width ? row[column] * up : 0.0f;
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      auto* row = reinterpret_cast<uint32_t*>(matrix + (first + batch + i) * WholeHead::kPitch);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        uint32_t high, low;
        split(x[i][2 * part], x[i][2 * part + 1], high, low);
        if (part == 0 || lane < (WholeHead::kWidth - 64) / 2) {
          row[lane + 32 * part] = high;
          row[lane + 32 * part + WholeHead::Layout::kLow / 2] = low;
        }
      }
    }
  }
}
/// Brings kMatrices matrices to one scale each and splits them; `maxima`: [kMatrices][kWarps], down: [kMatrices], both
/// in shared memory. All is ready after the next barrier.
template <int kRows, int kWarps, int kMatrices>
__device__ void split_matrices(__half* matrices, float* maxima, float* down, int width) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp * kRows;
  await_copies();
  __syncwarp();
#pragma unroll 1
  for (int i = 0; i < kMatrices; ++i) {
    const float largest = largest_of_rows<kRows>(matrices + i * WholeHead::kMatrix, first, width);
    if (lane == 0) maxima[i * kWarps + warp] = largest;
  }
  __syncthreads();
#pragma unroll 1
  for (int i = 0; i < kMatrices; ++i) {
    const PowerOfTwo scale = scale_for(warp_max(lane < kWarps ? maxima[i * kWarps + lane] : 0.0f));
    if (threadIdx.x == 0) down[i] = scale.down;
    split_in_place<kRows>(matrices + i * WholeHead::kMatrix, first, scale.up, width);
  }
}

}  // namespace camo::flash::halves
