// 16-bit products of a warp on tensor cores (mma.sync).
//
// A warp multiplies its own 16 rows by a tile in shared memory, in two ways, with the tile stored once, row by row:
//   by depth: rows [16, D] times tile^T [D, 8 n]   (scores: the tile's rows are contracted along D)
//   by rows:  weights [16, 8 n] times tile [8 n, D]  (outputs: contracted along the tile's rows)
// The result of the first is, register for register, an operand of the second. Lane l has group g = l / 4 and member
// t = l % 4; an accumulator holds (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/half.h"

/// Devices below 8.0 lack these instructions. There f16 alone is run, without them; the rest compiles.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define CAMO_FLASH_ASM(...) asm __VA_ARGS__
#else
#define CAMO_FLASH_ASM(...) __trap()
#endif

namespace camo::flash {

/// Half and BFloat16: m16n8k16, operands through ldmatrix.
template <class T>
struct Mma {
  static constexpr int kStep = 16;
  static constexpr int depth(int width) { return (width + 15) / 16 * 16; }
  /// An odd number of 16-byte units: the 8 rows that ldmatrix reads at once touch 32 different banks.
  static constexpr int pitch(int width) { return depth(width) + 8; }

  struct Rows {
    uint32_t x[4];
  };
  struct Columns {
    uint32_t x[2];
  };

  static __device__ uint32_t address(const T* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }
  static __device__ Rows load_rows(const T* tile, int pitch, int row, int step) {
    const int lane = threadIdx.x % 32;
    const T* at = tile + (row + lane % 16) * pitch + step * kStep + lane / 16 * 8;
    Rows a;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a.x[0]), "=r"(a.x[1]), "=r"(a.x[2]), "=r"(a.x[3])
                 : "r"(address(at))
                 : "memory");
    return a;
  }
  static __device__ void load_by_depth(Columns (&b)[2], const T* tile, int pitch, int row, int step) {
    const int lane = threadIdx.x % 32;
    const T* at = tile + (row + lane / 16 * 8 + lane % 8) * pitch + step * kStep + lane / 8 % 2 * 8;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0].x[0]), "=r"(b[0].x[1]), "=r"(b[1].x[0]), "=r"(b[1].x[1])
                 : "r"(address(at))
                 : "memory");
  }
  /// Columns [column, column + 16) of tile rows [16 step, 16 step + 16). The pitch covers columns beyond the width.
  static __device__ void load_by_rows(Columns (&b)[2], const T* tile, int pitch, int step, int column) {
    const int lane = threadIdx.x % 32;
    const T* at = tile + (step * kStep + lane % 16) * pitch + column + lane / 16 * 8;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0].x[0]), "=r"(b[0].x[1]), "=r"(b[1].x[0]), "=r"(b[1].x[1])
                 : "r"(address(at))
                 : "memory");
  }
  template <int kTiles>
  static __device__ Rows weights(const float (&acc)[kTiles][4], int step) {
    const float(&x)[4] = acc[2 * step];
    const float(&y)[4] = acc[2 * step + 1];
    return {{pack(x[0], x[1]), pack(x[2], x[3]), pack(y[0], y[1]), pack(y[2], y[3])}};
  }
  static __device__ uint32_t pack(float low, float high);
  template <int kColumns, int kRowTiles, int kTiles>
  static __device__ void multiply(float (&c)[kRowTiles][kTiles][4], int first, const Rows (&a)[kRowTiles],
                                  const Columns (&b)[2]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) one(c[m][first + n], a[m].x, b[n].x);
    }
  }
  static __device__ void one(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
};

template <>
__device__ inline void Mma<Half>::one(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
template <>
__device__ inline void Mma<BFloat16>::one(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  CAMO_FLASH_ASM(
      ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
       : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
       : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])));
}
template <>
__device__ inline uint32_t Mma<Half>::pack(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}
template <>
__device__ inline uint32_t Mma<BFloat16>::pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}

}  // namespace camo::flash
