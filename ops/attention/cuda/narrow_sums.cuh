// The tiles of the backward pass of narrow heads, and how its warps add up dk and dv.
#pragma once

#include "ops/attention/cuda/narrow_numbers.cuh"
#include "ops/attention/cuda/narrow_ptx.cuh"
#include "ops/attention/cuda/warp16.cuh"

namespace camo::flash {

template <class T_, int kWidth_, int kKeyTiles_, int kWarps_, int kSumRows_>
struct NarrowBackward {
  using T = T_;
  static constexpr int kWidth = kWidth_, kKeyTiles = kKeyTiles_, kWarps = kWarps_;
  static constexpr int kRows = 16 * kWarps;   // of a round
  static constexpr int kSumRows = kSumRows_;  // of a summand of dk and dv, at most
  static constexpr int kThreads = kLanes * kWarps, kGroupKeys = 16 * kKeyTiles * kWarps;
  static constexpr int kPitch = window_pitch(kWidth);
  static constexpr int kSteps = kWidth / 16, kColumns = kWidth / 8;
  static constexpr bool kHalfStep = kWidth % 16 != 0;
  static constexpr int kDepth = kSteps * 4 + (kHalfStep ? 2 : 0);  // registers of a left operand
  static constexpr int kParts = 3;                                 // of delta: three 16-bit numbers add up to an f32
  static constexpr int kTileBytes = kRows * kPitch * 2;
  static constexpr int kSumsAt = 2 * kTileBytes, kDeltasAt = kSumsAt + kRows * 4;
  static constexpr int kStageBytes = kDeltasAt + kRows * kWidth / 8 * 4;  // queries, dy, -L, a delta for each piece
  static constexpr int kFixedBytes = 2 * kStageBytes + 128;               // beside dq
  static_assert(kStageBytes % 128 == 0 && kWarps > 4 && kSumRows % kRows == 0);
  static constexpr int kPairBytes = 16 * 8;  // of one pair of columns of a tile of 16 queries
};

/// Pairs of columns, of the window's, that a row touches.
struct PairSpan {
  int first, count;
  __host__ __device__ PairSpan(int offset, int width)
      : first(offset / 2), count((offset + width + 1) / 2 - offset / 2) {}
};

/// Adds a warp's dk and dv of the queries since the last time to the sums of those before, and sets them to zero; the
/// last queries' store the total instead. `end`: this is the last round of the block. Everything but the sums is
/// computed anew, since nothing that only this needs may take registers from the products.
template <class S>
__device__ void add_key_sums(const Call<typename S::T>& call, const NarrowPlan& plan, int group, int round, bool end,
                             float (&dk)[S::kKeyTiles][S::kColumns][4], float (&dv)[S::kKeyTiles][S::kColumns][4]) {
  using T = typename S::T;
  constexpr int kColumns = S::kColumns, kKeyTiles = S::kKeyTiles, kPairSums = S::kPairBytes / 4;
  const int block = static_cast<int>(keep(blockIdx.x)), thread = static_cast<int>(keep(threadIdx.x));
  const int heads = call.batch * call.heads, head = block % heads, range = block / heads;
  const int b = head / call.heads, h = head % call.heads;
  const int warp = thread / kLanes, lane = thread % kLanes, g = lane / 4, t = lane % 4;
  const int begin = window_offset(call.q.of(b, h));
  const PairSpan span(begin, call.width);
  const int first_pair = t - span.first, groups = (call.keys + S::kGroupKeys - 1) / S::kGroupKeys;
  const auto is_part = [&](int w) { return first_pair + 4 * w >= 0 && first_pair + 4 * w < span.count; };
  const int summand = range * plan.range_sums + round / plan.sum_rounds;
  const bool last = summand + 1 == plan.sums_of_head;
  if (plan.sums_of_head > 1) {
    const int64_t part = (static_cast<int64_t>(head) * groups + group) * S::kWarps + warp;
    const int64_t size = int64_t{kKeyTiles} * span.count * kPairSums;
    float* dk_sums = plan.sums + part * size + first_pair * kPairSums + 4 * g;
    float* dv_sums = dk_sums + static_cast<int64_t>(heads) * groups * S::kWarps * size;
    const auto at = [&](int m, int w) { return (m * span.count + 4 * w) * kPairSums; };
    if (range > 0 && round < plan.sum_rounds) {
      if (lane == 0) wait_turn(plan.turns + part, range);
      __syncwarp();
    }
    if (last) {
      float dk_before[kKeyTiles][kColumns][4], dv_before[kKeyTiles][kColumns][4];
#pragma unroll
      for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
        for (int w = 0; w < kColumns; ++w) {
          load_parts(dk_before[m][w], dk_sums + at(m, w), is_part(w));
          load_parts(dv_before[m][w], dv_sums + at(m, w), is_part(w));
        }
      }
#pragma unroll
      for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
        for (int w = 0; w < kColumns; ++w) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            dk[m][w][e] += dk_before[m][w][e];
            dv[m][w][e] += dv_before[m][w][e];
          }
        }
      }
    } else {
#pragma unroll
      for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
        for (int w = 0; w < kColumns; ++w) {
          if (summand == 0) {
            store_parts(dk_sums + at(m, w), is_part(w), dk[m][w]);
            store_parts(dv_sums + at(m, w), is_part(w), dv[m][w]);
          } else {
            add_parts(dk_sums + at(m, w), is_part(w), dk[m][w]);
            add_parts(dv_sums + at(m, w), is_part(w), dv[m][w]);
          }
#pragma unroll
          for (int e = 0; e < 4; ++e) dk[m][w][e] = dv[m][w][e] = 0;
        }
      }
      __syncwarp();
      if (end && lane == 0) give_turn(plan.turns + part, range + 1);
      return;
    }
  }
  const int first_key = (group * S::kWarps + warp) * 16 * kKeyTiles;
#pragma unroll
  for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = first_key + 16 * m + g + 8 * half;
      if (key >= call.keys) continue;
#pragma unroll
      for (int w = 0; w < kColumns; ++w) {
        const float *x = dk[m][w] + 2 * half, *y = dv[m][w] + 2 * half;
        const int column = 8 * w + 2 * t;
        if (call.dk.data) {
          T* to = call.dk.of(b, h) + key * call.dk.row;
          store_pair(to, column, begin, begin + call.width, x[0] * call.scale, x[1] * call.scale);
        }
        if (call.dv.data) {
          store_pair(call.dv.of(b, h) + key * call.dv.row, column, begin, begin + call.width, y[0], y[1]);
        }
      }
    }
  }
}

}  // namespace camo::flash
