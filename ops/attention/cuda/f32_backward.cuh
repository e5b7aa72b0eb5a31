// f32 attention backward: scores are computed again from q, k and the log-sum-exp L of each query, by products of pairs
// of halves (f32_halves.cuh).
//
//   P = exp(scale q k^T - L),  dP = keep * (dy v^T),  dS = P * (dP - delta),  delta = rowsum(dy * y)
//   dv = (keep * P)^T dy,  dk = scale dS^T q,  dq = scale dS k
//
// Decomposition: q, k, v and dy are split once per head, which also finds delta. Then two passes, each sum in the
// registers of one warp and so in one fixed order, without atomics. In the first a warp owns 16 or 32 keys and queries
// stream past (the scores are made transposed); in the second it owns queries and keys stream past. The price of
// determinism is two of seven products.
// P is at most 1: times 2^12 it is a half. dS is scaled by a power of two from the bound
// |dP - delta| <= D max|dy| max|v| + max|delta| of the tile and the warp's rows.
// Bound by: instruction issue up to D = 21, tensor cores beyond.
#pragma once

#include "ops/attention/cuda/f32_forward.cuh"

namespace camo::flash::halves {

template <int kWidth_, TileShape kShape>
struct BackwardTiling {
  static constexpr int kWidth = kWidth_;
  using Layout = DepthLayout<kWidth>;
  using Own = OwnHalves<kWidth, kShape.row_tiles, kShape.keep>;
  static constexpr int kRowTiles = kShape.row_tiles, kStreamed = kShape.streamed, kChunk = kShape.chunk;
  static constexpr int kThreads = 32 * kShape.warps, kBlocks = kShape.blocks;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarpRows * kShape.warps;
  static constexpr int kColumns = round_up(kWidth, 8) / 8;
  static constexpr bool kGrouped = kShape.group != 0;
  static constexpr int kGroup = kGrouped ? kShape.group : kColumns;
  static constexpr int kTileSize = kStreamed * Layout::kPitch;
  static constexpr int kOwnSize = Own::kSharedHalves;  // halves, of a warp
  static constexpr int kNumbers = 2 * kStreamed;       // floats, of a stage
  static constexpr int kNumbersBytes = 2 * 4 * kNumbers;
  static constexpr int kStagingOffset = kNumbersBytes + 4 * kTileSize;  // own rows pass through the second stage
  static constexpr int kBytes = std::max(kNumbersBytes + 2 * (4 * kTileSize + 2 * kShape.warps * kOwnSize),
                                         kStagingOffset + kShape.warps * Own::kStagingBytes);
  static_assert(kStreamed % kChunk == 0 && kChunk % 16 == 0 && kColumns % kGroup == 0);
  static_assert((kChunk == kStreamed || !kGrouped) && kScaledRows % kStreamed == 0 && kBytes <= 227 * 1024);
};

/// What brings dS, computed from P times 2^kLift, below 2^14.
template <int kWidth>
__device__ PowerOfTwo gradient_scale(float dy_down, float v_down, float keep_scale, float largest_delta) {
  const float bound = kWidth * 0x1p28f * dy_down * v_down * keep_scale + largest_delta;
  const int up = min(max(255 - static_cast<int>(__float_as_uint(bound) >> 23), 1), 253);
  return {__uint_as_float(static_cast<uint32_t>(up) << 23), __uint_as_float(static_cast<uint32_t>(254 - up) << 23)};
}

/// result += factor * weights^ times tile rows, for weights of kChunk rows.
template <class S, int kSteps>
__device__ void accumulate(float (&result)[S::kRowTiles][S::kColumns][4], float (&sums)[S::kRowTiles][S::kGroup][4],
                           const SplitWeights (&weights)[kSteps][S::kRowTiles], const __half* rows, float factor) {
#pragma unroll
  for (int first = 0; first < S::kColumns; first += S::kGroup) {
    if constexpr (S::kGrouped) fill_with(sums, 0.0f);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      multiply_by_rows<typename S::Layout, S::kGroup>(sums, first, weights[step], rows + 16 * step * S::Layout::kPitch);
    }
    if constexpr (S::kGrouped) add_scaled(result, first, sums, factor);
  }
}
template <int kRowTiles, int kTiles>
__device__ void split_weights(SplitWeights (&to)[kTiles / 2][kRowTiles], const float (&x)[kRowTiles][kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; n += 2) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) to[n / 2][m] = SplitWeights(x[m][n], x[m][n + 1]);
  }
}

