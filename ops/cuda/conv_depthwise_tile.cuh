// Depthwise convolutions whose pixels are whole pieces of 16 bytes, by tiles in shared memory.
//
// Decomposition: a block has 32 channels of a tile of 2 kRows x 6 kGroups pixels. Lanes are 16 pairs of channels times
// two groups of kRows rows, warps are groups of 6 columns; a thread walks down the rows that its outputs read, and
// each row it loads serves up to kRows rows of outputs (forward, and dx with the weight turned) or kernel rows (dw).
// Layout: tiles with their neighbourhood and zeros outside of the map, so that no load in the loops asks where it is;
// rows so that the two groups of a warp use different banks; taps in f32, [tap][32]. dw: sums in registers, over the
// block by shuffles and shared memory, over blocks in a fixed order by a second kernel. Bound by: multiply-adds.
#pragma once

#include "core/cuda/kernels.cuh"
#include "ops/attention/cuda/tiles.cuh"

namespace camo::cuda {

inline constexpr int kTileChannels = 32, kTilePairs = 16, kTileColumns = 6;

template <class T_, int K_, int kGroups_, int kRows_>
struct DepthwiseTile {
  using T = T_;
  static constexpr int K = K_, kGroups = kGroups_, kThreads = kWarp * kGroups;
  static constexpr int kRows = kRows_;
  static constexpr int kHeight = 2 * kRows, kWidth = kTileColumns * kGroups;  // of outputs
  static constexpr int kInHeight = kHeight + K - 1, kInWidth = kWidth + K - 1, kWindow = kTileColumns + K - 1;
  /// kRows rows lie half of the banks apart: widths are even, so a row is a multiple of 128 bytes before.
  static constexpr int kGap = (kRows % 2 == 1 ? 64 : (kRows % 4 == 2 ? 32 : 16)) / static_cast<int>(sizeof(T));
  static constexpr int kRowPitch = kInWidth * kTileChannels + kGap;
  static constexpr int kOutPitch = kWidth * kTileChannels + kGap;
  static constexpr int kInElements = kInHeight * kRowPitch, kOutElements = kHeight * kOutPitch;
  static constexpr int kTaps = K * K;
  static_assert(kInWidth % 2 == 0 && kWidth % 2 == 0);
};

/// Rows that a thread has, as measured: of outputs, and of those that dw sums over.
template <class T, int K, int kGroups>
using DepthwiseMapTile = DepthwiseTile<T, K, kGroups, K == 9 ? 3 : 2>;
template <class T, int K, int kGroups>
using DepthwiseWeightTile = DepthwiseTile<T, K, kGroups, K >= 7 ? 6 : 4>;

/// Sizes of a launch: `in` is what is read with its neighbourhood, `out` the other map.
struct DepthwiseTiles {
  int in_h, in_w, out_h, out_w, pad_h, pad_w, channels;
  int tiles_x, tiles_y, tiles;  // along a row, a column, all images
};

/// A tile into shared memory, without waiting; zeros outside of the map. (top, left): of its first pixel.
template <int kHeight, int kWidth, int kPitch, int kThreads, class T>
__device__ void depthwise_load(T* tile, const T* __restrict__ map, int h, int w, int channels, int image, int top,
                               int left, int first_channel) {
  constexpr int kPieces = kTileChannels * static_cast<int>(sizeof(T)) / 16,
                kElements = 16 / static_cast<int>(sizeof(T));
  for (int i = threadIdx.x; i < kWidth * kPieces; i += kThreads) {  // a piece of a column, from row to row
    const int piece = i % kPieces, column = i / kPieces, x = left + column, c = first_channel + piece * kElements;
    const bool there = x >= 0 && x < w && c < channels;
    T* to = tile + column * kTileChannels + piece * kElements;
    int64_t from = ((int64_t{image} * h + top) * w + x) * channels + c;
#pragma unroll 2
    for (int row = 0; row < kHeight; ++row, to += kPitch, from += int64_t{w} * channels) {
      const int y = top + row;
      if (there && y >= 0 && y < h) flash::copy_async<16>(to, map + from);
      else *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
    }
  }
}

/// Two channels of kCount pixels in a row.
template <int kCount, class T>
__device__ void depthwise_row(const T* from, float (&values)[kCount][2]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const auto both = *reinterpret_cast<const Pack<T, 2>*>(from + j * kTileChannels);
    values[j][0] = convert<float>(both.values[0]);
    values[j][1] = convert<float>(both.values[1]);
  }
}

