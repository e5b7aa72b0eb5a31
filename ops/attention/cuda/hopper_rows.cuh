// Rows of scores, weights and sums in the registers of a warpgroup, and of tiles in shared memory.
//
// Accumulators of a product [64, 2 kCount]: register 4 i + e of a thread belongs to row g + 8 (e / 2) of its warp's 16
// and to column 8 i + 2 t + e % 2, where g = lane / 4 and t = lane % 4.
#pragma once

#include "ops/attention/cuda/call.cuh"
#include "ops/attention/cuda/hopper_ptx.cuh"

namespace camo::flash::hopper {

/// Sets the columns of a tile's rows outside [offset, offset + width) to zero, by kThreads threads.
template <int kRows, int kColumns, int kThreads>
__device__ void clear_columns(char* tile, uint32_t panel_bytes, int offset, int width, int thread) {
#pragma unroll 1
  for (int chunk = 0; chunk < kColumns / 8; ++chunk) {  // of 16 bytes
    const int begin = offset - 8 * chunk, end = begin + width;
    if (begin <= 0 && end >= 8) continue;
    uint32_t mask[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      mask[i] =
          (2 * i >= begin && 2 * i < end ? 0xffffu : 0) | (2 * i + 1 >= begin && 2 * i + 1 < end ? 0xffff0000u : 0);
    }
#pragma unroll 1
    for (int row = thread; row < kRows; row += kThreads) {
      uint4* at = reinterpret_cast<uint4*>(tile + chunk / 8 * panel_bytes + row * 128 + ((chunk % 8) ^ (row % 8)) * 16);
      const uint4 x = *at;
      *at = make_uint4(x.x & mask[0], x.y & mask[1], x.z & mask[2], x.w & mask[3]);
    }
  }
}

/// Largest over the four lanes that share a row; sum over them.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

/// The two rows of a thread: g and g + 8.
struct RowState {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
};

/// scores -> weights relative to the rows' largest scores so far; factor: of what was summed before.
template <bool kMayHideAll, int kCount>
__device__ void take_softmax(float (&scores)[kCount], RowState& rows, float (&factor)[2], float unit) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top[2] = {rows.top[half], scores[2 * half]};
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      top[0] = fmaxf(top[0], scores[i + 2 * half]);
      top[1] = fmaxf(top[1], scores[i + 2 * half + 1]);
    }
    const float highest = quad_max(fmaxf(top[0], top[1]));
    const float shift = kMayHideAll && highest == -INFINITY ? 0.0f : highest * unit;
    factor[half] = exp2_unit(fmaf(rows.top[half], unit, -shift));
    rows.top[half] = highest;
    float sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = scores[i + 2 * half + e];
        x = exp2_unit(fmaf(x, unit, -shift));
        sum[e] += x;
      }
    }
    rows.total[half] = fmaf(rows.total[half], factor[half], sum[0] + sum[1]);
  }
}

/// Accumulators [64, 2 kCount] as left operands of 16 columns each.
template <class T, int kCount>
__device__ void pack_weights(uint32_t (&packed)[kCount / 2], const float (&weights)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) packed[i] = pack<T>(weights[2 * i], weights[2 * i + 1]);
}

/// Transposes 4 x 4 words among four lanes, in two exchanges.
__device__ inline void transpose_words(uint32_t (&x)[4]) {
  const int t = threadIdx.x % 4;
  uint32_t a = t & 1 ? x[0] : x[1], c = t & 1 ? x[2] : x[3];
  a = __shfl_xor_sync(~0u, a, 1);
  c = __shfl_xor_sync(~0u, c, 1);
  if (t & 1) x[0] = a, x[2] = c;
  else x[1] = a, x[3] = c;
  a = t & 2 ? x[0] : x[2];
  c = t & 2 ? x[1] : x[3];
  a = __shfl_xor_sync(~0u, a, 2);
  c = __shfl_xor_sync(~0u, c, 2);
  if (t & 2) x[0] = a, x[1] = c;
  else x[2] = a, x[3] = c;
}

