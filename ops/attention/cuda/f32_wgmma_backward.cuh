// f32 attention backward by wgmma; f32_wgmma.cuh says how, f32_backward.cuh what is computed and how it is scaled.
#pragma once

#include "ops/attention/cuda/f32_backward.cuh"
#include "ops/attention/cuda/f32_wgmma.cuh"

namespace camo::flash::halves {

template <int kWidth_, int kParts, int kGroups_, int kBlocks_ = 1>
struct WgmmaBackward {
  static constexpr int kWidth = kWidth_, kGroups = kGroups_, kBlocks = kBlocks_;
  using Layout = GroupLayout<kWidth, kParts>;
  using Own = OwnImage<Layout>;
  static constexpr int kRows = kGroups * kImageRows, kThreads = 128 * kGroups, kColumns = round_up(kWidth, 8) / 8;
  static constexpr int kTileHalves = kImageRows * Layout::kRow, kTileBytes = 2 * kTileHalves;
  static constexpr int kNumbersBytes = kImageRows * static_cast<int>(sizeof(float2));
  static constexpr int kStageBytes = 2 * kTileBytes + kNumbersBytes, kOwnOffset = 2 * kStageBytes;
  static constexpr int kStagingOffset = kOwnOffset + kGroups * 2 * kTileBytes;
  static constexpr int kBytes = kStagingOffset + kGroups * 4 * 4 * Own::kStagingFloats;
  static_assert(kBytes <= 227 * 1024 && kStageBytes % 128 == 0);
};

/// Copies tile `tile` of two tensors, and the numbers of the first one's rows if there are any. By one thread.
template <class S>
__device__ void copy_tile(char* stage, uint64_t* full, const Halves& first, const Halves& second, const float2* numbers,
                          int64_t tile) {
  barrier_expect(full, 2 * S::kTileBytes + (numbers ? S::kNumbersBytes : 0));
  copy_bulk(stage, first.rows + tile * S::kTileHalves, S::kTileBytes, full);
  copy_bulk(stage + S::kTileBytes, second.rows + tile * S::kTileHalves, S::kTileBytes, full);
  if (numbers) copy_bulk(stage + 2 * S::kTileBytes, numbers + tile * kImageRows, S::kNumbersBytes, full);
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    f32_wgmma_backward_keys_kernel(const __grid_constant__ Call<float> call, const __grid_constant__ Halves q_of_call,
                                   const __grid_constant__ Halves dy_of_call,
                                   const __grid_constant__ RowNumbers numbers, int blocks) {
  using Layout = typename S::Layout;
  extern __shared__ __align__(128) char shared[];
  __shared__ Pipeline pipeline;
  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int tiles = q_of_call.tiles, warp = threadIdx.x / 32;
  const int64_t first_tile = int64_t{head} * tiles;
  pipeline.init(4 * S::kGroups);
  const auto copy = [&](int tile, uint64_t* full) {
    copy_tile<S>(shared + tile % 2 * S::kStageBytes, full, q_of_call, dy_of_call, numbers.rows, first_tile + tile);
  };
  pipeline.begin(tiles, copy);

  const int group = warp / 4, t = threadIdx.x % 4, warp_key = blockIdx.x % blocks * S::kRows + 16 * warp;
  auto* own_k = reinterpret_cast<__half*>(shared + S::kOwnOffset) + group * 2 * S::kTileHalves;
  __half* own_v = own_k + S::kTileHalves;
  auto* staging = reinterpret_cast<float*>(shared + S::kStagingOffset) + warp * S::Own::kStagingFloats;
  const float k_down = S::Own::load(own_k, staging, call.k, b, h, warp_key, call.keys, call.width);
  const float v_down = S::Own::load(own_v, staging, call.v, b, h, warp_key, call.keys, call.width);
  fence_async();
  warpgroup_sync(group);

  const bool idle = warp_key - warp % 4 * 16 >= call.keys;  // a warpgroup without rows
  float dk[S::kColumns][4] = {}, dv[S::kColumns][4] = {};
  for (int tile = 0; tile < tiles; ++tile) {
    const float q_down = q_of_call.down[first_tile + tile], dy_down = dy_of_call.down[first_tile + tile];
    const float largest_delta = numbers.largest_delta[first_tile + tile];
    const char* stage = shared + tile % 2 * S::kStageBytes;
    const auto* q = reinterpret_cast<const __half*>(stage);
    const __half* dy = q + S::kTileHalves;
    const auto* row_numbers = reinterpret_cast<const float4*>(stage + 2 * S::kTileBytes);  // of two queries
    const float unit = k_down * q_down * (call.scale * kLog2E);
    const PowerOfTwo scale = gradient_scale<S::kWidth>(dy_down, v_down, 1.0f, largest_delta);
    const float dp_unit = dy_down * v_down * scale.up;

    pipeline.await(tile);
    if (idle) {
      pipeline.release(tile);
      continue;
    }
    float p[8][4], grads[8][4], sums[S::kColumns][4];  // [keys, queries]
    products_begin();
    begin_by_depth<Layout>(p, own_k, q);
    products_commit();
    begin_by_depth<Layout>(grads, own_v, dy);
    products_commit();
    pipeline.proceed(tile, tiles, copy);
    products_wait<1>();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float4 number = row_numbers[4 * n + t];
#pragma unroll
      for (int e = 0; e < 4; ++e) p[n][e] = exp2_approximate(fmaf(p[n][e], unit, e % 2 ? -number.z : -number.x));
    }
    products_wait<0>();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float4 number = row_numbers[4 * n + t];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        grads[n][e] = p[n][e] * fmaf(grads[n][e], dp_unit, -scale.up * (e % 2 ? number.w : number.y));
      }
    }
    const TileWeights<Layout> weights(p);
    products_begin();
    begin_by_rows<Layout>(sums, weights, dy);
    products_commit();
    products_wait<0>();
    add_scaled(dv, sums, dy_down * RowNumbers::kUnlift);
    const TileWeights<Layout> grad_weights(grads);
    products_begin();
    begin_by_rows<Layout>(sums, grad_weights, q);
    products_commit();
    products_wait<0>();
    pipeline.release(tile);
    add_scaled(dk, sums, q_down * scale.down * RowNumbers::kUnlift);
  }

  using Result = const float(&)[1][S::kColumns][4];
  float factor[1][2] = {{1, 1}};
  if (call.dv.data) store_result(call.dv, b, h, reinterpret_cast<Result>(dv), factor, warp_key, call.keys, call.width);
  factor[0][0] = factor[0][1] = call.scale;
  if (call.dk.data) store_result(call.dk, b, h, reinterpret_cast<Result>(dk), factor, warp_key, call.keys, call.width);
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    f32_wgmma_backward_queries_kernel(const __grid_constant__ Call<float> call,
                                      const __grid_constant__ Halves k_of_call,
                                      const __grid_constant__ Halves v_of_call,
                                      const __grid_constant__ RowNumbers numbers, int blocks) {
  using Layout = typename S::Layout;
  extern __shared__ __align__(128) char shared[];
  __shared__ Pipeline pipeline;
  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int tiles = k_of_call.tiles, warp = threadIdx.x / 32;
  const int64_t first_tile = int64_t{head} * tiles;
  pipeline.init(4 * S::kGroups);
  const auto copy = [&](int tile, uint64_t* full) {
    copy_tile<S>(shared + tile % 2 * S::kStageBytes, full, k_of_call, v_of_call, nullptr, first_tile + tile);
  };
  pipeline.begin(tiles, copy);

  const int group = warp / 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int warp_query = blockIdx.x % blocks * S::kRows + 16 * warp;
  auto* own_q = reinterpret_cast<__half*>(shared + S::kOwnOffset) + group * 2 * S::kTileHalves;
  __half* own_dy = own_q + S::kTileHalves;
  auto* staging = reinterpret_cast<float*>(shared + S::kStagingOffset) + warp * S::Own::kStagingFloats;
  const float q_down = S::Own::load(own_q, staging, call.q, b, h, warp_query, call.queries, call.width);
  const float dy_down = S::Own::load(own_dy, staging, call.dy, b, h, warp_query, call.queries, call.width);
  fence_async();
  warpgroup_sync(group);
  float log2_sum[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = warp_query + g + 8 * half;
    const int64_t at = int64_t{head} * tiles_of(call.queries) * kScaledRows + query;
    const float2 number = query < call.queries ? numbers.rows[at] : make_float2(1e30f, 0.0f);
    log2_sum[half] = number.x;
    delta[half] = number.y;
  }
  const float largest_delta = warp_max(fmaxf(fabsf(delta[0]), fabsf(delta[1])));

  const bool idle = warp_query - warp % 4 * 16 >= call.queries;  // a warpgroup without rows
  float dq[S::kColumns][4] = {};
  for (int tile = 0; tile < tiles; ++tile) {
    const float k_down = k_of_call.down[first_tile + tile], v_down = v_of_call.down[first_tile + tile];
    const auto* k = reinterpret_cast<const __half*>(shared + tile % 2 * S::kStageBytes);
    const __half* v = k + S::kTileHalves;
    const float unit = fmaxf(q_down * k_down * (call.scale * kLog2E), kLeastUnit);
    const PowerOfTwo scale = gradient_scale<S::kWidth>(dy_down, v_down, 1.0f, largest_delta);
    const float dp_unit = dy_down * v_down * scale.up;
    const float row_delta[2] = {delta[0] * scale.up, delta[1] * scale.up};

    pipeline.await(tile);
    if (idle) {
      pipeline.release(tile);
      continue;
    }
    float p[8][4], grads[8][4], sums[S::kColumns][4];  // [queries, keys]
    products_begin();
    begin_by_depth<Layout>(p, own_q, k);
    products_commit();
    begin_by_depth<Layout>(grads, own_dy, v);
    products_commit();
    pipeline.proceed(tile, tiles, copy);
    products_wait<1>();
    if ((tile + 1) * kImageRows > call.keys) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (tile * kImageRows + 8 * n + 2 * t + e % 2 >= call.keys) p[n][e] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) p[n][e] = exp2_approximate(fmaf(p[n][e], unit, -log2_sum[e / 2]));
    }
    products_wait<0>();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) grads[n][e] = p[n][e] * fmaf(grads[n][e], dp_unit, -row_delta[e / 2]);
    }
    const TileWeights<Layout> weights(grads);
    products_begin();
    begin_by_rows<Layout>(sums, weights, k);
    products_commit();
    products_wait<0>();
    pipeline.release(tile);
    add_scaled(dq, sums, k_down * scale.down * RowNumbers::kUnlift);
  }

  using Result = const float(&)[1][S::kColumns][4];
  const float factor[1][2] = {{call.scale, call.scale}};
  store_result(call.dq, b, h, reinterpret_cast<Result>(dq), factor, warp_query, call.queries, call.width);
}

}  // namespace camo::flash::halves
