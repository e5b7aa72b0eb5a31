// Attention backward: scores are computed again from q, k and the log-sum-exp L of each query.
//
//   P = exp(scale q k^T - L),  dP = keep * (dy v^T),  dS = P * (dP - delta),  delta = rowsum(dy * y)
//   dv = (keep * P)^T dy,  dk = scale dS^T q,  dq = scale dS k
//
// Decomposition: two passes, each sum in the registers of one warp and so in one fixed order, without atomics. In the
// first a warp owns 16 or 32 keys and queries stream past (the scores are made transposed); in the second it owns
// queries and keys stream past. The price of determinism is two of seven products.
// Bound by: tensor cores; exponentials for D about 16 in 16 bits.
#pragma once

#include "ops/attention/cuda/forward.cuh"

namespace camo::flash {

/// delta = rowsum(dy * y): eight lanes a row.
template <class T>
__global__ void __launch_bounds__(cuda::kBlock) flash_delta_kernel(const __grid_constant__ Call<T> call) {
  const int64_t rows = static_cast<int64_t>(call.batch) * call.queries * call.heads;
  const int64_t row = (int64_t{blockIdx.x} * cuda::kBlock + threadIdx.x) / 8;
  const int lane = threadIdx.x % 8;
  float sum = 0;
  int64_t b = 0, i = 0, h = 0;
  if (row < rows) {
    b = row / (static_cast<int64_t>(call.queries) * call.heads);
    i = row / call.heads % call.queries;
    h = row % call.heads;
    const T* y = call.y.of(static_cast<int>(b), static_cast<int>(h)) + i * call.y.row;
    const T* dy = call.dy.of(static_cast<int>(b), static_cast<int>(h)) + i * call.dy.row;
    for (int d = lane; d < call.width; d += 8) sum = fmaf(static_cast<float>(y[d]), static_cast<float>(dy[d]), sum);
  }
  for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (row < rows && lane == 0) call.delta[(b * call.heads + h) * call.queries + i] = sum;
}

/// exp(score - L) for one product of a query and a key; 0 where hidden.
template <class T, class Policy>
__device__ float weight(const Call<T>& call, int b, int h, int i, int j, float product, float log2_sum) {
  if constexpr (Policy::kDense) return exp2_fast(fmaf(product, call.scale * kLog2E, -log2_sum));
  else return exp2_fast(Policy::score(call, b, h, i, j, product) - log2_sum);
}
/// L in base 2; 0 for queries that see nothing, whose scores are -infinity.
__device__ inline float log2_sum_of(float log_sum_exp) {
  return log_sum_exp == -INFINITY ? 0.0f : log_sum_exp * kLog2E;
}

template <class T, int kWidth, class Policy>
__global__ void __launch_bounds__(BackwardTiling<T, kWidth>::kThreads,
                                  Policy::kDense ? BackwardTiling<T, kWidth>::kBlocks : 1)
    flash_backward_keys_kernel(const __grid_constant__ Call<T> call, int blocks) {
  using S = BackwardTiling<T, kWidth>;
  constexpr int kRowTiles = S::kRowTiles, kTiles = S::kTiles;
  extern __shared__ __align__(16) char shared[];
  T* own_keys = reinterpret_cast<T*>(shared);
  T* own_values = own_keys + S::kOwnSize;
  T* stages = own_values + S::kOwnSize;                                  // [2][queries, dy]
  float* numbers = reinterpret_cast<float*>(stages + 4 * S::kTileSize);  // [2][L, delta][kStreamed]

  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int first_key = blockIdx.x % blocks * S::kRows;
  const int warp_key = first_key + threadIdx.x / 32 * S::kWarpRows;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const T *q = call.q.of(b, h), *dy = call.dy.of(b, h);
  const float* log_sum_exp = call.log_sum_exp + static_cast<int64_t>(head) * call.queries;
  const float* delta = call.delta + static_cast<int64_t>(head) * call.queries;
  int begin = 0;  // the first query that sees a key of this block, rounded down to a tile
  if (!Policy::kDense && call.rules.causal) begin = max(0, first_key - call.keys + call.queries);
  begin = begin / S::kStreamed * S::kStreamed;

  clear_shared<S::kThreads>(shared, S::kBackwardBytes);
  const auto fetch = [&](int first) {
    const int stage = first / S::kStreamed % 2;
    T* tile = stages + stage * 2 * S::kTileSize;
    copy_rows<S, S::kStreamed>(tile, call.q, q, first, call.queries, call.width);
    copy_rows<S, S::kStreamed>(tile + S::kTileSize, call.dy, dy, first, call.queries, call.width);
    float* to = numbers + stage * 2 * S::kStreamed;
    for (int i = threadIdx.x; i < S::kStreamed; i += S::kThreads) {
      if (first + i < call.queries) {
        copy_async<4>(to + i, log_sum_exp + first + i);
        copy_async<4>(to + S::kStreamed + i, delta + first + i);
      } else {
        to[i] = to[S::kStreamed + i] = 0;
      }
    }
  };
  copy_rows<S, S::kRows>(own_keys, call.k, call.k.of(b, h), first_key, call.keys, call.width);
  copy_rows<S, S::kRows>(own_values, call.v, call.v.of(b, h), first_key, call.keys, call.width);
  if (begin < call.queries) fetch(begin);
  wait_for_copies();
  __syncthreads();
  const int warp_offset = threadIdx.x / 32 * S::kWarpRows * S::kPitch;
  const OwnRows<T, kWidth, kRowTiles, S::kKeep> k(own_keys + warp_offset), v(own_values + warp_offset);
  float dk[kRowTiles][S::kColumns][4] = {}, dv[kRowTiles][S::kColumns][4] = {};

  for (int first = begin; first < call.queries; first += S::kStreamed) {
    wait_for_copies();
    __syncthreads();  // this tile has arrived, and nobody reads the other stage any more
    if (first + S::kStreamed < call.queries) fetch(first + S::kStreamed);
    const int stage = first / S::kStreamed % 2;
    const T* tile = stages + stage * 2 * S::kTileSize;
    const float* number = numbers + stage * 2 * S::kStreamed;
    float weights[kRowTiles][kTiles][4], grads[kRowTiles][kTiles][4];
    multiply_by_depth<T, kWidth>(weights, k, tile);  // [keys, queries]
    multiply_by_depth<T, kWidth>(grads, v, tile + S::kTileSize);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * n + 2 * t + e, i = first + column;
        const float log2_sum = log2_sum_of(number[column]), row_delta = number[S::kStreamed + column];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int j = warp_key + 16 * m + g + 8 * half;
            float& p = weights[m][n][2 * half + e];
            float& grad = grads[m][n][2 * half + e];
            p = weight<T, Policy>(call, b, h, i, j, p, log2_sum);
            float keep = 1;
            if constexpr (!Policy::kDense) keep = Policy::keep(call, head, i, j);
            grad = p * (grad * keep - row_delta);
            p *= keep;
          }
        }
      }
    }
    add_multiplied_by_rows<T, kWidth>(dv, weights, tile + S::kTileSize);
    add_multiplied_by_rows<T, kWidth>(dk, grads, tile);
  }

  float factor[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) factor[m][0] = factor[m][1] = 1;
  if (call.dv.data) {
    store_rows<T, kWidth, kRowTiles>(call.dv, b, h, dv, factor, warp_key, call.keys, call.width);
  }
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) factor[m][0] = factor[m][1] = call.scale;
  if (call.dk.data) {
    store_rows<T, kWidth, kRowTiles>(call.dk, b, h, dk, factor, warp_key, call.keys, call.width);
  }
}

