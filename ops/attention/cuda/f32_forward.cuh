// f32 attention forward: y = softmax(scale q k^T) v with running maxima, products of pairs of halves (f32_halves.cuh).
//
// Decomposition: keys and values are split once per head; a block has consecutive queries of one head, a warp 16 or 32
// of them, which it splits itself; tiles of keys and values stream through two stages of shared memory. Scores and
// weights of `chunk` keys and the results live in registers. The products of a chunk are summed apart and then added in
// f32, as tensor cores truncate when they accumulate.
// Weights are 2^(score - m + 6) for a reference m, an integer, so that changing it is exact. Where D is narrow, no
// maximum is taken: a tile whose weights turn out too large is done again with a higher m, which is rare after the
// first. Otherwise the maximum of each tile raises m when it exceeds it by 8.
// Bound by: instruction issue and exponentials up to D = 21, tensor cores beyond.
#pragma once

#include "ops/attention/cuda/f32_shapes.cuh"

namespace camo::flash::halves {

template <int kWidth_, TileShape kShape>
struct ForwardTiling {
  static constexpr int kWidth = kWidth_;
  using Keys = DepthLayout<kWidth>;
  using Values = RowsLayout<kWidth>;
  using Own = OwnHalves<kWidth, kShape.row_tiles, kShape.keep>;
  static constexpr int kRowTiles = kShape.row_tiles, kStreamed = kShape.streamed, kChunk = kShape.chunk;
  static constexpr int kThreads = 32 * kShape.warps, kBlocks = kShape.blocks;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarpRows * kShape.warps;
  static constexpr int kColumns = Values::kColumns;
  static constexpr bool kGrouped = kShape.group != 0;
  static constexpr int kGroup = kGrouped ? kShape.group : kColumns;
  static constexpr bool kWhole = kChunk == kStreamed;  // scores of a tile are known at once
  static constexpr int kKeysSize = kStreamed * Keys::kPitch, kStageSize = kKeysSize + kStreamed * Values::kPitch;
  static constexpr int kOwnSize = Own::kSharedHalves;    // halves, of a warp
  static constexpr int kStagingOffset = 2 * kStageSize;  // bytes: own rows pass through what is not the first stage
  static constexpr int kBytes =
      std::max(2 * (2 * kStageSize + kShape.warps * kOwnSize), kStagingOffset + kShape.warps * Own::kStagingBytes);
  static_assert(kStreamed % kChunk == 0 && kChunk % 16 == 0 && kColumns % kGroup == 0 && (kWhole || !kGrouped));
  static_assert(kScaledRows % kStreamed == 0);
};

inline constexpr float kLift = 6;         // weights are at most 2^kLift when m is the maximum,
inline constexpr float kSlack = 8;        // and 2^(kLift + kSlack) while it need not rise
inline constexpr float kMostSum = 32768;  // of weights in a tile, so that each of them is a half

/// Keys that some query below `end` may see.
__device__ inline int visible_keys(const Call<float>& call, int end) {
  if (!call.rules.causal) return call.keys;
  return max(0, min(call.keys, end + call.keys - call.queries));
}

template <class S, class Policy>
__global__ void __launch_bounds__(S::kThreads, Policy::kDense ? S::kBlocks : 1)
    f32_forward_kernel(const __grid_constant__ Call<float> call, const __grid_constant__ Halves keys_of_call,
                       const __grid_constant__ Halves values_of_call, int blocks) {
  using Keys = typename S::Keys;
  using Values = typename S::Values;
  constexpr int kRowTiles = S::kRowTiles, kTiles = S::kChunk / 8;
  constexpr bool kOnes = Values::kOnes && Policy::kDense;  // the last column of the result sums the weights
  extern __shared__ __align__(128) char shared[];
  __half* stages = reinterpret_cast<__half*>(shared);  // [2][keys, values]
  __half* own_rows = stages + 2 * S::kStageSize;
  __shared__ float downs[2][2];

  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int first_query = blockIdx.x % blocks * S::kRows;
  const int warp = threadIdx.x / 32, warp_query = first_query + warp * S::kWarpRows;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int keys = Policy::kDense ? call.keys : visible_keys(call, min(call.queries, first_query + S::kRows));
  const __half* k = keys_of_call.rows + int64_t{head} * keys_of_call.tiles * (kScaledRows * Keys::kRow);
  const __half* v = values_of_call.rows + int64_t{head} * values_of_call.tiles * (kScaledRows * Values::kRow);

  const auto fetch = [&](int first_key) {
    const int stage = first_key / S::kStreamed % 2;
    __half* to = stages + stage * S::kStageSize;
    copy_halves<Keys, S::kStreamed, S::kThreads>(to, k + int64_t{first_key} * Keys::kRow);
    copy_halves<Values, S::kStreamed, S::kThreads>(to + S::kKeysSize, v + int64_t{first_key} * Values::kRow);
    if (threadIdx.x < 2) {
      const Halves& halves = threadIdx.x == 0 ? keys_of_call : values_of_call;
      copy_async_4(&downs[stage][threadIdx.x], halves.down + head * halves.tiles + first_key / kScaledRows);
    }
  };
  if (keys > 0) fetch(0);
  typename S::Own own;
  auto* staging = reinterpret_cast<float*>(shared + S::kStagingOffset + warp * S::Own::kStagingBytes);
  own.load(own_rows + warp * S::kOwnSize, staging, call.q, b, h, warp_query, call.queries, call.width);

  float result[kRowTiles][S::kColumns][4] = {};
  float reference[kRowTiles][2], total[kRowTiles][2] = {};  // m and the sum of weights of each row
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) reference[m][0] = reference[m][1] = -INFINITY;

