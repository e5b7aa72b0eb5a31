// Products of a warp on tensor cores (mma.sync), one policy per element type.
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

template <class T>
struct Mma;

/// f32-accurate products from TF32 ones: x = high + low, x y ~ low y_high + high y_low + high y_high, small terms
/// first. high is truncated to TF32, so low is exact and 13 of its bits survive.
template <>
struct Mma<float> {
  static constexpr int kStep = 8;  // contraction length of one instruction
  static constexpr int depth(int width) { return width; }
  /// Rows 4 words apart modulo 8: both ways of reading a tile touch 32 different banks.
  static constexpr int pitch(int width) { return width + 4; }

  struct Rows {
    float x[4];
  };
  struct Operand {
    uint32_t high[4], low[4];
  };
  struct Columns {
    uint32_t high[2], low[2];
  };

  static __device__ void split(float x, uint32_t& high, uint32_t& low) {
    high = __float_as_uint(x) & 0xffffe000u;
    low = __float_as_uint(x - __uint_as_float(high));
  }
  static __device__ Operand prepare(const Rows& a) {
    Operand out;
#pragma unroll
    for (int i = 0; i < 4; ++i) split(a.x[i], out.high[i], out.low[i]);
    return out;
  }
  /// Rows [row, row + 16) and depth [8 step, 8 step + 8) of a tile.
  static __device__ Rows load_rows(const float* tile, int pitch, int row, int step) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float* at = tile + (row + g) * pitch + step * kStep + t;
    return {{at[0], at[8 * pitch], at[4], at[8 * pitch + 4]}};
  }
  /// Tile rows [row, row + 16) as the columns of two products, depth step `step`.
  static __device__ void load_by_depth(Columns (&b)[2], const float* tile, int pitch, int row, int step) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float* at = tile + (row + g) * pitch + step * kStep + t;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      split(at[i * 8 * pitch], b[i].high[0], b[i].low[0]);
      split(at[i * 8 * pitch + 4], b[i].high[1], b[i].low[1]);
    }
  }
  /// Columns [column, column + 16) of tile rows [8 step, 8 step + 8), the rows in the order 0 2 4 6 1 3 5 7, which is
  /// how weights() hands out accumulators. Only the first 8 columns unless both.
  template <bool kBoth>
  static __device__ void load_by_rows(Columns (&b)[2], const float* tile, int pitch, int step, int column) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float* at = tile + (step * kStep + 2 * t) * pitch + column + g;
#pragma unroll
    for (int i = 0; i < (kBoth ? 2 : 1); ++i) {
      split(at[8 * i], b[i].high[0], b[i].low[0]);
      split(at[8 * i + pitch], b[i].high[1], b[i].low[1]);
    }
  }
  template <int kTiles>
  static __device__ Operand weights(const float (&acc)[kTiles][4], int step) {
    return prepare({{acc[step][0], acc[step][2], acc[step][1], acc[step][3]}});
  }
  static __device__ void one(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    CAMO_FLASH_ASM(
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
         : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])));
  }
  /// c[m][first + n] += a[m] b[n] for n in [0, kColumns). One term for all of them before the next, as they are
  /// independent.
  template <int kColumns, int kRowTiles, int kTiles>
  static __device__ void multiply(float (&c)[kRowTiles][kTiles][4], int first, const Operand (&a)[kRowTiles],
                                  const Columns (&b)[2]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) one(c[m][first + n], a[m].low, b[n].high);
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) one(c[m][first + n], a[m].high, b[n].low);
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) one(c[m][first + n], a[m].high, b[n].high);
    }
  }
};

/// What the two 16-bit types share: m16n8k16, operands through ldmatrix.
template <class T>
struct Mma16 {
  static constexpr int kStep = 16;
  static constexpr int depth(int width) { return (width + 15) / 16 * 16; }
  /// An odd number of 16-byte units: the 8 rows that ldmatrix reads at once touch 32 different banks.
  static constexpr int pitch(int width) { return depth(width) + 8; }

  struct Rows {
    uint32_t x[4];
  };
  using Operand = Rows;
  struct Columns {
    uint32_t x[2];
  };

  static __device__ Operand prepare(const Rows& a) { return a; }
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
  template <bool kBoth>
  static __device__ void load_by_rows(Columns (&b)[2], const T* tile, int pitch, int step, int column) {
    const int lane = threadIdx.x % 32;
    const T* at = tile + (step * kStep + lane % 16) * pitch + column + lane / 16 * 8;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0].x[0]), "=r"(b[0].x[1]), "=r"(b[1].x[0]), "=r"(b[1].x[1])
                 : "r"(address(at))
                 : "memory");
  }
  template <int kTiles>
  static __device__ Operand weights(const float (&acc)[kTiles][4], int step) {
    const float(&x)[4] = acc[2 * step];
    const float(&y)[4] = acc[2 * step + 1];
    return {{pack(x[0], x[1]), pack(x[2], x[3]), pack(y[0], y[1]), pack(y[2], y[3])}};
  }
  static __device__ uint32_t pack(float low, float high) {
    return T(low).bits | static_cast<uint32_t>(T(high).bits) << 16;
  }
  template <int kColumns, int kRowTiles, int kTiles>
  static __device__ void multiply(float (&c)[kRowTiles][kTiles][4], int first, const Operand (&a)[kRowTiles],
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
__device__ inline void Mma16<Half>::one(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
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
__device__ inline void Mma16<BFloat16>::one(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  CAMO_FLASH_ASM(
      ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
       : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
       : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])));
}
template <>
__device__ inline uint32_t Mma16<Half>::pack(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}
template <>
__device__ inline uint32_t Mma16<BFloat16>::pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}

template <>
struct Mma<Half> : Mma16<Half> {};
template <>
struct Mma<BFloat16> : Mma16<BFloat16> {};

}  // namespace camo::flash
