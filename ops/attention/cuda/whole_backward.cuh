// Attention backward of heads that fit one block whole (N <= 144, D <= 80) in 16 bits without rules. One kernel.
//
//   P = exp(scale q k^T - L),  dP = dy v^T,  dS = P * (dP - delta),  dv = P^T dy,  dk = scale dS^T q,  dq = scale dS k
//
// Decomposition: a block has one head, all of it in shared memory. First each warp owns 16 keys, goes through all
// queries and leaves its rows of dS^T in shared memory; then it owns 16 queries and multiplies dS by k. No sum is
// shared by warps.
// Layout: windows, see window.cuh. dS^T: [keys][queries], pitch an odd number of 16-byte pieces.
// Bound by: the latency of a single wave of blocks: launch, loads, two rounds of products.
#pragma once

#include "ops/attention/cuda/narrow_backward.cuh"

namespace camo::flash {

template <class T_, int kWidth_, int kWarps_>
struct WholeBackward {
  using T = T_;
  static constexpr int kWidth = kWidth_, kWarps = kWarps_, kThreads = kLanes * kWarps, kRows = 16 * kWarps;
  static constexpr int kSteps = kWidth / 16, kColumns = kWidth / 8;
  static constexpr int kPitch = window_pitch(kWidth), kTileSize = kRows * kPitch;
  static constexpr int kGradPitch = window_pitch(kRows);
  static constexpr int kBytes = (4 * kTileSize + kRows * kGradPitch) * 2 + kRows * 8;
  static_assert(kWidth % 16 == 0 && kBytes <= 227 * 1024);
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    flash_whole_backward_kernel(const __grid_constant__ Call<typename S::T> call) {
  using T = typename S::T;
  constexpr int kColumns = S::kColumns, kSteps = S::kSteps, kPitch = S::kPitch;
  extern __shared__ __align__(128) char shared[];
  T* queries = reinterpret_cast<T*>(shared);  // [kRows][kPitch] each
  T* out_grads = queries + S::kTileSize;
  T* keys = out_grads + S::kTileSize;
  T* values = keys + S::kTileSize;
  T* grads = values + S::kTileSize;                                               // [keys][kGradPitch]
  float2* numbers = reinterpret_cast<float2*>(grads + S::kRows * S::kGradPitch);  // -L in base 2, -delta

  const int head = blockIdx.x, b = head / call.heads, h = head % call.heads;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, g = lane / 4, t = lane % 4, own = 16 * warp;
  const WindowCopy<T, S::kWidth, S::kThreads> copy(call.q.of(b, h), call.width);
  const int begin = window_offset(call.q.of(b, h)), end = begin + call.width;
  copy.template rows<S::kRows>(out_grads, window_start(call.dy.of(b, h)), call.dy.row, 0, call.queries);
  commit_copies();
  copy.template rows<S::kRows>(queries, window_start(call.q.of(b, h)), call.q.row, 0, call.queries);
  copy.template rows<S::kRows>(keys, window_start(call.k.of(b, h)), call.k.row, 0, call.keys);
  copy.template rows<S::kRows>(values, window_start(call.v.of(b, h)), call.v.row, 0, call.keys);
  commit_copies();
  // y is read once: two lanes a row, pieces in turn.
  const int row = own + lane / 2;
  uint4 y[(kColumns + 1) / 2];
  float log_sum = INFINITY;
  if (row < call.queries) {
    const T* from = window_start(call.y.of(b, h)) + row * call.y.row;
    const bool last = head + 1 == call.batch * call.heads && row + 1 == call.queries;  // behind it is no memory
#pragma unroll
    for (int i = 0; i < (kColumns + 1) / 2; ++i) {
      const int column = 16 * i + lane % 2 * 8;
      y[i] = column < end ? load_piece(from + column, end - column, !last) : make_uint4(0, 0, 0, 0);
    }
    log_sum = call.log_sum_exp[static_cast<int64_t>(head) * call.queries + row];
  }
  wait_for_copies<1>();
  copy.template clear_edges<S::kRows>(out_grads);
  __syncthreads();
  float delta = 0;
  if (row < call.queries) {
#pragma unroll
    for (int i = 0; i < (kColumns + 1) / 2; ++i) {
      const int column = 16 * i + lane % 2 * 8;
      if (column >= S::kWidth) continue;
      const uint4 dy = *reinterpret_cast<const uint4*>(out_grads + row * kPitch + column);
      delta += dot_piece<T>(y[i], dy, begin - column, end - column);
    }
  }
  delta += __shfl_xor_sync(~0u, delta, 1);
  if (lane % 2 == 0) numbers[row] = make_float2(-log_sum * kLog2E, -delta);
  wait_for_copies<0>();
  copy.template clear_edges<S::kRows>(queries);
  copy.template clear_edges<S::kRows>(keys);
  copy.template clear_edges<S::kRows>(values);
  __syncthreads();

  const int by_row = lane % 16 * kPitch + lane / 16 * 8;  // left operands, and right ones by rows
  const int by_depth = (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8;
  const float unit = call.scale * kLog2E;
  const int tiles = (call.queries + 15) / 16;
  {
    uint32_t k[kSteps][4];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) load_matrices(k[i], shared_address(keys + own * kPitch + by_row + 16 * i));
    const uint32_t v_at = shared_address(values + own * kPitch + by_row);
    // Scores and dP - delta of a tile of queries.
    const auto multiply = [&](int tile, float(&p)[2][4], float(&grad)[2][4]) {
      const uint32_t q_at = shared_address(queries + tile * 16 * kPitch + by_depth), dy_at = q_at + 2 * S::kTileSize;
      const float4 low = reinterpret_cast<const float4*>(numbers)[tile * 8 + t];
      const float4 high = reinterpret_cast<const float4*>(numbers)[tile * 8 + 4 + t];
      const float deltas[2][4] = {{low.y, low.w, low.y, low.w}, {high.y, high.w, high.y, high.w}};
      constexpr float kZeros[4] = {};
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        uint32_t x[4], y2[4], v[4];
        load_matrices(x, q_at + 32 * i);
        load_matrices(y2, dy_at + 32 * i);
        load_matrices(v, v_at + 32 * i);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          if (i == 0) {
            multiply_16<T>(p[n], k[i], x[2 * n], x[2 * n + 1], kZeros);
            multiply_16<T>(grad[n], v, y2[2 * n], y2[2 * n + 1], deltas[n]);
          } else {
            multiply_16<T>(p[n], k[i], x[2 * n], x[2 * n + 1]);
            multiply_16<T>(grad[n], v, y2[2 * n], y2[2 * n + 1]);
          }
        }
      }
    };
    float dk[kColumns][4] = {}, dv[kColumns][4] = {};
    float p[2][4], grad[2][4];
    int tile = warp < tiles ? warp : warp % tiles;  // warps start at different tiles: other banks
    multiply(tile, p, grad);
#pragma unroll 1
    for (int s = 0; s < tiles; ++s) {
      const T *q_tile = queries + tile * 16 * kPitch, *dy_tile = out_grads + tile * 16 * kPitch;
      const float4 low = reinterpret_cast<const float4*>(numbers)[tile * 8 + t];
      const float4 high = reinterpret_cast<const float4*>(numbers)[tile * 8 + 4 + t];
      const float log2_sums[2][2] = {{low.x, low.z}, {high.x, high.z}};
      const int next = tile + 1 < tiles ? tile + 1 : 0;
      float next_p[2][4], next_grad[2][4];  // in the tensor cores meanwhile
      multiply(next, next_p, next_grad);
      uint32_t weights[4], ds[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float w[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          w[e] = exp2_special(fmaf(p[i / 2][i % 2 * 2 + e], unit, log2_sums[i / 2][e]));
          if (own + g + i % 2 * 8 >= call.keys) w[e] = 0;
        }
        weights[i] = Mma<T>::pack(w[0], w[1]);
        ds[i] = Mma<T>::pack(w[0] * grad[i / 2][i % 2 * 2], w[1] * grad[i / 2][i % 2 * 2 + 1]);
        *reinterpret_cast<uint32_t*>(grads + (own + g + i % 2 * 8) * S::kGradPitch + 16 * tile + i / 2 * 8 + 2 * t) =
            ds[i];
      }
#pragma unroll
      for (int w = 0; w < kColumns; w += 2) {
        uint32_t x[4], y2[4];
        load_transposed(y2, shared_address(dy_tile + by_row + 8 * w));
        load_transposed(x, shared_address(q_tile + by_row + 8 * w));
        multiply_16<T>(dv[w], weights, y2[0], y2[1]);
        multiply_16<T>(dv[w + 1], weights, y2[2], y2[3]);
        multiply_16<T>(dk[w], ds, x[0], x[1]);
        multiply_16<T>(dk[w + 1], ds, x[2], x[3]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        p[i / 4][i % 4] = next_p[i / 4][i % 4];
        grad[i / 4][i % 4] = next_grad[i / 4][i % 4];
      }
      tile = next;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = own + g + 8 * half;
      if (key >= call.keys) continue;
      T* to_k = call.dk.of(b, h) + key * call.dk.row;
      T* to_v = call.dv.of(b, h) + key * call.dv.row;
#pragma unroll
      for (int w = 0; w < kColumns; ++w) {
        const float *x = dk[w] + 2 * half, *y2 = dv[w] + 2 * half;
        if (call.dk.data) store_pair(to_k, 8 * w + 2 * t, begin, end, x[0] * call.scale, x[1] * call.scale);
        if (call.dv.data) store_pair(to_v, 8 * w + 2 * t, begin, end, y2[0], y2[1]);
      }
    }
  }
  if (!call.dq.data) return;
  __syncthreads();  // dS is complete
  if (own >= call.queries) return;
  float dq[kColumns][4] = {};
  const int key_tiles = (call.keys + 15) / 16;
#pragma unroll 3
  for (int tile = 0; tile < key_tiles; ++tile) {
    uint32_t ds[4];  // [queries, keys], transposed while it is read
    load_transposed(
        ds, shared_address(grads + (16 * tile + lane / 16 * 8 + lane % 8) * S::kGradPitch + own + lane / 8 % 2 * 8));
#pragma unroll
    for (int w = 0; w < kColumns; w += 2) {
      uint32_t x[4];
      load_transposed(x, shared_address(keys + tile * 16 * kPitch + by_row + 8 * w));
      multiply_16<T>(dq[w], ds, x[0], x[1]);
      multiply_16<T>(dq[w + 1], ds, x[2], x[3]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = own + g + 8 * half;
    if (query >= call.queries) continue;
    T* to = call.dq.of(b, h) + query * call.dq.row;
#pragma unroll
    for (int w = 0; w < kColumns; ++w) {
      store_pair(to, 8 * w + 2 * t, begin, end, dq[w][2 * half] * call.scale, dq[w][2 * half + 1] * call.scale);
    }
  }
}

}  // namespace camo::flash
