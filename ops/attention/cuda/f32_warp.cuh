// What a warp of the f32 kernels does with halves: products, own rows, copies of tiles. Lane l has group g = l / 4 and
// member t = l % 4; an accumulator holds (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1) of a 16 x 8 tile.
#pragma once

#include "ops/attention/cuda/f32_halves.cuh"
#include "ops/attention/cuda/f32_ptx.cuh"

namespace camo::flash::halves {

/// Policy::keep out of line: it is long, and wanted for each of many unrolled weights.
template <class Policy>
__device__ __noinline__ float keep_of(const Call<float>& call, int head, int i, int j) {
  return Policy::keep(call, head, i, j);
}

/// Copies kRows rows of Layout from a head's halves into shared memory, without waiting.
template <class Layout, int kRows, int kThreads>
__device__ void copy_halves(__half* to, const __half* from) {
  constexpr int kUnits = Layout::kRow / 8, kAll = kRows * kUnits;
#pragma unroll
  for (int i = 0; i < (kAll + kThreads - 1) / kThreads; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x), row = at / kUnits, unit = at % kUnits;
    if (kAll % kThreads == 0 || at < kAll) copy_async_16(to + row * Layout::kPitch + unit * 8, from + at * 8);
  }
}

/// Own rows of a warp as left operands by depth, 16 kRowTiles of them, split by the warp itself: in registers, or in
/// its part of shared memory.
template <int kWidth, int kRowTiles, bool kKeep>
struct OwnHalves {
  using Layout = DepthLayout<kWidth>;
  static constexpr bool kPacked = Layout::kPacked;
  static constexpr int kParts = kPacked ? 1 : 2;  // high and low stand apart unless packed
  static_assert(kKeep || !kPacked);
  static constexpr int kSharedHalves = kKeep ? 0 : 16 * kRowTiles * Layout::kPitch;

  uint32_t kept[kKeep ? kRowTiles : 1][kKeep ? Layout::kSteps : 1][kParts][4];
  const __half* shared;
  float down;  // undoes the scale

  static constexpr int kStagingPitch = kWidth | 1;
  static constexpr int kStagingBytes = kKeep ? 4 * 16 * kRowTiles * kStagingPitch : 0;  // of shared memory, of a warp

  /// Rows [first, first + 16 kRowTiles) of a head of `count` rows. `memory`: kSharedHalves of this warp, for good;
  /// `staging`: kStagingBytes, for this call.
  __device__ void load(__half* memory, float* staging, const Heads<const float>& x, int b, int h, int first, int count,
                       int width) {
    shared = memory;
    if constexpr (kKeep) load_registers(staging, x, x.of(b, h), first, count, width);
    else load_shared(memory, x.of(b, h), x.row, first, count, width);
  }
  /// Operands of one step: the whole when packed, else high and low.
  __device__ void operand(uint32_t (&a)[kParts][4], int m, int step) const {
    if constexpr (kKeep) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[part][i] = kept[m][step][part][i];
      }
    } else {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        load_left(a[part], shared + 16 * m * Layout::kPitch, Layout::kPitch, 16 * step + part * Layout::kLow);
      }
    }
  }

 private:
  __device__ void load_registers(float* staging, const Heads<const float>& heads, const float* source, int first,
                                 int count, int width) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    constexpr int kRows = 16 * kRowTiles;
    const float largest =
        warp_max(load_rows<kWidth, kRows, 32, kStagingPitch>(staging, heads, source, first, count, width));
    __syncwarp();
    const PowerOfTwo scale = scale_for(largest);
    down = scale.down;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int step = 0; step < Layout::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = 16 * m + g + i % 2 * 8, column = 16 * step + 2 * t + i / 2 * 8;
          const Source left = Layout::source(column), right = Layout::source(column + 1);
          const float* from = staging + row * kStagingPitch;
          const float x = left.column >= 0 ? from[left.column] * scale.up : 0.0f;
          const float y = right.column >= 0 ? from[right.column] * scale.up : 0.0f;
          if constexpr (kPacked) {
            const __half2 parts = __floats2half2_rn(part_of(x, left.own), part_of(y, right.own));
            kept[m][step][0][i] = reinterpret_cast<const uint32_t&>(parts);
          } else {
            split(x, y, kept[m][step][0][i], kept[m][step][1][i]);
          }
        }
      }
    }
  }
  __device__ void load_shared(__half* memory, const float* source, int64_t stride, int first, int count, int width) {
    const int lane = threadIdx.x % 32;
    float largest = 0;
    for (int row = first; row < min(count, first + 16 * kRowTiles); ++row) {
      for (int column = lane; column < width; column += 32) {
        largest = fmaxf(largest, fabsf(source[row * stride + column]));
      }
    }
    const PowerOfTwo scale = scale_for(warp_max(largest));
    down = scale.down;
    for (int row = 0; row < 16 * kRowTiles; ++row) {
      for (int column = 2 * lane; column < Layout::kLow; column += 64) {
        const float* from = source + (first + row) * stride + column;
        const bool inside = first + row < count;
        uint32_t high, low;
        split(inside && column < width ? from[0] * scale.up : 0.0f,
              inside && column + 1 < width ? from[1] * scale.up : 0.0f, high, low);
        auto* to = reinterpret_cast<uint32_t*>(memory + row * Layout::kPitch + column);
        to[0] = high;
        to[Layout::kLow / 2] = low;
      }
    }
    __syncwarp();
  }
};

