// The PTX instructions of the f32 attention kernels, for compute capability 8.0 and above.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

/// Code for devices below 8.0 compiles, and is never run: they lack these instructions.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define CAMO_F32_ASM(...) asm __VA_ARGS__
#else
#define CAMO_F32_ASM(...) __trap()
#endif

namespace camo::flash::halves {

__device__ inline uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
/// Copies from global to shared memory, without waiting.
__device__ inline void copy_async_16(void* to, const void* from) {
  CAMO_F32_ASM(volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory"));
}
__device__ inline void copy_async_4(void* to, const void* from) {
  CAMO_F32_ASM(volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory"));
}
__device__ inline void await_copies() { CAMO_F32_ASM(volatile("cp.async.wait_all;" ::: "memory")); }

/// c += a b, 16 x 8 x 16.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  CAMO_F32_ASM(
      ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
       : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
       : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])));
}
/// 16 rows and columns [column, column + 16) as a left operand.
__device__ inline void load_left(uint32_t (&a)[4], const __half* rows, int pitch, int column) {
  const int lane = threadIdx.x % 32;
  CAMO_F32_ASM(volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                        : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                        : "r"(shared_address(rows + lane % 16 * pitch + column + lane / 16 * 8))
                        : "memory"));
}
/// The same of the transpose: columns [column, column + 16) of 16 rows.
__device__ inline void load_left_transposed(uint32_t (&a)[4], const __half* rows, int pitch, int column) {
  const int lane = threadIdx.x % 32;
  CAMO_F32_ASM(volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                        : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                        : "r"(shared_address(rows + (lane / 16 * 8 + lane % 8) * pitch + column + lane / 8 % 2 * 8))
                        : "memory"));
}
/// 16 rows, as the columns of two products, contracted along columns [column, column + 16).
__device__ inline void load_right_by_depth(uint32_t (&b)[2][2], const __half* rows, int pitch, int column) {
  const int lane = threadIdx.x % 32;
  CAMO_F32_ASM(volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                        : "=r"(b[0][0]), "=r"(b[0][1]), "=r"(b[1][0]), "=r"(b[1][1])
                        : "r"(shared_address(rows + (lane / 16 * 8 + lane % 8) * pitch + column + lane / 8 % 2 * 8))
                        : "memory"));
}
/// Columns [column, column + 16) of two products, contracted along 16 rows.
__device__ inline void load_right_by_rows(uint32_t (&b)[2][2], const __half* rows, int pitch, int column) {
  const int lane = threadIdx.x % 32;
  CAMO_F32_ASM(volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                        : "=r"(b[0][0]), "=r"(b[0][1]), "=r"(b[1][0]), "=r"(b[1][1])
                        : "r"(shared_address(rows + lane % 16 * pitch + column + lane / 16 * 8))
                        : "memory"));
}

/// 2^x within 2 ulp; 0 for -infinity.
__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Maximum or sum over the four lanes that share a row.
__device__ inline float max_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float sum_of_row(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

}  // namespace camo::flash::halves