/// dk, dv or both: for D > 128 they do not fit the registers at once.
template <class S, class Policy, bool kKeys, bool kValues>
__global__ void __launch_bounds__(S::kThreads, Policy::kDense ? S::kBlocks : 1)
    f32_backward_keys_kernel(const __grid_constant__ Call<float> call, const __grid_constant__ Halves q_of_call,
                             const __grid_constant__ Halves dy_of_call, const __grid_constant__ RowNumbers numbers,
                             int blocks) {
  using Layout = typename S::Layout;
  constexpr int kRowTiles = S::kRowTiles, kTiles = S::kChunk / 8;
  extern __shared__ __align__(128) char shared[];
  auto* row_numbers = reinterpret_cast<float*>(shared);                 // [2][kStreamed][2]
  auto* stages = reinterpret_cast<__half*>(shared + S::kNumbersBytes);  // [2][q, dy]
  __half* own_rows = stages + 4 * S::kTileSize;
  __shared__ float downs[2][4];  // q, dy, max delta

  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int first_key = blockIdx.x % blocks * S::kRows;
  const int warp = threadIdx.x / 32, warp_key = first_key + warp * S::kWarpRows;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int64_t first_tile = int64_t{head} * q_of_call.tiles;
  const __half* q = q_of_call.rows + first_tile * (kScaledRows * Layout::kRow);
  const __half* dy = dy_of_call.rows + first_tile * (kScaledRows * Layout::kRow);
  int begin = 0;  // the first query that sees a key of this block, rounded down to a tile
  if (!Policy::kDense && call.rules.causal) begin = max(0, first_key - call.keys + call.queries);
  begin = begin / S::kStreamed * S::kStreamed;

  const auto fetch = [&](int first) {
    const int stage = (first - begin) / S::kStreamed % 2;
    __half* to = stages + stage * 2 * S::kTileSize;
    copy_halves<Layout, S::kStreamed, S::kThreads>(to, q + int64_t{first} * Layout::kRow);
    copy_halves<Layout, S::kStreamed, S::kThreads>(to + S::kTileSize, dy + int64_t{first} * Layout::kRow);
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t tile = first_tile + first / kScaledRows;
    if (thread < S::kNumbers / 4) {
      const float2* from = numbers.rows + first_tile * kScaledRows + first;
      copy_async_16(row_numbers + stage * S::kNumbers + 4 * thread, from + 2 * thread);
    } else if (thread == S::kNumbers / 4) {
      copy_async_4(&downs[stage][0], q_of_call.down + tile);
      copy_async_4(&downs[stage][1], dy_of_call.down + tile);
      copy_async_4(&downs[stage][2], numbers.largest_delta + tile);
    }
  };
  static_assert(S::kNumbers / 4 < S::kThreads);
  if (begin < call.queries) fetch(begin);
  typename S::Own k, v;
  auto* staging = reinterpret_cast<float*>(shared + S::kStagingOffset + warp * S::Own::kStagingBytes);
  k.load(own_rows + warp * 2 * S::kOwnSize, staging, call.k, b, h, warp_key, call.keys, call.width);
  if constexpr (kKeys) {
    __syncwarp();
    v.load(own_rows + (warp * 2 + 1) * S::kOwnSize, staging, call.v, b, h, warp_key, call.keys, call.width);
  }
  float dk[kRowTiles][S::kColumns][4] = {}, dv[kRowTiles][S::kColumns][4] = {};

  for (int first = begin; first < call.queries; first += S::kStreamed) {
    await_copies();
    __syncthreads();  // this tile has arrived, and nobody reads the other stage any more
    if (first + S::kStreamed < call.queries) fetch(first + S::kStreamed);
    const int stage = (first - begin) / S::kStreamed % 2;
    const __half* q_tile = stages + stage * 2 * S::kTileSize;
    const __half* dy_tile = q_tile + S::kTileSize;
    const float q_down = downs[stage][0], dy_down = downs[stage][1];
    const float unscale = k.down * q_down,
                unit = Policy::kDense ? fmaxf(unscale * (call.scale * kLog2E), kLeastUnit) : unscale;
    const float keep_scale = Policy::kDense ? 1.0f : call.rules.keep_scale;
    const PowerOfTwo scale = gradient_scale<S::kWidth>(dy_down, v.down, keep_scale, downs[stage][2]);
    const float dp_unit = dy_down * v.down * scale.up;
    const float dv_factor = dy_down * RowNumbers::kUnlift;
    const float dk_factor = q_down * scale.down * RowNumbers::kUnlift;
    float dk_sums[kRowTiles][S::kGroup][4] = {}, dv_sums[kRowTiles][S::kGroup][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < S::kStreamed; chunk += S::kChunk) {
      float weights[kRowTiles][kTiles][4], grads[kRowTiles][kTiles][4];  // [keys, queries]
      multiply_by_depth(weights, k, q_tile + chunk * Layout::kPitch);
      if constexpr (kKeys) multiply_by_depth(grads, v, dy_tile + chunk * Layout::kPitch);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const int column = chunk + 8 * n + 2 * t;
        const float4 number = *reinterpret_cast<const float4*>(row_numbers + stage * S::kNumbers + 2 * column);
        const float log2_sum[2] = {number.x, number.z}, delta[2] = {number.y * scale.up, number.w * scale.up};
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float& p = weights[m][n][e];
            float& grad = grads[m][n][e];
            if constexpr (Policy::kDense) {
              p = exp2_approximate(fmaf(p, unit, -log2_sum[e % 2]));
              if constexpr (kKeys) grad = p * fmaf(grad, dp_unit, -delta[e % 2]);
            } else {
              const int i = first + column + e % 2, j = warp_key + 16 * m + g + e / 2 * 8;
              const float keep = keep_of<Policy>(call, head, i, j);
              p = exp2_approximate(Policy::score(call, b, h, i, j, p * unit) - log2_sum[e % 2]);
              if constexpr (kKeys) grad = p * fmaf(grad * keep, dp_unit, -delta[e % 2]);
              if (keep == 0) p = 0;
            }
          }
        }
      }
      SplitWeights operand[kTiles / 2][kRowTiles];
      if constexpr (kValues) {
        split_weights(operand, weights);
        accumulate<S>(dv, dv_sums, operand, dy_tile + chunk * Layout::kPitch, dv_factor);
      }
      if constexpr (kKeys) {
        split_weights(operand, grads);
        accumulate<S>(dk, dk_sums, operand, q_tile + chunk * Layout::kPitch, dk_factor);
      }
    }
    if constexpr (!S::kGrouped) {
      if constexpr (kValues) add_scaled(dv, 0, dv_sums, dv_factor);
      if constexpr (kKeys) add_scaled(dk, 0, dk_sums, dk_factor);
    }
  }

  float factor[kRowTiles][2];
  if (kValues && call.dv.data) {
    fill_with(factor, Policy::kDense ? 1.0f : call.rules.keep_scale);
    store_result(call.dv, b, h, dv, factor, warp_key, call.keys, call.width);
  }
  if (kKeys && call.dk.data) {
    fill_with(factor, call.scale);
    store_result(call.dk, b, h, dk, factor, warp_key, call.keys, call.width);
  }
}