template <class T, int kWidth, class Policy>
__global__ void __launch_bounds__(BackwardTiling<T, kWidth>::kThreads,
                                  Policy::kDense ? BackwardTiling<T, kWidth>::kBlocks : 1)
    flash_backward_queries_kernel(const __grid_constant__ Call<T> call, int blocks) {
  using S = BackwardTiling<T, kWidth>;
  constexpr int kRowTiles = S::kRowTiles, kTiles = S::kTiles;
  extern __shared__ __align__(16) char shared[];
  T* own_queries = reinterpret_cast<T*>(shared);
  T* own_dy = own_queries + S::kOwnSize;
  T* stages = own_dy + S::kOwnSize;  // [2][keys, values]

  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int first_query = blockIdx.x % blocks * S::kRows;
  const int warp_query = first_query + threadIdx.x / 32 * S::kWarpRows;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const T *keys_of_head = call.k.of(b, h), *values_of_head = call.v.of(b, h);
  const int keys = Policy::kDense ? call.keys : visible_keys(call, min(call.queries, first_query + S::kRows));

  clear_shared<S::kThreads>(shared, S::kBackwardBytes);
  const auto fetch = [&](int first) {
    T* tile = stages + first / S::kStreamed % 2 * 2 * S::kTileSize;
    copy_rows<S, S::kStreamed>(tile, call.k, keys_of_head, first, keys, call.width);
    copy_rows<S, S::kStreamed>(tile + S::kTileSize, call.v, values_of_head, first, keys, call.width);
  };
  copy_rows<S, S::kRows>(own_queries, call.q, call.q.of(b, h), first_query, call.queries, call.width);
  copy_rows<S, S::kRows>(own_dy, call.dy, call.dy.of(b, h), first_query, call.queries, call.width);
  if (keys > 0) fetch(0);
  float log2_sum[kRowTiles][2], delta[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = warp_query + 16 * m + g + 8 * half;
      const bool inside = query < call.queries;
      const int64_t at = static_cast<int64_t>(head) * call.queries + (inside ? query : 0);
      log2_sum[m][half] = inside ? log2_sum_of(call.log_sum_exp[at]) : 0.0f;
      delta[m][half] = inside ? call.delta[at] : 0.0f;
    }
  }
  wait_for_copies();
  __syncthreads();
  const int warp_offset = threadIdx.x / 32 * S::kWarpRows * S::kPitch;
  const OwnRows<T, kWidth, kRowTiles, S::kKeep> q(own_queries + warp_offset), dy(own_dy + warp_offset);
  float dq[kRowTiles][S::kColumns][4] = {};

  for (int first = 0; first < keys; first += S::kStreamed) {
    wait_for_copies();
    __syncthreads();  // this tile has arrived, and nobody reads the other stage any more
    if (first + S::kStreamed < keys) fetch(first + S::kStreamed);
    const T* tile = stages + first / S::kStreamed % 2 * 2 * S::kTileSize;
    float scores[kRowTiles][kTiles][4], grads[kRowTiles][kTiles][4];
    multiply_by_depth<T, kWidth>(scores, q, tile);
    multiply_by_depth<T, kWidth>(grads, dy, tile + S::kTileSize);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int i = warp_query + 16 * m + g + e / 2 * 8, j = first + 8 * n + 2 * t + e % 2;
          float p = weight<T, Policy>(call, b, h, i, j, scores[m][n][e], log2_sum[m][e / 2]);
          if (Policy::kDense && j >= keys) p = 0;
          float grad = grads[m][n][e];
          if constexpr (!Policy::kDense) grad *= Policy::keep(call, head, i, j);
          grads[m][n][e] = p * (grad - delta[m][e / 2]);
        }
      }
    }
    add_multiplied_by_rows<T, kWidth>(dq, grads, tile);
  }

  float factor[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) factor[m][0] = factor[m][1] = call.scale;
  store_rows<T, kWidth, kRowTiles>(call.dq, b, h, dq, factor, warp_query, call.queries, call.width);
}