/// Grid: (tile, 32 channels). With kAdds `out` is added to: read while the tile is on its way.
template <class S, bool kAdds>
__global__ void __launch_bounds__(S::kThreads, 16 / S::kGroups)
    depthwise_tile_kernel(DepthwiseTiles s, bool turned, const typename S::T* __restrict__ in,
                          const typename S::T* __restrict__ weight, const typename S::T* __restrict__ bias,
                          typename S::T* __restrict__ out) {
  using T = typename S::T;
  constexpr int K = S::K;
  extern __shared__ __align__(128) char shared[];
  float* s_taps = reinterpret_cast<float*>(shared);                   // [K * K][32]
  T* s_in = reinterpret_cast<T*>(s_taps + S::kTaps * kTileChannels);  // [kInHeight][kInWidth (+ gap)][32]
  const int tile = static_cast<int>(blockIdx.x), first_channel = static_cast<int>(blockIdx.y) * kTileChannels;
  const int image = tile / (s.tiles_x * s.tiles_y), top = tile / s.tiles_x % s.tiles_y * S::kHeight;
  const int left = tile % s.tiles_x * S::kWidth;
  depthwise_load<S::kInHeight, S::kInWidth, S::kRowPitch, S::kThreads>(s_in, in, s.in_h, s.in_w, s.channels, image,
                                                                       top - s.pad_h, left - s.pad_w, first_channel);
  // weight: [channel][tap]. All loads before the first store, so that they wait together.
  constexpr int kLoads = (S::kTaps * kTileChannels + S::kThreads - 1) / S::kThreads;
  const int there_taps = min(kTileChannels, s.channels - first_channel) * S::kTaps;
  float values[kLoads];
#pragma unroll
  for (int k = 0; k < kLoads; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * S::kThreads;
    values[k] = i < there_taps ? convert<float>(weight[first_channel * S::kTaps + i]) : 0;
  }
#pragma unroll
  for (int k = 0; k < kLoads; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * S::kThreads, c = i / S::kTaps, tap = i % S::kTaps;
    if (c < kTileChannels) s_taps[(turned ? S::kTaps - 1 - tap : tap) * kTileChannels + c] = values[k];
  }
  const int warp = threadIdx.x / kWarp, pair = threadIdx.x % kTilePairs, group = threadIdx.x / kTilePairs % 2;
  const int channel = first_channel + 2 * pair;
  const bool there = channel < s.channels;
  float start[2] = {0, 0};
  if (bias != nullptr && there) {
    start[0] = convert<float>(bias[channel]);
    start[1] = convert<float>(bias[channel + 1]);
  }
  const int first_row = top + group * S::kRows, first_column = left + warp * kTileColumns;
  const auto row_of_out = [&](int r) {
    return out + ((int64_t{image} * s.out_h + first_row + r) * s.out_w + first_column) * s.channels + channel;
  };
  float sums[S::kRows][kTileColumns][2];
#pragma unroll
  for (int r = 0; r < S::kRows; ++r) {
#pragma unroll
    for (int t = 0; t < kTileColumns; ++t) {
      sums[r][t][0] = start[0];
      sums[r][t][1] = start[1];
      if (!kAdds || !there || first_row + r >= s.out_h || first_column + t >= s.out_w) continue;
      const auto before = *reinterpret_cast<const Pack<T, 2>*>(row_of_out(r) + t * s.channels);
      sums[r][t][0] += convert<float>(before.values[0]);
      sums[r][t][1] += convert<float>(before.values[1]);
    }
  }
  flash::wait_for_copies();
  __syncthreads();

  const T* row = s_in + group * S::kRows * S::kRowPitch + warp * kTileColumns * kTileChannels + 2 * pair;
#pragma unroll 1
  for (int i = 0; i < S::kRows + K - 1; ++i, row += S::kRowPitch) {
    float window[S::kWindow][2];
    depthwise_row(row, window);
#pragma unroll
    for (int r = 0; r < S::kRows; ++r) {
      const int ky = i - r;  // the same in all threads
      if (ky < 0 || ky >= K) continue;
      const float* taps = s_taps + ky * K * kTileChannels + 2 * pair;
#pragma unroll
      for (int kx = 0; kx < K; ++kx) {
        const float2 tap = *reinterpret_cast<const float2*>(taps + kx * kTileChannels);
#pragma unroll
        for (int t = 0; t < kTileColumns; ++t) {
          sums[r][t][0] += window[t + kx][0] * tap.x;
          sums[r][t][1] += window[t + kx][1] * tap.y;
        }
      }
    }
  }
  if (!there) return;
#pragma unroll
  for (int r = 0; r < S::kRows; ++r) {
    if (first_row + r >= s.out_h) continue;
    T* to = row_of_out(r);
#pragma unroll
    for (int t = 0; t < kTileColumns; ++t) {
      if (first_column + t >= s.out_w) continue;
      const Pack<T, 2> both{{convert<T>(sums[r][t][0]), convert<T>(sums[r][t][1])}};
      *reinterpret_cast<Pack<T, 2>*>(to + t * s.channels) = both;
    }
  }
}