  for (int first_key = 0; first_key < keys; first_key += S::kStreamed) {
    await_copies();
    __syncthreads();  // this tile has arrived, and nobody reads the other stage any more
    if (first_key + S::kStreamed < keys) fetch(first_key + S::kStreamed);
    const int stage = first_key / S::kStreamed % 2;
    const __half* key_tile = stages + stage * S::kStageSize;
    const __half* value_tile = key_tile + S::kKeysSize;
    const float unscale = own.down * downs[stage][0], value_down = downs[stage][1];
    // Scores become exponents of 2 by this factor; rules apply it themselves.
    const float unit = Policy::kDense ? fmaxf(unscale * (call.scale * kLog2E), kLeastUnit) : 1.0f;

    /// Exponents of a chunk, before `unit`; -infinity where hidden.
    const auto score = [&](float(&scores)[kRowTiles][kTiles][4], int chunk) {
      multiply_by_depth(scores, own, key_tile + chunk * Keys::kPitch);
      const int first = first_key + chunk + 2 * t;
      if (Policy::kDense && first_key + S::kStreamed <= keys) return;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float& x = scores[m][n][e];
            const int j = first + 8 * n + e % 2;
            if constexpr (Policy::kDense) {
              if (j >= keys) x = -INFINITY;
            } else {
              x = Policy::score(call, b, h, warp_query + 16 * m + g + e / 2 * 8, j, x * unscale);
            }
          }
        }
      }
    };
    const auto raise = [&](const float(&highest)[kRowTiles][2]) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float higher = fmaxf(reference[m][half], ceilf(max_of_row(highest[m][half]) * unit));
          const float factor = higher == -INFINITY ? 1.0f : exp2_approximate(reference[m][half] - higher);
          reference[m][half] = higher;
          total[m][half] *= factor;
