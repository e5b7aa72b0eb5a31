// f32 attention backward of whole heads; f32_whole.cuh says which, f32_backward.cuh what is computed and how it is
// scaled.
#pragma once

#include "ops/attention/cuda/f32_backward.cuh"
#include "ops/attention/cuda/f32_whole.cuh"

namespace camo::flash::halves {

/// One block of nine warps. Queries go by in thirds: a warp has 16 keys, whose dk and dv stay in its registers, and
/// leaves its part of dS in shared memory; then the warps share the products of dq. No sum is shared.
struct WholeBackward : WholeHead {
  static constexpr int kWarps = 9, kThreads = 32 * kWarps, kRows = kTokens / kWarps, kThird = kTokens / 3;
  static constexpr int kGradPitch = 2 * kThird + 8;  // of [keys][queries high | queries low]
  static constexpr int kBytes = 2 * (4 * kMatrix + kTokens * kGradPitch) + kTokens * static_cast<int>(sizeof(float2));
  static_assert(kBytes <= 227 * 1024 && kRows == 16 && kThird == 48);
};

/// Gradients beyond the largest magnitude of delta; fills numbers with (log-sum-exp in base 2) - kLift and delta of a
/// warp's rows. dy is not yet split.
__device__ inline float prepare_rows(const Call<float>& call, int b, int h, const __half* dy, float2* numbers) {
  using S = WholeBackward;
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * S::kRows;
  const float* y = call.y.of(b, h);
  float largest = 0;
#pragma unroll 4
  for (int row = first; row < first + S::kRows; ++row) {
    const auto* dy_row = reinterpret_cast<const float*>(dy + row * S::kPitch);
    float delta = 0;
#pragma unroll
    for (int column = lane; column < S::kWidth; column += 32) {
      if (row < call.queries && column < call.width) delta = fmaf(y[row * call.y.row + column], dy_row[column], delta);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) delta += __shfl_xor_sync(~0u, delta, offset);
    largest = fmaxf(largest, fabsf(delta));
    if (lane == 0) {
      float log2_sum = 1e30f;  // no weight
      if (row < call.queries) {
        const int64_t at = (int64_t{b} * call.heads + h) * call.queries + row;
        log2_sum = fmaf(call.log_sum_exp[at], kLog2E, -RowNumbers::kLift);
      }
      numbers[row] = make_float2(log2_sum, delta);
    }
  }
  return largest;
}

/// p = own rows times the transpose of 48 tile rows. Tensor cores truncate sums to 24 bits at each step: the small
/// products come first.
__device__ inline void multiply_third(float (&p)[6][4], const __half* own, const __half* rows) {
  using S = WholeBackward;
#pragma unroll
  for (int round = 0; round < 2; ++round) {
#pragma unroll 1
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t a_high[4], a_low[4];
      load_left(a_high, own, S::kPitch, 16 * step);
      if (round == 0) load_left(a_low, own, S::kPitch, 16 * step + S::Layout::kLow);
#pragma unroll
      for (int n = 0; n < 6; n += 2) {
        uint32_t high[2][2], low[2][2];
        load_right_by_depth(high, rows + 8 * n * S::kPitch, S::kPitch, 16 * step);
        if (round == 0) load_right_by_depth(low, rows + 8 * n * S::kPitch, S::kPitch, 16 * step + S::Layout::kLow);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (round == 0) {
            multiply_add(p[n + i], a_low, high[i]);
            multiply_add(p[n + i], a_high, low[i]);
          } else {
            multiply_add(p[n + i], a_high, high[i]);
          }
        }
      }
    }
  }
}