template <class T, class Policy>
void launch_backward(const Call<T>& call, Device device) {
  dispatch_width(call.width, [&]<int kWidth>() {
    using S = BackwardTiling<T, kWidth>;
    cudaStream_t stream = cuda::use(device);
    const auto launch = [&](auto kernel, int rows, const char* name) {
      const int blocks = (rows + S::kRows - 1) / S::kRows;
      allow_shared(kernel, S::kBackwardBytes);
      kernel<<<static_cast<unsigned>(blocks * call.batch * call.heads), S::kThreads, S::kBackwardBytes, stream>>>(
          call, blocks);
      CAMO_LAUNCHED(name);
    };
    if (call.dk.data || call.dv.data) {
      launch(flash_backward_keys_kernel<T, kWidth, Policy>, call.keys, "flash_backward_keys_kernel");
    }
    if (call.dq.data) {
      launch(flash_backward_queries_kernel<T, kWidth, Policy>, call.queries, "flash_backward_queries_kernel");
    }
  });
}

template <class T>
void backward(const Call<T>& call, Device device) {
  const int64_t rows = static_cast<int64_t>(call.batch) * call.queries * call.heads;
  cudaStream_t stream = cuda::use(device);
  flash_delta_kernel<T>
      <<<static_cast<unsigned>((rows * 8 + cuda::kBlock - 1) / cuda::kBlock), cuda::kBlock, 0, stream>>>(call);
  CAMO_LAUNCHED("flash_delta_kernel");
  if (is_dense(call)) launch_backward<T, Dense>(call, device);
  else launch_backward<T, Ruled<T>>(call, device);
}

}  // namespace camo::flash