#pragma unroll
          for (int w = 0; w < S::kColumns; ++w) {
            result[m][w][2 * half] *= factor;
            result[m][w][2 * half + 1] *= factor;
          }
        }
      }
    };
    const auto highest_of = [&](float(&highest)[kRowTiles][2], const float(&scores)[kRowTiles][kTiles][4]) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) highest[m][e / 2] = fmaxf(highest[m][e / 2], scores[m][n][e]);
        }
      }
    };

    // Where no maximum is known, a tile is done again after its maximum was taken; the first one takes it at once.
    // So does one with rows that have seen no key yet, as their first tiles are hidden.
    bool settle = !S::kWhole && first_key == 0;
    if constexpr (!S::kWhole && !Policy::kDense) {
      bool is_blind = false;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          is_blind |= reference[m][half] == -INFINITY && warp_query + 16 * m + g + 8 * half < call.queries;
        }
      }
      settle = settle || __any_sync(~0u, is_blind);
    }
    for (;;) {
      if constexpr (!S::kWhole) {
        if (settle) {
          float highest[kRowTiles][2];
          fill_with(highest, -INFINITY);
#pragma unroll 1
          for (int chunk = 0; chunk < S::kStreamed; chunk += S::kChunk) {
            float scores[kRowTiles][kTiles][4];
            score(scores, chunk);
            highest_of(highest, scores);
          }
          raise(highest);
        }
      }
      float sums[kRowTiles][S::kGroup][4] = {};
      float part[kRowTiles][2] = {};  // of the sum of weights
#pragma unroll
      for (int chunk = 0; chunk < S::kStreamed; chunk += S::kChunk) {
        float scores[kRowTiles][kTiles][4];
        score(scores, chunk);
        if constexpr (S::kWhole) {
          float highest[kRowTiles][2];
          fill_with(highest, -INFINITY);
          highest_of(highest, scores);
          bool exceeds = false;
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) exceeds |= highest[m][half] * unit > reference[m][half] + kSlack;
          }
          if (__any_sync(~0u, exceeds)) raise(highest);
        }
        SplitWeights weights[S::kChunk / 16][kRowTiles];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float shift = reference[m][half] == -INFINITY ? 0.0f : reference[m][half] - kLift;
#pragma unroll
            for (int n = 0; n < kTiles; ++n) {
#pragma unroll
              for (int e = 2 * half; e < 2 * half + 2; ++e) {
                float& x = scores[m][n][e];
                x = exp2_approximate(fmaf(x, unit, -shift));
                if constexpr (!kOnes) part[m][half] += x;
                if constexpr (!Policy::kDense) {
                  const int i = warp_query + 16 * m + g + 8 * half, j = first_key + chunk + 8 * n + 2 * t + e % 2;
                  if (call.rules.dropout > 0 && keep_of<Policy>(call, head, i, j) == 0) x = 0;
                }
              }
            }
          }
#pragma unroll
          for (int n = 0; n < kTiles; n += 2) weights[n / 2][m] = SplitWeights(scores[m][n], scores[m][n + 1]);
        }
#pragma unroll
        for (int first = 0; first < S::kColumns; first += S::kGroup) {
          float chunk_sums[kRowTiles][S::kGroup][4] = {};
#pragma unroll
          for (int step = 0; step < S::kChunk / 16; ++step) {
            const __half* rows = value_tile + (chunk + 16 * step) * Values::kPitch;
            multiply_by_rows<Values, S::kGroup>(chunk_sums, first, weights[step], rows);
          }
          if constexpr (S::kGrouped) add_scaled(result, first, chunk_sums, value_down);
          else add_scaled(sums, 0, chunk_sums, 1.0f);
        }
      }
      if constexpr (kOnes) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          part[m][0] = t == 3 ? sums[m][S::kColumns - 1][1] : 0.0f;
          part[m][1] = t == 3 ? sums[m][S::kColumns - 1][3] : 0.0f;
        }
      }
      if constexpr (!S::kWhole) {
        bool fits = true;
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) fits &= part[m][0] <= kMostSum && part[m][1] <= kMostSum;
        if (!settle && __any_sync(~0u, !fits)) {
          settle = true;
          continue;
        }
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        total[m][0] += part[m][0];
        total[m][1] += part[m][1];
      }
      if constexpr (!S::kGrouped) add_scaled(result, 0, sums, value_down);
      break;
    }
  }

  float inverse[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_of_row(total[m][half]);
      inverse[m][half] = sum == 0 ? 0.0f : (Policy::kDense ? 1.0f : call.rules.keep_scale) / sum;
      const int query = warp_query + 16 * m + g + 8 * half;
      if (t == 0 && query < call.queries) {
        call.log_sum_exp[static_cast<int64_t>(head) * call.queries + query] =
            sum == 0 ? -INFINITY : fmaf(reference[m][half] - kLift, kLn2, logf(sum));
      }
    }
  }
  store_result(call.out, b, h, result, inverse, warp_query, call.queries, call.width);
}

}  // namespace camo::flash::halves
