// Rows of [M, C] that fit into registers, each shared by G lanes of a warp.
#pragma once

#include "core/cuda/packs.cuh"

namespace camo::detail {

/// G lanes share a row; each holds P packs of N elements: lane l has packs l, l + G, ... Blocks have 256 threads, whose
/// warps advance together (all lanes reach every shuffle, also those of rows past the end).
template <class T, int N_, int G_, int P_>
struct RowGroup {
  using A = cuda::Accumulator<T>;
  static constexpr int N = N_, G = G_, P = P_;
  static constexpr int kRowsPerBlock = cuda::kBlock / G;

  static __device__ int lane() { return threadIdx.x % G; }
  /// Of the first group of this warp; the row of this thread is first_row + row_in_warp().
  static __device__ int64_t first_row() {
    return int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / cuda::kWarp * (cuda::kWarp / G);
  }
  static __device__ int row_in_warp() { return threadIdx.x % cuda::kWarp / G; }
  static __device__ int64_t row_step() { return int64_t{gridDim.x} * kRowsPerBlock; }
  static unsigned blocks(int64_t rows, Device device) { return cuda::grid_for(rows * G, device); }

  /// Elements past the row are `otherwise`.
  template <class R>
  static __device__ void load(const R* row, int packs, A otherwise, A (&values)[P][N]) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int pack = p * G + lane();
      if (pack < packs) {
        cuda::load_constants<N>(row + pack * N, values[p]);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) values[p][i] = otherwise;
      }
    }
  }
  template <class R>
  static __device__ void store(R* row, int packs, const A (&values)[P][N]) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int pack = p * G + lane();
      if (pack < packs) cuda::store_values<N>(row + pack * N, values[p]);
    }
  }
  static __device__ A sum(A value) {
#pragma unroll
    for (int offset = G / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    return value;
  }
  static __device__ A max(A value) {
#pragma unroll
    for (int offset = G / 2; offset > 0; offset /= 2) {
      const A other = __shfl_xor_sync(~0u, value, offset);
      value = other > value ? other : value;
    }
    return value;
  }
};

/// Calls fn.template operator()<RowGroup>() with a group for rows of `packs` packs of N elements, where at most
/// `kLimit` elements a lane suffice; else returns false.
template <class T, int N, int kLimit, class Fn>
bool dispatch_row_group(int64_t packs, Fn&& fn) {
  if (packs <= 8) fn.template operator()<RowGroup<T, N, 8, 1>>();
  else if (packs <= 16) fn.template operator()<RowGroup<T, N, 16, 1>>();
  else if (packs <= 32) fn.template operator()<RowGroup<T, N, 32, 1>>();
  else if (packs <= 64) fn.template operator()<RowGroup<T, N, 32, 2>>();
  else if (packs <= 128 && 4 * N <= kLimit) {
    if constexpr (4 * N <= kLimit) fn.template operator()<RowGroup<T, N, 32, 4>>();
  } else if (packs <= 256 && 8 * N <= kLimit) {
    if constexpr (8 * N <= kLimit) fn.template operator()<RowGroup<T, N, 32, 8>>();
  } else {
    return false;
  }
  return true;
}

}  // namespace camo::detail