__global__ void __launch_bounds__(WholeBackward::kThreads, 1)
    f32_whole_backward_kernel(const __grid_constant__ Call<float> call) {
  using S = WholeBackward;
  using Layout = S::Layout;
  extern __shared__ __align__(128) char shared[];
  __shared__ float maxima[4 * S::kWarps], delta_maxima[S::kWarps], down[4];
  auto* q = reinterpret_cast<__half*>(shared);
  __half *k = q + S::kMatrix, *v = k + S::kMatrix, *dy = v + S::kMatrix, *ds = dy + S::kMatrix;
  auto* numbers = reinterpret_cast<float2*>(ds + S::kTokens * S::kGradPitch);
  const int head = blockIdx.x, b = head / call.heads, h = head % call.heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, own = 16 * warp;

  fetch_rows<S::kRows>(dy, call.dy, call.dy.of(b, h), own, call.queries, call.width);
  fetch_rows<S::kRows>(q, call.q, call.q.of(b, h), own, call.queries, call.width);
  fetch_rows<S::kRows>(k, call.k, call.k.of(b, h), own, call.keys, call.width);
  fetch_rows<S::kRows>(v, call.v, call.v.of(b, h), own, call.keys, call.width);
  await_copies();
  __syncwarp();
  const float warp_delta = prepare_rows(call, b, h, dy, numbers);
  if (lane == 0) delta_maxima[warp] = warp_delta;
  split_matrices<S::kRows, S::kWarps, 4>(q, maxima, down, call.width);
  __syncthreads();
  const float largest_delta = warp_max(lane < S::kWarps ? delta_maxima[lane] : 0.0f);
  const PowerOfTwo scale = gradient_scale<S::kWidth>(down[3], down[2], 1.0f, largest_delta);
  const float unit = down[0] * down[1] * (call.scale * kLog2E), dp_unit = down[3] * down[2] * scale.up;

  float dk[1][S::kColumns][4] = {}, dv[1][S::kColumns][4] = {};
#pragma unroll 1
  for (int first = 0; first < S::kTokens; first += S::kThird) {
    float p[6][4] = {}, grads[6][4] = {};  // [keys, queries]
    multiply_third(p, k + own * S::kPitch, q + first * S::kPitch);
    multiply_third(grads, v + own * S::kPitch, dy + first * S::kPitch);
#pragma unroll
    for (int n = 0; n < 6; ++n) {
      const float4 number = *reinterpret_cast<const float4*>(numbers + first + 8 * n + 2 * t);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        p[n][e] = exp2_approximate(fmaf(p[n][e], unit, e % 2 ? -number.z : -number.x));
        if (own + g + e / 2 * 8 >= call.keys) p[n][e] = 0;  // dq contracts over these rows too
        grads[n][e] = p[n][e] * fmaf(grads[n][e], dp_unit, -scale.up * (e % 2 ? number.w : number.y));
      }
    }
    __syncthreads();  // nobody reads the previous third of dS any more
#pragma unroll
    for (int step = 0; step < 3; ++step) {
      const __half *q_rows = q + (first + 16 * step) * S::kPitch, *dy_rows = dy + (first + 16 * step) * S::kPitch;
      const SplitWeights weights[1] = {SplitWeights(p[2 * step], p[2 * step + 1])};
      multiply_by_rows<Layout, S::kColumns>(dv, 0, weights, dy_rows);
      const SplitWeights grad_weights[1] = {SplitWeights(grads[2 * step], grads[2 * step + 1])};
      multiply_by_rows<Layout, S::kColumns>(dk, 0, grad_weights, q_rows);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        auto* to =
            reinterpret_cast<uint32_t*>(ds + (own + g + i % 2 * 8) * S::kGradPitch + 16 * step + i / 2 * 8 + 2 * t);
        to[0] = grad_weights[0].high[i];
        to[S::kThird / 2] = grad_weights[0].low[i];
      }
    }
    __syncthreads();
    // 16 queries of the third, and 4, 4 or 2 eights of the columns.
    const int tile = warp % 3, eighth = warp / 3 * 4;
    float dq[1][4][4] = {};
#pragma unroll 1
    for (int step = 0; step < S::kTokens / 16; ++step) {
      SplitWeights weights[1];
      load_left_transposed(weights[0].high, ds + 16 * step * S::kGradPitch, S::kGradPitch, 16 * tile);
      load_left_transposed(weights[0].low, ds + 16 * step * S::kGradPitch, S::kGradPitch, 16 * tile + S::kThird);
      if (eighth < 8) multiply_by_rows<Layout, 4>(dq, eighth, weights, k + 16 * step * S::kPitch);
      else multiply_by_rows<Layout, 2>(dq, eighth, weights, k + 16 * step * S::kPitch);
    }
    if (call.dq.data) {
      Heads<float> columns = call.dq;
      columns.data += 8 * eighth;
      const float factor[1][2] = {{down[1] * scale.down * RowNumbers::kUnlift * call.scale,
                                   down[1] * scale.down * RowNumbers::kUnlift * call.scale}};
      store_result(columns, b, h, dq, factor, first + 16 * tile, call.queries,
                   min(call.width - 8 * eighth, eighth < 8 ? 32 : 16));
    }
  }

  float factor[1][2];
  if (call.dv.data) {
    fill_with(factor, down[3] * RowNumbers::kUnlift);
    store_result(call.dv, b, h, dv, factor, own, call.keys, call.width);
  }
  if (call.dk.data) {
    fill_with(factor, down[0] * scale.down * RowNumbers::kUnlift * call.scale);
    store_result(call.dk, b, h, dk, factor, own, call.keys, call.width);
  }
}

}  // namespace camo::flash::halves