template <class S, class Policy>
__global__ void __launch_bounds__(S::kThreads, Policy::kDense ? S::kBlocks : 1)
    f32_backward_queries_kernel(const __grid_constant__ Call<float> call, const __grid_constant__ Halves k_of_call,
                                const __grid_constant__ Halves v_of_call, const __grid_constant__ RowNumbers numbers,
                                int blocks) {
  using Layout = typename S::Layout;
  constexpr int kRowTiles = S::kRowTiles, kTiles = S::kChunk / 8;
  extern __shared__ __align__(128) char shared[];
  auto* stages = reinterpret_cast<__half*>(shared + S::kNumbersBytes);  // [2][k, v]
  __half* own_rows = stages + 4 * S::kTileSize;
  __shared__ float downs[2][2];

  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int first_query = blockIdx.x % blocks * S::kRows;
  const int warp = threadIdx.x / 32, warp_query = first_query + warp * S::kWarpRows;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int64_t first_tile = int64_t{head} * k_of_call.tiles;
  const __half* k = k_of_call.rows + first_tile * (kScaledRows * Layout::kRow);
  const __half* v = v_of_call.rows + first_tile * (kScaledRows * Layout::kRow);
  const int keys = Policy::kDense ? call.keys : visible_keys(call, min(call.queries, first_query + S::kRows));

  const auto fetch = [&](int first) {
    const int stage = first / S::kStreamed % 2;
    __half* to = stages + stage * 2 * S::kTileSize;
    copy_halves<Layout, S::kStreamed, S::kThreads>(to, k + int64_t{first} * Layout::kRow);
    copy_halves<Layout, S::kStreamed, S::kThreads>(to + S::kTileSize, v + int64_t{first} * Layout::kRow);
    if (threadIdx.x < 2) {
      const Halves& halves = threadIdx.x == 0 ? k_of_call : v_of_call;
      copy_async_4(&downs[stage][threadIdx.x], halves.down + first_tile + first / kScaledRows);
    }
  };
  if (keys > 0) fetch(0);
  typename S::Own q, dy;
  auto* staging = reinterpret_cast<float*>(shared + S::kStagingOffset + warp * S::Own::kStagingBytes);
  q.load(own_rows + warp * 2 * S::kOwnSize, staging, call.q, b, h, warp_query, call.queries, call.width);
  __syncwarp();
  dy.load(own_rows + (warp * 2 + 1) * S::kOwnSize, staging, call.dy, b, h, warp_query, call.queries, call.width);
  float log2_sum[kRowTiles][2], delta[kRowTiles][2], largest_delta = 0;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = warp_query + 16 * m + g + 8 * half;
      const int64_t at = int64_t{head} * tiles_of(call.queries) * kScaledRows + query;
      const float2 number = query < call.queries ? numbers.rows[at] : make_float2(1e30f, 0.0f);
      log2_sum[m][half] = number.x;
      delta[m][half] = number.y;
      largest_delta = fmaxf(largest_delta, fabsf(number.y));
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    largest_delta = fmaxf(largest_delta, __shfl_xor_sync(~0u, largest_delta, offset));
  }
  float dq[kRowTiles][S::kColumns][4] = {};

  for (int first = 0; first < keys; first += S::kStreamed) {
    await_copies();
    __syncthreads();  // this tile has arrived, and nobody reads the other stage any more
    if (first + S::kStreamed < keys) fetch(first + S::kStreamed);
    const int stage = first / S::kStreamed % 2;
    const __half* k_tile = stages + stage * 2 * S::kTileSize;
    const __half* v_tile = k_tile + S::kTileSize;
    const float k_down = downs[stage][0], v_down = downs[stage][1];
    const float unscale = q.down * k_down,
                unit = Policy::kDense ? fmaxf(unscale * (call.scale * kLog2E), kLeastUnit) : unscale;
    const float keep_scale = Policy::kDense ? 1.0f : call.rules.keep_scale;
    const PowerOfTwo scale = gradient_scale<S::kWidth>(dy.down, v_down, keep_scale, largest_delta);
    const float dp_unit = dy.down * v_down * scale.up;
    const float dq_factor = k_down * scale.down * RowNumbers::kUnlift;
    const bool tail = first + S::kStreamed > keys;
    float dq_sums[kRowTiles][S::kGroup][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < S::kStreamed; chunk += S::kChunk) {
      float scores[kRowTiles][kTiles][4], grads[kRowTiles][kTiles][4];
      multiply_by_depth(scores, q, k_tile + chunk * Layout::kPitch);
      multiply_by_depth(grads, dy, v_tile + chunk * Layout::kPitch);
      if (Policy::kDense && tail) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (first + chunk + 8 * n + 2 * t + e % 2 < keys) continue;
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) scores[m][n][e] = -INFINITY;
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const float row_delta[2] = {delta[m][0] * scale.up, delta[m][1] * scale.up};
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float& grad = grads[m][n][e];
            float exponent;
            if constexpr (Policy::kDense) {
              exponent = fmaf(scores[m][n][e], unit, -log2_sum[m][e / 2]);
            } else {
              const int i = warp_query + 16 * m + g + e / 2 * 8, j = first + chunk + 8 * n + 2 * t + e % 2;
              exponent = Policy::score(call, b, h, i, j, scores[m][n][e] * unit) - log2_sum[m][e / 2];
              grad *= keep_of<Policy>(call, head, i, j);
            }
            grad = exp2_approximate(exponent) * fmaf(grad, dp_unit, -row_delta[e / 2]);
          }
        }
      }
      SplitWeights operand[kTiles / 2][kRowTiles];
      split_weights(operand, grads);
      accumulate<S>(dq, dq_sums, operand, k_tile + chunk * Layout::kPitch, dq_factor);
    }
    if constexpr (!S::kGrouped) add_scaled(dq, 0, dq_sums, dq_factor);
  }

  float factor[kRowTiles][2];
  fill_with(factor, call.scale);
  store_result(call.dq, b, h, dq, factor, warp_query, call.queries, call.width);
}

}  // namespace camo::flash::halves