/// Sums of dw and dbias over the tiles of a block. Grid: (share of the tiles, 32 channels). `in` is x and `out` dy.
/// partials [gridDim.x][K * K + 1][channels], the last row for the bias.
template <class S>
__global__ void __launch_bounds__(S::kThreads, (S::K == 9 ? 8 : 12) / S::kGroups)
    depthwise_tile_weight_kernel(DepthwiseTiles s, int tiles_per_block, const typename S::T* __restrict__ x,
                                 const typename S::T* __restrict__ dy, float* __restrict__ partials) {
  using T = typename S::T;
  constexpr int K = S::K;
  extern __shared__ __align__(128) char shared[];
  T* s_x = reinterpret_cast<T*>(shared);  // [kInHeight][kInWidth (+ gap)][32]
  T* s_dy = s_x + S::kInElements;         // [kHeight][kWidth (+ gap)][32]
  const int first_channel = static_cast<int>(blockIdx.y) * kTileChannels;
  const int warp = threadIdx.x / kWarp, pair = threadIdx.x % kTilePairs, group = threadIdx.x / kTilePairs % 2;
  float sums[K][K][2], bias[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 2 * S::kTaps; ++i) sums[i / (2 * K)][i / 2 % K][i % 2] = 0;
  const int begin = static_cast<int>(blockIdx.x) * tiles_per_block, end = min(begin + tiles_per_block, s.tiles);
#pragma unroll 1
  for (int tile = begin; tile < end; ++tile) {
    __syncthreads();
    const int image = tile / (s.tiles_x * s.tiles_y), top = tile / s.tiles_x % s.tiles_y * S::kHeight;
    const int left = tile % s.tiles_x * S::kWidth;
    depthwise_load<S::kInHeight, S::kInWidth, S::kRowPitch, S::kThreads>(s_x, x, s.in_h, s.in_w, s.channels, image,
                                                                         top - s.pad_h, left - s.pad_w, first_channel);
    depthwise_load<S::kHeight, S::kWidth, S::kOutPitch, S::kThreads>(s_dy, dy, s.out_h, s.out_w, s.channels, image, top,
                                                                     left, first_channel);
    flash::wait_for_copies();
    __syncthreads();
    const int column = warp * kTileColumns * kTileChannels + 2 * pair;
    const T* row = s_x + group * S::kRows * S::kRowPitch + column;
    const T* gradients = s_dy + group * S::kRows * S::kOutPitch + column;
#pragma unroll 1
    for (int i = 0; i < S::kRows + K - 1; ++i, row += S::kRowPitch) {
      float window[S::kWindow][2];
      depthwise_row(row, window);
#pragma unroll
      for (int ky = 0; ky < K; ++ky) {
        const int r = i - ky;  // the same in all threads
        if (r < 0 || r >= S::kRows) continue;
        float d[kTileColumns][2];
        depthwise_row(gradients + r * S::kOutPitch, d);
        if (ky == 0) {
#pragma unroll
          for (int t = 0; t < kTileColumns; ++t) {
            bias[0] += d[t][0];
            bias[1] += d[t][1];
          }
        }
#pragma unroll
        for (int kx = 0; kx < K; ++kx) {
#pragma unroll
          for (int t = 0; t < kTileColumns; ++t) {
            sums[ky][kx][0] += window[t + kx][0] * d[t][0];
            sums[ky][kx][1] += window[t + kx][1] * d[t][1];
          }
        }
      }
    }
  }

  // Both groups of rows of a warp, then the warps.
  __syncthreads();
  float* s_sums = reinterpret_cast<float*>(shared);  // [kGroups][K * K + 1][32]
  const auto hand_over = [&](int tap, float first, float second) {
    first += __shfl_xor_sync(~0u, first, kTilePairs);
    second += __shfl_xor_sync(~0u, second, kTilePairs);
    if (group == 0) {
      *reinterpret_cast<float2*>(s_sums + (warp * (S::kTaps + 1) + tap) * kTileChannels + 2 * pair) =
          make_float2(first, second);
    }
  };
#pragma unroll
  for (int i = 0; i < S::kTaps; ++i) hand_over(i, sums[i / K][i % K][0], sums[i / K][i % K][1]);
  hand_over(S::kTaps, bias[0], bias[1]);
  __syncthreads();
  for (int i = threadIdx.x; i < (S::kTaps + 1) * kTileChannels; i += S::kThreads) {
    const int tap = i / kTileChannels, channel = first_channel + i % kTileChannels;
    float sum = 0;
#pragma unroll
    for (int g = 0; g < S::kGroups; ++g) sum += s_sums[g * (S::kTaps + 1) * kTileChannels + i];
    if (channel < s.channels) partials[(int64_t{blockIdx.x} * (S::kTaps + 1) + tap) * s.channels + channel] = sum;
  }
}

}  // namespace camo::cuda
