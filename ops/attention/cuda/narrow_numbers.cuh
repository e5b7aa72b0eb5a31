// What the backward pass of narrow heads is told, and the log-sum-exp and delta of each query. Bound by memory.
#pragma once

#include "ops/attention/cuda/window.cuh"

namespace camo::flash {

/// How the queries of a head are divided. dk and dv are made of summands, of the same queries whatever the batch; a
/// range is what one block does, a number of summands.
struct NarrowPlan {
  int ranges, range_sums, sum_rounds, sums_of_head;
  const float2* numbers;  // [B, H, Nq]: -L in base 2, -delta
  // Where there are several summands:
  float* sums =
      nullptr;  // [dk, dv][B, H][tile of 16 keys][pair of columns][as in shared memory], of the summands so far
  int* turns = nullptr;  // [B, H][warp of the keys]: ranges that have added
};

/// sum of products over the elements of a piece of 16 bytes that lie in [begin, end).
template <class T>
__device__ float dot_piece(const uint4& x, const uint4& y, int begin, int end) {
  const uint32_t left[4] = {x.x, x.y, x.z, x.w}, right[4] = {y.x, y.y, y.z, y.w};
  float sum = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    T a, b;
    a.bits = static_cast<uint16_t>(left[e / 2] >> e % 2 * 16);
    b.bits = static_cast<uint16_t>(right[e / 2] >> e % 2 * 16);
    if (e >= begin && e < end) sum = fmaf(static_cast<float>(a), static_cast<float>(b), sum);
  }
  return sum;
}

/// A piece of a window, 16 bytes whole, or only what belongs to a row that ends at element `end` of it.
template <class T>
__device__ uint4 load_piece(const T* piece, int end, bool whole) {
  if (whole || end >= 8) return *reinterpret_cast<const uint4*>(piece);
  uint32_t x[4] = {};
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (e < end) x[e / 2] |= static_cast<uint32_t>(piece[e].bits) << e % 2 * 16;
  }
  return make_uint4(x[0], x[1], x[2], x[3]);
}

/// -L in base 2 and -delta of each query, where delta = rowsum(dy * y). A thread has a row. Sets `count` turns, no more
/// than rows, to zero.
template <class T, int kWidth>
__global__ void __launch_bounds__(cuda::kBlock)
    flash_numbers_kernel(const __grid_constant__ Call<T> call, float2* out, int* turns, int64_t count) {
  const int64_t row = int64_t{blockIdx.x} * cuda::kBlock + threadIdx.x;
  if (row < count) turns[row] = 0;
  if (row >= static_cast<int64_t>(call.batch) * call.queries * call.heads) return;
  const int h = static_cast<int>(row % call.heads);
  const int64_t rest = row / call.heads;
  const int i = static_cast<int>(rest % call.queries), b = static_cast<int>(rest / call.queries);
  const T *y = call.y.of(b, h) + i * call.y.row, *dy = call.dy.of(b, h) + i * call.dy.row;
  const int begin = window_offset(y), end = begin + call.width;
  const bool last = row + 1 == static_cast<int64_t>(call.batch) * call.queries * call.heads;  // behind it is no memory
  uint4 left[kWidth / 8], right[kWidth / 8];
#pragma unroll
  for (int p = 0; p < kWidth / 8; ++p) {
    const bool there = 8 * p < end;
    left[p] = there ? load_piece(window_start(y) + 8 * p, end - 8 * p, !last) : make_uint4(0, 0, 0, 0);
    right[p] = there ? load_piece(window_start(dy) + 8 * p, end - 8 * p, !last) : make_uint4(0, 0, 0, 0);
  }
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kWidth / 8; ++p) sum += dot_piece<T>(left[p], right[p], begin - 8 * p, end - 8 * p);
  const int64_t at = (static_cast<int64_t>(b) * call.heads + h) * call.queries + i;
  out[at] = make_float2(-call.log_sum_exp[at] * kLog2E, -sum);
}

}  // namespace camo::flash
