// 3x3 convolutions with few channels, as many out as in, in 16 bits: stride 1, padding = dilation.
//
//   y[p, o] = bias[o] + sum over taps, i of x[p + tap, i] w[o, tap, i]         p: a pixel; tap: a dilated offset
//   dx[p, i] = sum over taps, o of dy[p - tap, o] w[o, tap, i]                 the same with w turned and transposed
//   dw[o, tap, i] = sum over p of dy[p, o] x[p + tap, i],   dbias[o] = sum over p of dy[p, o]
//
// Decomposition: a block has 16 x 16 pixels of one image. Their neighbourhood lies in shared memory, a pixel's channels
// filled up with zeros to pieces of 8, so that taps and pieces are just addresses for ldmatrix and the contraction, 9
// taps times the pieces, needs no gathered copy. y and dx: each warp has two rows of pixels; the weights lie in shared
// memory. dw: pixels are contracted and a block goes through several tiles; its 8 warps share the (tap, piece) pairs
// and each keeps its sums in registers. One more piece, of ones, gives dbias. Sums of the blocks are added in a fixed
// order by a second kernel. Layout: pixels and weights at odd multiples of 16 bytes, so that the eight rows of an
// ldmatrix touch 32 different banks. Bound by: shared memory, one ldmatrix for 1 to 2 products; memory would take half.
#pragma once

#include "core/cuda/kernels.cuh"
#include "ops/attention/cuda/warp16.cuh"

namespace camo::cuda {

inline constexpr int kNarrowSide = 16;  // pixels of a tile, each way
inline constexpr int kNarrowWarps = kNarrowSide / 2;

/// The numbers of a launch. Maps are [images, h, w, channels], tiles go along rows, columns, images.
struct NarrowConv {
  int h, w, channels, dilation;
  int tiles_x, tiles_y, tiles;
  FastDivide by_quads, by_side;  // of channels by 4, of a tile's neighbourhood
};

template <int kPieces>
struct NarrowShape {
  static constexpr int kWidth = 8 * kPieces;                     // channels, filled up
  static constexpr int kPitch = 8 * (kPieces | 1);               // elements of a pixel in shared memory
  static constexpr int kDepth = 9 * kPieces;                     // pieces along the contraction of y
  static constexpr int kSteps = kDepth / 2;                      // of two pieces; one piece may be left
  static constexpr int kWeightRows = 8 * (kDepth + kDepth % 2);  // of a contraction, filled up
  static constexpr int kWeightPitch = kWeightRows + 8;           // where a row is an output
  static constexpr int kPairs = (kPieces + 1) / 2;               // of column tiles
  static constexpr int kOwn = (kDepth + 2 + 15) / 16;            // row tiles of dw that a warp has
  static constexpr int kRowTiles = (kDepth + 2) / 2;             // of dw and dbias
  static int weight_elements(bool turned) { return turned ? kWeightRows * kPitch : kWidth * kWeightPitch; }
  /// Pixels of a tile and its neighbourhood.
  __host__ __device__ static constexpr int pixel_elements(int reach) {
    return (kNarrowSide + 2 * reach) * (kNarrowSide + 2 * reach) * kPitch;
  }
};

/// The tile's place. Offsets are of pixels.
struct NarrowPlace {
  int image, top, left;
  __device__ NarrowPlace(const NarrowConv& s, int tile)
      : image(tile / (s.tiles_x * s.tiles_y)),
        top(tile / s.tiles_x % s.tiles_y * kNarrowSide),
        left(tile % s.tiles_x * kNarrowSide) {}
};

/// Zeros in `count` elements, a multiple of 8, of shared memory.
template <class T>
__device__ void narrow_clear(T* to, int count) {
  for (int i = threadIdx.x; i < count / 8; i += kBlock) reinterpret_cast<uint4*>(to)[i] = make_uint4(0, 0, 0, 0);
}

/// The pixels of a tile and, where `around`, the dilation around it, without waiting; zeros outside of the map. Four
/// channels a copy.
template <int kPitch, bool around, class T>
__device__ void narrow_load(T* tile, const T* __restrict__ map, const NarrowConv& s, const NarrowPlace& at) {
  const int reach = around ? s.dilation : 0, side = kNarrowSide + 2 * reach, quads = s.channels / 4;
  const T* image = map + int64_t{at.image} * s.h * s.w * s.channels;
  for (int i = threadIdx.x; i < side * side * quads; i += kBlock) {
    const int pixel = static_cast<int>(s.by_quads.divide(static_cast<uint32_t>(i))), quad = i - pixel * quads;
    const int row = around ? static_cast<int>(s.by_side.divide(static_cast<uint32_t>(pixel))) : pixel / kNarrowSide;
    const int column = pixel - row * side;
    const int y = at.top + row - reach, x = at.left + column - reach;
    T* to = tile + pixel * kPitch + 4 * quad;
    if (y >= 0 && y < s.h && x >= 0 && x < s.w) flash::copy_async<8>(to, image + (y * s.w + x) * s.channels + 4 * quad);
    else *reinterpret_cast<uint2*>(to) = make_uint2(0, 0);
  }
}

/// y (or dx, with `turned` weights) of one tile a block.   x, y [images, h, w, C], weight [C, 9, C], bias [C] or none
template <class T, int kPieces, bool turned>
__global__ void __launch_bounds__(kBlock)
    narrow_conv_kernel(NarrowConv s, const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                       T* __restrict__ y) {
  using S = NarrowShape<kPieces>;
  constexpr int kWeightElements = turned ? S::kWeightRows * S::kPitch : S::kWidth * S::kWeightPitch;
  extern __shared__ __align__(128) char shared[];
  T* s_weight = reinterpret_cast<T*>(shared);  // turned [9 * kWidth (+ 8), kPitch], else [kWidth, kWeightPitch]
  T* s_pixels = s_weight + kWeightElements;    // [16 + 2 d, 16 + 2 d, kPitch]
  const int d = s.dilation, side = kNarrowSide + 2 * d, quads = s.channels / 4;
  const NarrowPlace at(s, blockIdx.x);
  narrow_clear(s_weight, kWeightElements + S::pixel_elements(d));
  __syncthreads();
  narrow_load<S::kPitch, true>(s_pixels, x, s, at);
  for (int i = threadIdx.x; i < s.channels * 9 * quads; i += kBlock) {  // weight: [o][tap][i]
    const int row = static_cast<int>(s.by_quads.divide(static_cast<uint32_t>(i))), quad = i - row * quads;
    const int o = row / 9, tap = row - o * 9;
    T* to = s_weight + (turned ? ((8 - tap) * S::kWidth + o) * S::kPitch : o * S::kWeightPitch + tap * S::kWidth);
    flash::copy_async<8>(to + 4 * quad, weight + row * s.channels + 4 * quad);
  }
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  float sums[2][kPieces][4];
#pragma unroll
  for (int n = 0; n < kPieces; ++n) {
    const int o = 8 * n + 2 * t;
    const bool there = bias != nullptr && o < s.channels;
    const float first = there ? static_cast<float>(bias[o]) : 0, second = there ? static_cast<float>(bias[o + 1]) : 0;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      sums[m][n][0] = sums[m][n][2] = first;
      sums[m][n][1] = sums[m][n][3] = second;
    }
  }
  flash::wait_for_copies();
  __syncthreads();