/// What a lane writes of row r + 8 `half` where four lanes hold 4 x 8 columns from number 2 i on in pairs, each times
/// `factor`: 8 neighbours.
template <class T, int kCount>
__device__ void gather_neighbours(uint32_t (&x)[4], const float (&sums)[kCount], float factor, int i, int half) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    if (i + 4 * n < kCount) {
      const int at = i + 4 * n + 2 * half;
      x[n] = pack<T>(sums[at] * factor, sums[at + 1] * factor);
    }
  }
  transpose_words(x);
}

/// Stores the rows of a warpgroup, [64, 2 kCount] accumulators, row r being number first + r of the head. Column
/// `offset` is the head's first; it may be negative.
template <class T, int kCount>
__device__ void store_accumulators(const Heads<T>& out, int b, int h, const float (&sums)[kCount],
                                   const float (&factor)[2], int first, int count, int width, int offset) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  const int row = first + threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool inside = row + 8 * half < count;
    T* to = out.of(b, h) + (row + 8 * half) * out.row - offset;
    if (out.access == 16 && offset % 8 == 0) {
#pragma unroll
      for (int i = 0; i < kCount; i += 16) {
        uint32_t x[4] = {};
        gather_neighbours<T>(x, sums, factor[half], i, half);
        const int column = 2 * i + 8 * t;  // offset <= 0 here
        if (inside && column < offset + width)
          *reinterpret_cast<uint4*>(to + column) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    } else if (inside) {
      const bool pairs = out.access >= 4 && offset % 2 == 0;
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        const int column = 2 * i + 2 * t;
        const float x = sums[i + 2 * half] * factor[half], y = sums[i + 2 * half + 1] * factor[half];
        if (pairs) {
          if (column >= offset && column < offset + width) *reinterpret_cast<uint32_t*>(to + column) = pack<T>(x, y);
        } else {
          if (column >= offset && column < offset + width) to[column] = T(x);
          if (column + 1 >= offset && column + 1 < offset + width) to[column + 1] = T(y);
        }
      }
    }
  }
}

/// Elements of a row of 2 kCount columns on its way through shared memory: an odd number of 16 bytes, for eight rows to
/// touch 32 banks.
constexpr int stage_pitch(int columns) { return columns / 8 % 2 ? columns : columns + 8; }

/// store_accumulators, through 16 rows in shared memory of each warp where whole pieces of 16 bytes can be stored,
/// though rows begin and end between them.
template <class T, int kCount>
__device__ void store_accumulators_staged(const Heads<T>& out, int b, int h, const float (&sums)[kCount], float factor,
                                          int first, int count, int width, int offset, T* stage) {
  constexpr int kPitch = stage_pitch(2 * kCount), kPieces = kCount / 4;
  T* const start = out.of(b, h) - offset;
  if (reinterpret_cast<uintptr_t>(start) % 16 != 0 || out.row % 8 != 0) {
    const float factors[2] = {factor, factor};
    return store_accumulators<T>(out, b, h, sums, factors, first, count, width, offset);
  }
  const int lane = threadIdx.x % 32, first_row = first + threadIdx.x % kWarpgroup / 32 * 16;
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    T* to = stage + (lane / 4 + i / 2 % 2 * 8) * kPitch + i / 4 * 8 + lane % 4 * 2;
    *reinterpret_cast<uint32_t*>(to) = pack<T>(sums[i] * factor, sums[i + 1] * factor);
  }
  __syncwarp();
#pragma unroll
  for (int i = lane; i < 16 * kPieces; i += 32) {
    const int row = i / kPieces, column = i % kPieces * 8, begin = offset - column, end = begin + width;
    if (first_row + row >= count || end <= 0) continue;
    const uint4 x = *reinterpret_cast<const uint4*>(stage + row * kPitch + column);
    T* to = start + (first_row + row) * out.row + column;
    if (begin <= 0 && end >= 8) {
      *reinterpret_cast<uint4*>(to) = x;
      continue;
    }
    const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const bool low = 2 * w >= begin && 2 * w < end, high = 2 * w + 1 >= begin && 2 * w + 1 < end;
      if (low && high) {
        reinterpret_cast<uint32_t*>(to)[w] = words[w];
      } else {
        if (low) to[2 * w].bits = static_cast<uint16_t>(words[w]);
        if (high) to[2 * w + 1].bits = static_cast<uint16_t>(words[w] >> 16);
      }
    }
  }
  __syncwarp();  // the next may write
}

}  // namespace camo::flash::hopper
