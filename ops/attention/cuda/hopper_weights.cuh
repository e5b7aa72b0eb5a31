// A softmax for the Hopper kernels that is cheap enough to run beside the products.
//
// The reference of a row, from which its exponents count, lies a whole number (in the log2 domain) above the largest
// score of the first tile, whose weight is therefore a power of two and not rounded. The weights of later tiles are
// computed against it without looking for a maximum; only when one of a warp's grows too large is it raised, and the
// sums so far are scaled. The sum of a row's weights is a product with ones: of the rounded weights, as the other sums
// are, so that rounding them cancels where one of them outweighs the others.
#pragma once

#include "ops/attention/cuda/hopper_rows.cuh"
#include "ops/attention/cuda/warp16.cuh"

namespace camo::flash::hopper {

/// The two rows of a thread, g and g + 8: references, and sums of weights as accumulators [64, 8].
struct WeightedRows {
  float reference[2] = {-1e30f, -1e30f}, total[4] = {0, 0, 0, 0};
};

/// Scores [64, 2 kCount] -> weights as left operands of 16 columns each. Whether one is too large.
template <class T, int kCount>
__device__ bool weigh(uint32_t (&weights)[kCount / 2], const float (&scores)[kCount], const WeightedRows& rows,
                      float unit) {
  WeightWatch<T> watch;
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    float x[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) x[e] = exp2_unit(fmaf(scores[i + e], unit, -rows.reference[e / 2]));
    weights[i / 2] = pack<T>(x[0], x[1]);
    weights[i / 2 + 1] = pack<T>(x[2], x[3]);
    watch.add(weights[i / 2], weights[i / 2 + 1]);
  }
  return __any_sync(~0u, watch.alarm());
}

/// References above scores; factor: of what was summed before.
template <class T, int kCount>
__device__ void raise_references(WeightedRows& rows, float (&factor)[2], const float (&scores)[kCount], float unit) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      top[0] = fmaxf(top[0], scores[i + 2 * half]);
      top[1] = fmaxf(top[1], scores[i + 2 * half + 1]);
    }
    const float highest = quad_max(fmaxf(top[0], top[1]));
    const float raised = fmaxf(rows.reference[half], highest * unit + WeightWatch<T>::kHeadroom);
    factor[half] = exp2_unit(rows.reference[half] - raised);
    rows.reference[half] = raised;
  }
}

/// The weights of the first tile of rows.
template <class T, int kCount>
__device__ void take_first_weights(uint32_t (&weights)[kCount / 2], const float (&scores)[kCount], WeightedRows& rows,
                                   float unit) {
  float factor[2];
  raise_references<T>(rows, factor, scores, unit);
  weigh<T>(weights, scores, rows, unit);
}

/// The weights of another tile, after raising references where they must be.
template <class T, int kCount, int kColumns>
__device__ void take_weights(uint32_t (&weights)[kCount / 2], const float (&scores)[kCount], WeightedRows& rows,
                             float (&sums)[kColumns], float unit) {
  if (!weigh<T>(weights, scores, rows, unit)) return;
  float factor[2];
  raise_references<T>(rows, factor, scores, unit);
#pragma unroll
  for (int i = 0; i < kColumns; ++i) sums[i] *= factor[i / 2 % 2];
#pragma unroll
  for (int e = 0; e < 4; ++e) rows.total[e] *= factor[e / 2];
  weigh<T>(weights, scores, rows, unit);
}

/// Ones for products with weights: a tile of 16 keys.
inline constexpr int kOnesBytes = 16 * 128;
template <class T>
__device__ void set_ones(uint32_t tile) {
  constexpr uint32_t kOnes = std::is_same_v<T, Half> ? 0x3c003c00u : 0x3f803f80u;
  for (int i = threadIdx.x; i < kOnesBytes / 4; i += blockDim.x) store_word(tile + 4 * i, kOnes);
  fence_shared_for_async();
}

/// Hides keys from `count` on in scores [64, 2 kCount].
template <int kCount>
__device__ void hide_keys(float (&scores)[kCount], int count) {
  const int end = count - threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (2 * i + e % 2 >= end) scores[i + e] = -INFINITY;
    }
  }
}

/// Stores log-sum-exps. inverse: of the totals.
__device__ inline void finish_rows(const WeightedRows& rows, float (&inverse)[2], float* log_sum_exp, int row,
                                   int count) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = rows.total[2 * half];
    inverse[half] = 1 / total;
    if (threadIdx.x % 4 == 0 && row + 8 * half < count) {
      log_sum_exp[row + 8 * half] = fmaf(rows.reference[half], kLn2, logf(total));
    }
  }
}

/// Stores the rows of a warpgroup, [64, 2 kCount] accumulators, row r being number first + r of the head, whose columns
/// begin at `offset`. Memory that stands like the columns is written in pieces of 16 bytes.
template <class T, int kCount>
__device__ void store_rows(const Heads<T>& out, int b, int h, const float (&sums)[kCount], const float (&factor)[2],
                           int first, int count, int width, int offset) {
  const int lane = threadIdx.x % 32, t = lane % 4, row = first + threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
  T* const start = out.of(b, h) - offset;
  if (out.row % 8 != 0 || reinterpret_cast<uintptr_t>(start) % 16 != 0) {
    return store_accumulators<T>(out, b, h, sums, factor, first, count, width, offset);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool inside = row + 8 * half < count;
    T* const to = start + (row + 8 * half) * out.row;
#pragma unroll
    for (int i = 0; i < kCount; i += 16) {
      uint32_t x[4] = {};
      gather_neighbours<T>(x, sums, factor[half], i, half);
      const int column = 2 * i + 8 * t, begin = offset - column, end = begin + width;
      if (inside && begin <= 0 && end >= 8) {
        *reinterpret_cast<uint4*>(to + column) = make_uint4(x[0], x[1], x[2], x[3]);
      } else if (inside) {  // an edge of the head
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
          const bool low = e >= begin && e < end, high = e + 1 >= begin && e + 1 < end;
          if (low && high) *reinterpret_cast<uint32_t*>(to + column + e) = x[e / 2];
          else if (low) to[column + e].bits = static_cast<uint16_t>(x[e / 2]);
          else if (high) to[column + e + 1].bits = static_cast<uint16_t>(x[e / 2] >> 16);
        }
      }
    }
  }
  __syncwarp();  // the compiler is to see whole warps arrive at the next products
}

}  // namespace camo::flash::hopper