  // Lanes 8 i to 8 i + 7 point at the rows of matrix i: pixels 0 to 7 or 8 to 15 (i odd) of the first or the second
  // piece (i >= 2); in B outputs of the first tile or the second (i >= 2), and the first or second piece (i odd).
  const int column = lane % 16, second = lane / 16, odd = lane / 8 % 2;
  const uint32_t pixels = flash::shared_address(s_pixels + (2 * warp * side + column) * S::kPitch);
  const uint32_t weights =
      flash::shared_address(turned ? s_weight + (8 * odd + lane % 8) * S::kPitch + 8 * second
                                   : s_weight + (lane % 8 + 8 * second) * S::kWeightPitch + 8 * odd);
  const auto piece_at = [&](int piece) {
    const int tap = piece / kPieces;
    return ((tap / 3 * side + tap % 3) * d * S::kPitch + piece % kPieces * 8) * 2;
  };
  constexpr int kSize = sizeof(T);
#pragma unroll
  for (int step = 0; step <= S::kSteps; ++step) {
    if (step == S::kSteps && S::kDepth % 2 == 0) break;
    const bool both = step < S::kSteps;
    const int low = piece_at(2 * step), high = both ? piece_at(2 * step + 1) : low;
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      flash::load_matrices(a[m], pixels + (second != 0 ? high : low) + m * side * S::kPitch * kSize);
    }
#pragma unroll
    for (int pair = 0; pair < S::kPairs; ++pair) {
      uint32_t b[4];
      if constexpr (turned) {
        flash::load_transposed(b, weights + (16 * step * S::kPitch + 16 * pair) * kSize);
      } else {
        // A missing second tile reads the rows of the first: they are not used, and lie within the memory.
        const int back = 2 * pair + 1 < kPieces ? 0 : second * 8 * S::kWeightPitch;
        flash::load_matrices(b, weights + (16 * pair * S::kWeightPitch - back + 16 * step) * kSize);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (2 * pair + half >= kPieces) continue;
          float(&sum)[4] = sums[m][2 * pair + half];
          if (both) flash::multiply_16<T>(sum, a[m], b[2 * half], b[2 * half + 1]);
          else flash::multiply_8<T>(sum, a[m], b[2 * half]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int row = at.top + 2 * warp + m;
    if (row >= s.h) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pixel = at.left + g + 8 * half;
      if (pixel >= s.w) continue;
      T* to = y + ((int64_t{at.image} * s.h + row) * s.w + pixel) * s.channels + 2 * t;
#pragma unroll
      for (int n = 0; n < kPieces; ++n) {
        if (8 * n + 2 * t >= s.channels) continue;
        Pack<T, 2> both{{T(sums[m][n][2 * half]), T(sums[m][n][2 * half + 1])}};
        *reinterpret_cast<Pack<T, 2>*>(to + 8 * n) = both;
      }
    }
  }
}

/// Sums of dw and dbias over the block's tiles.   x, dy [images, h, w, C], partials [blocks][C * 9 * C + C]
template <class T, int kPieces>
__global__ void __launch_bounds__(kBlock)
    narrow_weight_kernel(NarrowConv s, int tiles_per_block, const T* __restrict__ x, const T* __restrict__ dy,
                         float* __restrict__ partials) {
  using S = NarrowShape<kPieces>;
  extern __shared__ __align__(128) char shared[];
  const int d = s.dilation, side = kNarrowSide + 2 * d;
  T* s_dy = reinterpret_cast<T*>(shared);                      // [16, 16, kPitch]
  T* s_pixels = s_dy + kNarrowSide * kNarrowSide * S::kPitch;  // [16 + 2 d, 16 + 2 d, kPitch]
  narrow_clear(s_dy, S::pixel_elements(0) + S::pixel_elements(d));
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int second = lane / 16, odd = lane / 8 % 2;
  constexpr int kSize = sizeof(T);

  // Of each own row tile, 16 rows of dw: this lane's pixel and piece, and whether a half of it is the piece of ones.
  uint32_t rows[S::kOwn];
  int ones[S::kOwn];
#pragma unroll
  for (int own = 0; own < S::kOwn; ++own) {
    const int first = 2 * (warp + kNarrowWarps * own), piece = min(first + odd, S::kDepth - 1);
    const int tap = piece / kPieces, pixel = lane % 8 + 8 * second;
    const int offset = (tap / 3 * side + tap % 3) * d + pixel;
    rows[own] = flash::shared_address(s_pixels + offset * S::kPitch + piece % kPieces * 8);
    ones[own] = S::kDepth - first;  // 0: the first half; 1: the second
  }
  const uint32_t outputs = flash::shared_address(s_dy + (lane % 8 + 8 * odd) * S::kPitch + 8 * second);
  const uint32_t one = T(1.0f).bits * 0x10001u;

  float sums[S::kOwn][kPieces][4];
#pragma unroll
  for (int i = 0; i < S::kOwn * kPieces * 4; ++i) sums[i / (4 * kPieces)][i / 4 % kPieces][i % 4] = 0;
  const int begin = static_cast<int>(blockIdx.x) * tiles_per_block, end = min(begin + tiles_per_block, s.tiles);
  for (int tile = begin; tile < end; ++tile) {
    __syncthreads();
    const NarrowPlace at(s, tile);
    narrow_load<S::kPitch, false>(s_dy, dy, s, at);
    narrow_load<S::kPitch, true>(s_pixels, x, s, at);
    flash::wait_for_copies();
    __syncthreads();
    for (int row = 0; row < kNarrowSide; ++row) {  // 16 pixels at once
      uint32_t b[S::kPairs][4];
#pragma unroll
      for (int pair = 0; pair < S::kPairs; ++pair) {
        const int back = 2 * pair + 1 < kPieces ? 0 : second * 8;
        flash::load_transposed(b[pair], outputs + (row * kNarrowSide * S::kPitch + 16 * pair - back) * kSize);
      }
#pragma unroll
      for (int own = 0; own < S::kOwn; ++own) {
        if (warp + kNarrowWarps * own >= S::kRowTiles) continue;
        uint32_t a[4];
        flash::load_transposed(a, rows[own] + row * side * S::kPitch * kSize);
        if (ones[own] == 0) a[0] = a[2] = one;
        if (ones[own] == 1) a[1] = a[3] = one;
#pragma unroll
        for (int n = 0; n < kPieces; ++n) {
          flash::multiply_16<T>(sums[own][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
        }
      }
    }
  }
  const int c = s.channels;
  float* to = partials + int64_t{blockIdx.x} * (9 * c + 1) * c;
#pragma unroll
  for (int own = 0; own < S::kOwn; ++own) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int piece = 2 * (warp + kNarrowWarps * own) + half, tap = piece / kPieces, i = piece % kPieces * 8 + g;
      const bool is_bias = piece == S::kDepth && g == 0;
      if (!is_bias && (piece >= S::kDepth || i >= c)) continue;
#pragma unroll
      for (int n = 0; n < kPieces; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int o = 8 * n + 2 * t + e;
          if (o < c) to[is_bias ? 9 * c * c + o : (o * 9 + tap) * c + i] = sums[own][n][2 * half + e];
        }
      }
    }
  }
}

}  // namespace camo::cuda