template <int kRowTiles, int kElements>
__device__ void fill_with(float (&x)[kRowTiles][kElements], float value) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) x[m][i] = value;
  }
}
template <int kRowTiles, int kTiles>
__device__ void fill_with(float (&x)[kRowTiles][kTiles][4], float value) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) fill_with(x[m], value);
}
/// scores = own rows times the transpose of tile rows, both scaled. [16 kRowTiles, D] x [D, 8 kTiles]
template <int kWidth, int kRowTiles, bool kKeep, int kTiles>
__device__ void multiply_by_depth(float (&scores)[kRowTiles][kTiles][4], const OwnHalves<kWidth, kRowTiles, kKeep>& own,
                                  const __half* tile) {
  using Layout = DepthLayout<kWidth>;
  constexpr bool kPacked = Layout::kPacked;
  fill_with(scores, 0.0f);
  // Tensor cores truncate sums to 24 bits at each step: the small products come first.
#pragma unroll
  for (int round = kPacked ? 1 : 0; round < 2; ++round) {
#pragma unroll(kKeep ? Layout::kSteps : 2)
    for (int step = Layout::kSteps - 1; step >= 0; --step) {
      uint32_t a[kRowTiles][kPacked ? 1 : 2][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) own.operand(a[m], m, step);
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        const __half* rows = tile + 8 * n * Layout::kPitch;
        uint32_t high[2][2], low[2][2];
        load_right_by_depth(high, rows, Layout::kPitch, 16 * step);
        if (round == 0) load_right_by_depth(low, rows, Layout::kPitch, 16 * step + Layout::kLow);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if constexpr (!kPacked) {
              if (round == 0) {
                multiply_add(scores[m][n + i], a[m][1], high[i]);
                multiply_add(scores[m][n + i], a[m][0], low[i]);
                continue;
              }
            }
            multiply_add(scores[m][n + i], a[m][0], high[i]);
          }
        }
      }
    }
  }
}

/// to[m][first + w] += x[m][w] * factor
template <int kRowTiles, int kColumns, int kSums>
__device__ void add_scaled(float (&to)[kRowTiles][kColumns][4], int first, const float (&x)[kRowTiles][kSums][4],
                           float factor) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int w = 0; w < kSums; ++w) {
#pragma unroll
      for (int e = 0; e < 4; ++e) to[m][first + w][e] = fmaf(x[m][w][e], factor, to[m][first + w][e]);
    }
  }
}

/// Weights of 16 rows and 16 columns as a left operand.
struct SplitWeights {
  uint32_t high[4], low[4];

  __device__ SplitWeights() {}
  __device__ SplitWeights(const float (&left)[4], const float (&right)[4]) {
    split(left[0], left[1], high[0], low[0]);
    split(left[2], left[3], high[1], low[1]);
    split(right[0], right[1], high[2], low[2]);
    split(right[2], right[3], high[3], low[3]);
  }
};

/// sums[m][w] += weights times columns [8 (first + w), + 8) of 16 tile rows, for w in [0, kColumns). Layout::kLow is
/// where the low halves begin.
template <class Layout, int kColumns, int kRowTiles, int kSums>
__device__ void multiply_by_rows(float (&sums)[kRowTiles][kSums][4], int first,
                                 const SplitWeights (&weights)[kRowTiles], const __half* rows) {
#pragma unroll
  for (int w = 0; w < kColumns; w += 2) {
    uint32_t high[2][2], low[2][2];
    load_right_by_rows(high, rows, Layout::kPitch, 8 * (first + w));
    load_right_by_rows(low, rows, Layout::kPitch, 8 * (first + w) + Layout::kLow);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (w + i < kColumns) multiply_add(sums[m][w + i], weights[m].low, high[i]);
      }
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (w + i < kColumns) multiply_add(sums[m][w + i], weights[m].high, low[i]);
      }
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (w + i < kColumns) multiply_add(sums[m][w + i], weights[m].high, high[i]);
      }
    }
  }
}

/// Stores a warp's result, row r being number first + r of the head, each row times its factor.
template <int kRowTiles, int kColumns>
__device__ void store_result(const Heads<float>& out, int b, int h, const float (&result)[kRowTiles][kColumns][4],
                             const float (&factor)[kRowTiles][2], int first, int count, int width) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + 16 * m + g + 8 * half;
      if (row >= count) continue;
      float* to = out.of(b, h) + row * out.row + 2 * t;
#pragma unroll
      for (int w = 0; w < kColumns; ++w) {
        const float x = result[m][w][2 * half] * factor[m][half], y = result[m][w][2 * half + 1] * factor[m][half];
        const int left = width - 8 * w - 2 * t;
        if (out.access >= 8 && left >= 2) {
          *reinterpret_cast<float2*>(to + 8 * w) = make_float2(x, y);
        } else {
          if (left >= 1) to[8 * w] = x;
          if (left >= 2) to[8 * w + 1] = y;
        }
      }
    }
  }
}

}  // namespace camo::flash::halves
