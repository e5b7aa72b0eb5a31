// Tiles of rows in shared memory: how they get there, and the two products of a warp with them.
#pragma once

#include "ops/attention/cuda/call.cuh"
#include "ops/attention/cuda/fragments.cuh"

namespace camo::flash {

/// Copies kBytes from global to shared memory, from 8.0 on without waiting.
template <int kBytes>
__device__ void copy_async(void* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  using Access = cuda::Pack<char, kBytes>;
  *static_cast<Access*>(to) = *static_cast<const Access*>(from);
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(kBytes) : "memory");
  }
#endif
}
__device__ inline void wait_for_copies() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

/// Rows [first, first + kRows) of one head into a tile of tiling S, in accesses of kElements; rows from `count` on
/// become zeros. Columns from `width` on are not written.
template <int kElements, class S, int kRows, class T>
__device__ void copy_rows_by(T* tile, const T* source, int64_t stride, int first, int count, int width) {
  constexpr int kMost = S::kWidth / kElements;
  constexpr int kLanes = kMost > 16 ? 32 : kMost > 8 ? 16 : kMost > 4 ? 8 : 4;
  constexpr int kGroups = S::kThreads / kLanes;
  static_assert(kGroups >= 1);
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  if (group >= kGroups) return;
  const int64_t step = kGroups * stride;
  for (int column = lane * kElements; column < width; column += kLanes * kElements) {
    const T* from = source + (first + group) * stride + column;  // beyond the last row it is not read
    T* to = tile + group * S::kPitch + column;
    for (int row = group; row < kRows; row += kGroups, from += step, to += kGroups * S::kPitch) {
      using Access = cuda::Pack<T, kElements>;
      if (first + row >= count) *reinterpret_cast<Access*>(to) = Access{};
      else if constexpr (sizeof(Access) >= 4) copy_async<sizeof(Access)>(to, from);
      else *to = *from;
    }
  }
}

template <class S, int kRows, class T>
__device__ void copy_rows(T* tile, const Heads<const T>& x, const T* source, int first, int count, int width) {
  const auto copy = [&]<int kElements>() {
    copy_rows_by<kElements, S, kRows>(tile, source, x.row, first, count, width);
  };
  if (x.access == 16) copy.template operator()<8>();
  else if (x.access == 8) copy.template operator()<4>();
  else if (x.access == 4) copy.template operator()<2>();
  else copy.template operator()<1>();
}

/// Shared memory starts as zeros: columns beyond the width stay so, and contribute nothing to any product.
template <int kThreads>
__device__ void clear_shared(void* memory, int bytes) {
  for (int i = threadIdx.x * 16; i < bytes; i += kThreads * 16) {
    *reinterpret_cast<uint4*>(static_cast<char*>(memory) + i) = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
}

/// The rows of a warp as left operands, 16 kRowTiles of them: in registers when they fit, else read from shared memory
/// again for each tile.
template <class T, int kWidth, int kRowTiles, bool kKeep>
struct OwnRows {
  static constexpr int kSteps = Mma<T>::depth(kWidth) / Mma<T>::kStep;
  static constexpr int kPitch = Mma<T>::pitch(kWidth);
  const T* tile;
  typename Mma<T>::Rows kept[kKeep ? kRowTiles : 1][kKeep ? kSteps : 1];

  __device__ explicit OwnRows(const T* first_row) : tile(first_row) {
    if constexpr (kKeep) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) kept[m][step] = Mma<T>::load_rows(tile, kPitch, 16 * m, step);
      }
    }
  }
  __device__ typename Mma<T>::Rows operand(int m, int step) const {
    if constexpr (kKeep) return kept[m][step];
    else return Mma<T>::load_rows(tile, kPitch, 16 * m, step);
  }
};

/// scores = own rows times tile^T. [16 kRowTiles, D] x [D, 8 kTiles]
template <class T, int kWidth, int kRowTiles, bool kKeep, int kTiles>
__device__ void multiply_by_depth(float (&scores)[kRowTiles][kTiles][4],
                                  const OwnRows<T, kWidth, kRowTiles, kKeep>& own, const T* tile) {
  using M = Mma<T>;
  constexpr int kSteps = M::depth(kWidth) / M::kStep;
  constexpr int kUnroll = kKeep ? kSteps : 2;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[m][n][e] = 0;
    }
  }
#pragma unroll kUnroll
  for (int step = 0; step < kSteps; ++step) {
    typename M::Rows a[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) a[m] = own.operand(m, step);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      typename M::Columns b[2];
      M::load_by_depth(b, tile, M::pitch(kWidth), 8 * n, step);
      M::template multiply<2>(scores, n, a, b);
    }
  }
}

/// result = factor of its row * result + weights times tile. [16 kRowTiles, 8 kTiles] x [8 kTiles, D]. The products of
/// one tile are summed apart and then added in f32: tensor cores truncate when they accumulate.
template <class T, int kWidth, int kRowTiles, int kTiles>
__device__ void multiply_by_rows(float (&result)[kRowTiles][kWidth / 8][4], const float (&factor)[kRowTiles][2],
                                 const float (&weights)[kRowTiles][kTiles][4], const T* tile) {
  using M = Mma<T>;
  constexpr int kSteps = 8 * kTiles / M::kStep;
  constexpr int kColumns = kWidth / 8;
  constexpr int kGroup = kColumns < 4 ? (kColumns + 1) / 2 * 2 : 4;
#pragma unroll
  for (int first = 0; first < kColumns; first += kGroup) {
    float sum[kRowTiles][kGroup][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      typename M::Rows a[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) a[m] = M::weights(weights[m], step);
#pragma unroll
      for (int w = 0; w < kGroup; w += 2) {
        typename M::Columns b[2];
        if (first + w + 1 < kColumns) {
          M::load_by_rows(b, tile, M::pitch(kWidth), step, 8 * (first + w));
          M::template multiply<2>(sum, w, a, b);
        } else if (first + w < kColumns) {
          M::load_by_rows(b, tile, M::pitch(kWidth), step, 8 * (first + w));
          M::template multiply<1>(sum, w, a, b);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int w = 0; w < kGroup; ++w) {
        if (first + w >= kColumns) continue;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& total = result[m][first + w][e];
          total = fmaf(total, factor[m][e / 2], sum[m][w][e]);
        }
      }
    }
  }
}
template <class T, int kWidth, int kRowTiles, int kTiles>
__device__ void add_multiplied_by_rows(float (&result)[kRowTiles][kWidth / 8][4],
                                       const float (&weights)[kRowTiles][kTiles][4], const T* tile) {
  float ones[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) ones[m][0] = ones[m][1] = 1;
  multiply_by_rows<T, kWidth>(result, ones, weights, tile);
}

/// Stores a warp's result, row r being number first + r of the head, each row times its factor.
template <class T, int kWidth, int kRowTiles>
__device__ void store_rows(const Heads<T>& out, int b, int h, const float (&result)[kRowTiles][kWidth / 8][4],
                           const float (&factor)[kRowTiles][2], int first, int count, int width) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + 16 * m + g + 8 * half;
      if (row >= count) continue;
      T* to = out.of(b, h) + row * out.row;
#pragma unroll
      for (int w = 0; w < kWidth / 8; ++w) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = 8 * w + 2 * t + e;
          if (column < width) to[column] = T(result[m][w][2 * half + e] * factor[m][half]);
        }
      }
    }
  }
}

}  // namespace camo::flash
