// Rows of a head as windows: the aligned pieces of 16 bytes that contain them, so that heads of any width, side by side
// in one row, are read and written 16 bytes at a time.
#pragma once

#include "ops/attention/cuda/call.cuh"
#include "ops/attention/cuda/warp16.cuh"

namespace camo::flash {

/// Elements of a window's row in shared memory: an odd number of 16-byte pieces, so that the eight rows that ldmatrix
/// reads at once touch 32 different banks.
constexpr int window_pitch(int width) { return width / 8 % 2 ? width : width + 8; }

/// Elements of a row's window before the row.
template <class T>
__host__ __device__ int window_offset(const T* row) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
}
template <class T>
__device__ T* window_start(T* row) {
  return row - window_offset(row);
}

__device__ inline void commit_copies() { CAMO_FLASH_ASM(volatile("cp.async.commit_group;" ::: "memory")); }
template <int kPending>
__device__ void wait_for_copies() {
  CAMO_FLASH_ASM(volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"));
}

/// Copies rows' windows into tiles. Each thread has one piece of every few rows.
template <class T, int kWidth, int kThreads>
struct WindowCopy {
  static constexpr int kPieces = kWidth / 8, kStep = kThreads / kPieces, kPitch = window_pitch(kWidth);
  int piece, row, bytes;  // of the piece, up to the row's end
  uint32_t mask[4];       // which elements of the piece do not lie before the row

  __device__ WindowCopy(const T* any_row, int width) : piece(threadIdx.x % kPieces), row(threadIdx.x / kPieces) {
    const int begin = window_offset(any_row) - 8 * piece;
    bytes = min(max(begin + width, 0), 8) * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      mask[i] = (2 * i >= begin ? 0xffffu : 0) | (2 * i + 1 >= begin ? 0xffff0000u : 0);
    }
  }
  /// fn(r) for each row r of a tile of which this thread has a piece.
  template <int kRows, class Fn>
  __device__ void each_row(Fn&& fn) const {
#pragma unroll
    for (int i = 0; i < (kRows + kStep - 1) / kStep; ++i) {
      const int r = row + i * kStep;
      if (row < kStep && (kRows % kStep == 0 || r < kRows)) fn(r);
    }
  }
  /// Rows [first, first + kRows) into a tile, without waiting; zeros behind each row's end and from row `count` on.
  template <int kRows>
  __device__ void rows(T* tile, const T* source, int64_t stride, int first, int count) const {
    const char* from = reinterpret_cast<const char*>(source + (first + row) * stride + 8 * piece);
    uint32_t to = shared_address(tile + row * kPitch + 8 * piece);
#pragma unroll
    for (int i = 0; i < (kRows + kStep - 1) / kStep; ++i) {
      const int r = row + i * kStep;
      const bool mine = row < kStep && (kRows % kStep == 0 || r < kRows);
      [[maybe_unused]] const bool there = first + r < count;
      if (mine) {
        CAMO_FLASH_ASM(volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                                "l"(there ? from : reinterpret_cast<const char*>(source)), "r"(there ? bytes : 0)
                                : "memory"));
      }
      from += kStep * stride * static_cast<int64_t>(sizeof(T));
      to += kStep * kPitch * static_cast<int>(sizeof(T));
    }
  }
  /// 1 in column `column` of the rows that are there, once they have arrived.
  template <int kRows>
  __device__ void set_ones(T* tile, int column, int count) const {
    if (column / 8 != piece) return;
    each_row<kRows>([&](int r) {
      if (r < count) tile[r * kPitch + column] = T(1.0f);
    });
  }
  /// Zeros what neighbours left before the rows in the pieces that this thread copied, once they have arrived.
  template <int kRows>
  __device__ void clear_edges(T* tile) const {
    if (mask[0] == ~0u) return;
    each_row<kRows>([&](int r) {
      uint4& x = *reinterpret_cast<uint4*>(tile + r * kPitch + 8 * piece);
      x = make_uint4(x.x & mask[0], x.y & mask[1], x.z & mask[2], x.w & mask[3]);
    });
  }
};

/// Stores the rows of a warp, from first on, out of a tile of windows whose rows begin at column `begin`: whole pieces
/// where they belong to the row and the memory's rows stand like the tile's.
template <int kWidth, int kRows, class T>
__device__ void store_window(T* out, int64_t stride, const T* tile, int begin, int first, int count, int width) {
  constexpr int kPieces = kWidth / 8, kPitch = window_pitch(kWidth);
  const int end = begin + width;
  const bool alike = window_offset(out) == begin && stride % 8 == 0;
  T* start = out - begin;
  for (int i = threadIdx.x % kLanes; i < kRows * kPieces; i += kLanes) {
    const int row = i / kPieces, column = i % kPieces * 8;
    if (first + row >= count) continue;
    const T* from = tile + row * kPitch + column;
    T* to = start + (first + row) * stride + column;
    if (alike && column >= begin && column + 8 <= end) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (column + e >= begin && column + e < end) to[e] = from[e];
      }
    }
  }
}

/// Two elements of a window from global memory; 0 where they are no part of the row. Nothing else is read.
template <class T>
__device__ uint32_t load_pair(const T* window, int column, int begin, int end) {
  const bool low = column >= begin && column < end, high = column + 1 >= begin && column + 1 < end;
  const T* single = window + (low ? column : column + 1);
  uint32_t both = 0, one = 0;  // loads without branches, so that many pairs are on their way at once
  CAMO_FLASH_ASM(
      ("{ .reg .pred p, q; setp.ne.u32 p, %4, 0; setp.ne.u32 q, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0;"
       " @p ld.global.b32 %0, [%2]; @q ld.global.u16 %1, [%3]; }"
       : "=&r"(both), "=&r"(one)
       : "l"(window + column), "l"(single), "r"(static_cast<uint32_t>(low && high)),
         "r"(static_cast<uint32_t>(low != high))));
  return both | (low ? one : one << 16);
}
/// Stores columns `column` and the next of a row, which begins at column `begin` in the fragments and anywhere in
/// memory.
template <class T>
__device__ void store_pair(T* row, int column, int begin, int end, float x, float y) {
  const bool low = column >= begin && column < end, high = column + 1 >= begin && column + 1 < end;
  T* to = row + (column - begin);
  if (low && high && reinterpret_cast<uintptr_t>(to) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(to) = Mma<T>::pack(x, y);
  } else {
    if (low) to[0] = T(x);
    if (high) to[1] = T(y);
  }
}

}  // namespace camo::flash
