// Attention forward: y = softmax(scale q k^T) v with the running maximum and sum of each query (Milakov and Gimelshein,
// 2018), so that no score reaches memory; the log-sum-exp of each query is kept for backward.
//
// Decomposition: a block has consecutive queries of one head, a warp 16 or 32 of them; tiles of keys and values stream
// through two stages of shared memory, shared by the warps. Scores, weights and outputs live in registers.
// Bound by: exponentials (16 a clock and multiprocessor) up to D about 32, tensor cores otherwise.
#pragma once

#include "ops/attention/cuda/shapes.cuh"
#include "ops/attention/cuda/tiles.cuh"

namespace camo::flash {

/// Maximum or sum over the four lanes that share a row.
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
/// 2^x within 2 ulp; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Keys that some query below `end` may see.
template <class T>
__device__ int visible_keys(const Call<T>& call, int end) {
  if (!call.rules.causal) return call.keys;
  return max(0, min(call.keys, end + call.keys - call.queries));
}

template <class T, int kWidth, class Policy>
__global__ void __launch_bounds__(ForwardTiling<T, kWidth>::kThreads,
                                  Policy::kDense ? ForwardTiling<T, kWidth>::kBlocks : 1)
    flash_forward_kernel(const __grid_constant__ Call<T> call, int blocks) {
  using S = ForwardTiling<T, kWidth>;
  constexpr int kRowTiles = S::kRowTiles, kTiles = S::kTiles;
  extern __shared__ __align__(16) char shared[];
  T* own_rows = reinterpret_cast<T*>(shared);
  T* stages = own_rows + S::kOwnSize;  // [2][keys, values]

  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int first_query = blockIdx.x % blocks * S::kRows;
  const int warp_query = first_query + threadIdx.x / 32 * S::kWarpRows;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const T *k = call.k.of(b, h), *v = call.v.of(b, h);
  const int keys = Policy::kDense ? call.keys : visible_keys(call, min(call.queries, first_query + S::kRows));

  clear_shared<S::kThreads>(shared, S::kForwardBytes);
  const auto fetch = [&](int first_key) {
    T* stage = stages + first_key / S::kStreamed % 2 * 2 * S::kTileSize;
    copy_rows<S, S::kStreamed>(stage, call.k, k, first_key, keys, call.width);
    copy_rows<S, S::kStreamed>(stage + S::kTileSize, call.v, v, first_key, keys, call.width);
  };
  copy_rows<S, S::kRows>(own_rows, call.q, call.q.of(b, h), first_query, call.queries, call.width);
  if (keys > 0) fetch(0);
  wait_for_copies();
  __syncthreads();
  const OwnRows<T, kWidth, kRowTiles, S::kKeep> own(own_rows + threadIdx.x / 32 * S::kWarpRows * S::kPitch);

  // Scores become exponents of 2 by this factor; rules apply it themselves.
  const float unit = Policy::kDense ? call.scale * kLog2E : 1.0f;
  float result[kRowTiles][S::kColumns][4] = {};
  float top[kRowTiles][2], total[kRowTiles][2] = {};  // of each row: the largest exponent so far, the sum of weights
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) top[m][0] = top[m][1] = -INFINITY;

  for (int first_key = 0; first_key < keys; first_key += S::kStreamed) {
    wait_for_copies();
    __syncthreads();  // this tile has arrived, and nobody reads the other stage any more
    if (first_key + S::kStreamed < keys) fetch(first_key + S::kStreamed);
    const T* tile = stages + first_key / S::kStreamed % 2 * 2 * S::kTileSize;
    float scores[kRowTiles][kTiles][4];
    multiply_by_depth<T, kWidth>(scores, own, tile);
    if constexpr (!Policy::kDense) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            scores[m][n][e] = Policy::score(call, b, h, warp_query + 16 * m + g + e / 2 * 8,
                                            first_key + 8 * n + 2 * t + e % 2, scores[m][n][e]);
          }
        }
      }
    } else if (first_key + S::kStreamed > keys) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (first_key + 8 * n + 2 * t + e % 2 >= keys) scores[m][n][e] = -INFINITY;
          }
        }
      }
    }

    float factor[kRowTiles][2];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = -INFINITY;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          highest = fmaxf(highest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
        }
        highest = fmaxf(top[m][half], row_max(highest) * unit);
        const float shift = highest == -INFINITY ? 0.0f : highest;
        factor[m][half] = exp2_fast(top[m][half] - shift);
        top[m][half] = highest;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            scores[m][n][e] = exp2_fast(fmaf(scores[m][n][e], unit, -shift));
            sum += scores[m][n][e];
          }
        }
        total[m][half] = fmaf(total[m][half], factor[m][half], sum);
      }
    }
    if constexpr (!Policy::kDense) {
      if (call.rules.dropout > 0) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < kTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              scores[m][n][e] *=
                  Policy::keep(call, head, warp_query + 16 * m + g + e / 2 * 8, first_key + 8 * n + 2 * t + e % 2);
            }
          }
        }
      }
    }
    multiply_by_rows<T, kWidth>(result, factor, scores, tile + S::kTileSize);
  }

  float inverse[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(total[m][half]);
      inverse[m][half] = sum == 0 ? 0.0f : 1 / sum;
      const int query = warp_query + 16 * m + g + 8 * half;
      if (t == 0 && query < call.queries) {
        call.log_sum_exp[static_cast<int64_t>(head) * call.queries + query] =
            sum == 0 ? -INFINITY : fmaf(top[m][half], kLn2, logf(sum));
      }
    }
  }
  store_rows<T, kWidth, kRowTiles>(call.out, b, h, result, inverse, warp_query, call.queries, call.width);
}

template <class T, class Policy>
void launch_forward(const Call<T>& call, Device device) {
  dispatch_width(call.width, [&]<int kWidth>() {
    using S = ForwardTiling<T, kWidth>;
    const int blocks = (call.queries + S::kRows - 1) / S::kRows;
    const auto kernel = flash_forward_kernel<T, kWidth, Policy>;
    cudaStream_t stream = cuda::use(device);
    allow_shared(kernel, S::kForwardBytes);
    kernel<<<static_cast<unsigned>(blocks * call.batch * call.heads), S::kThreads, S::kForwardBytes, stream>>>(call,
                                                                                                               blocks);
    CAMO_LAUNCHED("flash_forward_kernel");
  });
}

/// Whether the kernels without rules compute it: they take the maximum before they scale.
template <class T>
bool is_dense(const Call<T>& call) {
  return call.rules.kind == MaskKind::none && !call.rules.causal && call.rules.dropout <= 0 && call.scale > 0;
}

template <class T>
void forward(const Call<T>& call, Device device) {
  if (is_dense(call)) launch_forward<T, Dense>(call, device);
  else launch_forward<T, Ruled<T>>(call, device);
}

}  // namespace camo::flash
