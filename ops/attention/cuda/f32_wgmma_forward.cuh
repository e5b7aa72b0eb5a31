// f32 attention forward by wgmma; f32_wgmma.cuh says how.
#pragma once

#include "ops/attention/cuda/f32_wgmma.cuh"

namespace camo::flash::halves {

template <int kWidth_, int kParts, int kGroups_, int kBlocks_ = 1>
struct WgmmaForward {
  static constexpr int kWidth = kWidth_, kGroups = kGroups_, kBlocks = kBlocks_;
  using Keys = GroupLayout<kWidth, kParts>;
  using Values = RowsLayout<kWidth, kParts>;
  using Own = OwnImage<Keys>;
  static constexpr int kRows = kGroups * kImageRows, kThreads = 128 * kGroups, kColumns = Values::kColumns;
  static constexpr int kKeysBytes = 2 * kImageRows * Keys::kRow, kValuesBytes = 2 * kImageRows * Values::kRow;
  static constexpr int kStageBytes = kKeysBytes + kValuesBytes, kOwnOffset = 2 * kStageBytes;
  static constexpr int kStagingOffset = kOwnOffset + kGroups * 2 * Own::kHalves;
  static constexpr int kBytes = kStagingOffset + kGroups * 4 * 4 * Own::kStagingFloats;
  static constexpr float kLift = 6, kSlack = 8;  // as in f32_forward.cuh
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    f32_wgmma_forward_kernel(const __grid_constant__ Call<float> call, const __grid_constant__ Halves keys_of_call,
                             const __grid_constant__ Halves values_of_call, int blocks) {
  using Keys = typename S::Keys;
  using Values = typename S::Values;
  extern __shared__ __align__(128) char shared[];
  __shared__ Pipeline pipeline;
  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int tiles = keys_of_call.tiles, warp = threadIdx.x / 32;
  pipeline.init(4 * S::kGroups);

  const __half* k = keys_of_call.rows + int64_t{head} * tiles * (kImageRows * Keys::kRow);
  const __half* v = values_of_call.rows + int64_t{head} * tiles * (kImageRows * Values::kRow);
  const auto copy = [&](int tile, uint64_t* full) {
    char* stage = shared + tile % 2 * S::kStageBytes;
    barrier_expect(full, S::kStageBytes);
    copy_bulk(stage, k + int64_t{tile} * (kImageRows * Keys::kRow), S::kKeysBytes, full);
    copy_bulk(stage + S::kKeysBytes, v + int64_t{tile} * (kImageRows * Values::kRow), S::kValuesBytes, full);
  };
  pipeline.begin(tiles, copy);

  const int group = warp / 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int warp_query = blockIdx.x % blocks * S::kRows + 16 * warp;
  auto* own = reinterpret_cast<__half*>(shared + S::kOwnOffset) + group * S::Own::kHalves;
  auto* staging = reinterpret_cast<float*>(shared + S::kStagingOffset) + warp * S::Own::kStagingFloats;
  const float q_down = S::Own::load(own, staging, call.q, b, h, warp_query, call.queries, call.width);
  fence_async();
  warpgroup_sync(group);

  const bool idle = warp_query - warp % 4 * 16 >= call.queries;  // a warpgroup without rows
  float result[S::kColumns][4] = {};
  float reference[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};  // m and the sum of weights of each row
  for (int tile = 0; tile < tiles; ++tile) {
    const float k_down = keys_of_call.down[head * tiles + tile], v_down = values_of_call.down[head * tiles + tile];
    const char* stage = shared + tile % 2 * S::kStageBytes;
    pipeline.await(tile);
    if (idle) {
      pipeline.release(tile);
      continue;
    }
    float scores[8][4];
    products_begin();
    begin_by_depth<Keys>(scores, own, reinterpret_cast<const __half*>(stage));
    products_commit();
    pipeline.proceed(tile, tiles, copy);
    products_wait<0>();

    const float unit = fmaxf(q_down * k_down * (call.scale * kLog2E), kLeastUnit);
    if ((tile + 1) * kImageRows > call.keys) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (tile * kImageRows + 8 * n + 2 * t + e % 2 >= call.keys) scores[n][e] = -INFINITY;
        }
      }
    }
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) highest[e / 2] = fmaxf(highest[e / 2], scores[n][e]);
    }
    if (__any_sync(~0u, highest[0] * unit > reference[0] + S::kSlack || highest[1] * unit > reference[1] + S::kSlack)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float higher = fmaxf(reference[half], ceilf(max_of_row(highest[half]) * unit));
        const float factor = higher == -INFINITY ? 1.0f : exp2_approximate(reference[half] - higher);
        reference[half] = higher;
        total[half] *= factor;
#pragma unroll
        for (int w = 0; w < S::kColumns; ++w) {
          result[w][2 * half] *= factor;
          result[w][2 * half + 1] *= factor;
        }
      }
    }
    const float shift[2] = {reference[0] == -INFINITY ? 0.0f : reference[0] - S::kLift,
                            reference[1] == -INFINITY ? 0.0f : reference[1] - S::kLift};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = exp2_approximate(fmaf(scores[n][e], unit, -shift[e / 2]));
        if constexpr (!Values::kOnes && Values::kParts == 2) total[e / 2] += scores[n][e];
      }
    }
    const TileWeights<Values> weights(scores);
    if constexpr (!Values::kOnes && Values::kParts == 1) {
#pragma unroll
      for (const RoundedWeights& step : weights.step) step.add_to(total);
    }
    float sums[S::kColumns][4];
    products_begin();
    begin_by_rows<Values>(sums, weights, reinterpret_cast<const __half*>(stage + S::kKeysBytes));
    products_commit();
    products_wait<0>();
    pipeline.release(tile);
    if constexpr (Values::kOnes) {
      total[0] += t == 3 ? sums[S::kColumns - 1][1] : 0.0f;
      total[1] += t == 3 ? sums[S::kColumns - 1][3] : 0.0f;
    }
    add_scaled(result, sums, v_down);
  }

  float inverse[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = sum_of_row(total[half]);
    inverse[0][half] = sum == 0 ? 0.0f : 1 / sum;
    const int query = warp_query + g + 8 * half;
    if (t == 0 && query < call.queries) {
      call.log_sum_exp[int64_t{head} * call.queries + query] =
          sum == 0 ? -INFINITY : fmaf(reference[half] - S::kLift, kLn2, logf(sum));
    }
  }
  store_result(call.out, b, h, reinterpret_cast<float(&)[1][S::kColumns][4]>(result), inverse, warp_query, call.queries,
               call.width);
}

}  // namespace camo::flash::halves
