// f32 attention forward of whole heads; f32_whole.cuh says which.
#pragma once

#include "ops/attention/cuda/f32_whole.cuh"

namespace camo::flash::halves {

/// One block: 18 warps. Of the nine rows of 16 queries each is computed by two warps, one with the first five groups of
/// 16 keys, one with the other four; the second hands its result to the first. A scheduler with five warps gets the
/// short jobs.
struct WholeForward : WholeHead {
  static constexpr int kWarps = 18, kThreads = 32 * kWarps, kRows = kTokens / kWarps, kGroups = 5;
  static constexpr float kLift = 6;  // weights are at most 2^kLift
  static constexpr int kBytes = 2 * 3 * kMatrix;
  static_assert(9 * 32 * 44 * 4 <= 2 * 2 * kMatrix);
};

__global__ void __launch_bounds__(WholeForward::kThreads, 1)
    f32_whole_forward_kernel(const __grid_constant__ Call<float> call) {
  using S = WholeForward;
  using Layout = S::Layout;
  extern __shared__ __align__(128) char shared[];
  __shared__ float maxima[3 * S::kWarps], down[3];
  auto* q = reinterpret_cast<__half*>(shared);
  __half *k = q + S::kMatrix, *v = k + S::kMatrix;
  const int head = blockIdx.x, b = head / call.heads, h = head % call.heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  fetch_rows<S::kRows>(q, call.q, call.q.of(b, h), warp * S::kRows, call.queries, call.width);
  fetch_rows<S::kRows>(k, call.k, call.k.of(b, h), warp * S::kRows, call.keys, call.width);
  fetch_rows<S::kRows>(v, call.v, call.v.of(b, h), warp * S::kRows, call.keys, call.width);
  split_matrices<S::kRows, S::kWarps, 3>(q, maxima, down, call.width);
  __syncthreads();

  // Long jobs: warps 2, 3, 6, 7, ... and 16; short ones: 0, 1, 4, 5, ..., 13 and 17.
  const bool is_long = warp == 16 || (warp < 16 && warp % 4 >= 2);
  const int tile = warp >= 16 ? 8 : warp / 4 * 2 + warp % 2;  // of 16 queries
  const int groups = is_long ? 5 : 4, first_key = is_long ? 0 : 80;
  const float unit = fmaxf(down[0] * down[1] * (call.scale * kLog2E), kLeastUnit);

  float scores[2 * S::kGroups][4] = {};
  // Tensor cores truncate sums to 24 bits at each step: the small products come first.
#pragma unroll
  for (int round = 0; round < 2; ++round) {
#pragma unroll 1
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t a_high[4], a_low[4];
      load_left(a_high, q + 16 * tile * S::kPitch, S::kPitch, 16 * step);
      if (round == 0) load_left(a_low, q + 16 * tile * S::kPitch, S::kPitch, 16 * step + Layout::kLow);
#pragma unroll
      for (int group = 0; group < S::kGroups; ++group) {
        if (group >= groups) continue;
        uint32_t high[2][2], low[2][2];
        const __half* rows = k + (first_key + 16 * group) * S::kPitch;
        load_right_by_depth(high, rows, S::kPitch, 16 * step);
        if (round == 0) load_right_by_depth(low, rows, S::kPitch, 16 * step + Layout::kLow);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (round == 0) {
            multiply_add(scores[2 * group + i], a_low, high[i]);
            multiply_add(scores[2 * group + i], a_high, low[i]);
          } else {
            multiply_add(scores[2 * group + i], a_high, high[i]);
          }
        }
      }
    }
  }
  __syncthreads();  // q and k are not needed any more: results go there
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
  for (int n = 0; n < 2 * S::kGroups; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (n >= 2 * groups || first_key + 8 * n + 2 * t + e % 2 >= call.keys) scores[n][e] = -INFINITY;
      top[e / 2] = fmaxf(top[e / 2], scores[n][e]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top[half] = max_of_row(top[half]) * unit;
    if (top[half] == -INFINITY) top[half] = -1e30f;  // no keys in this half
  }
  float result[1][S::kColumns][4] = {};
#pragma unroll
  for (int group = 0; group < S::kGroups; ++group) {
    if (group >= groups) continue;
#pragma unroll
    for (int n = 2 * group; n < 2 * group + 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = exp2_approximate(fmaf(scores[n][e], unit, S::kLift - top[e / 2]));
        total[e / 2] += scores[n][e];
      }
    }
    const SplitWeights weights[1] = {SplitWeights(scores[2 * group], scores[2 * group + 1])};
    multiply_by_rows<Layout, S::kColumns>(result, 0, weights, v + (first_key + 16 * group) * S::kPitch);
  }

  auto* exchange = reinterpret_cast<float*>(shared) + tile * (44 * 32) + lane;  // [tile][44][32]
  if (!is_long) {
#pragma unroll
    for (int w = 0; w < S::kColumns; ++w) {
#pragma unroll
      for (int e = 0; e < 4; ++e) exchange[(4 * w + e) * 32] = result[0][w][e];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      exchange[(40 + half) * 32] = top[half];
      exchange[(42 + half) * 32] = total[half];
    }
  }
  __syncthreads();
  if (!is_long) return;
  float factor[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float other_top = exchange[(40 + half) * 32], highest = fmaxf(top[half], other_top);
    const float own_factor = exp2_approximate(top[half] - highest),
                other_factor = exp2_approximate(other_top - highest);
    const float sum = sum_of_row(total[half] * own_factor + exchange[(42 + half) * 32] * other_factor);
#pragma unroll
    for (int w = 0; w < S::kColumns; ++w) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        result[0][w][e] = fmaf(result[0][w][e], own_factor, exchange[(4 * w + e) * 32] * other_factor);
      }
    }
    factor[0][half] = down[2] / sum;
    const int query = 16 * tile + g + 8 * half;
    if (t == 0 && query < call.queries) {
      call.log_sum_exp[int64_t{head} * call.queries + query] = fmaf(highest - S::kLift, kLn2, logf(sum));
    }
  }
  store_result(call.out, b, h, result, factor, 16 * tile, call.queries, call.width);
}

}  // namespace camo::flash::halves
