// What the backward pass of narrow heads says in PTX: sums in shared and global memory, and waits of warps and blocks
// for one another.
#pragma once

#include "ops/attention/cuda/warp16.cuh"

namespace camo::flash {

__device__ inline uint32_t transpose_8x8(uint32_t x) {
  uint32_t y = 0;
  CAMO_FLASH_ASM(("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x)));
  return y;
}

__device__ inline float2 load_shared_2(uint32_t address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address));
  return x;
}
/// Sums in shared memory as accumulators, where `there`.
__device__ inline void load_sums(float (&x)[4], uint32_t address, bool there) {
  if (there) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"(address)
                 : "memory");
  } else {
    x[0] = x[1] = x[2] = x[3] = 0;
  }
}
__device__ inline void store_sums(uint32_t address, bool there, const float (&x)[4]) {
  if (!there) return;
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
}

/// Sums in global memory, where `there`, that other multiprocessors add to.
__device__ inline void load_parts(float (&x)[4], const float* from, bool there) {
  x[0] = x[1] = x[2] = x[3] = 0;
  CAMO_FLASH_ASM(volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4]; }"
                          : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
                          : "l"(from), "r"(static_cast<uint32_t>(there))
                          : "memory"));
}
__device__ inline void store_parts(float* to, bool there, const float (&x)[4]) {
  CAMO_FLASH_ASM(
      volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p st.global.cg.v4.f32 [%4], {%0, %1, %2, %3}; }" ::"f"(x[0]),
               "f"(x[1]), "f"(x[2]), "f"(x[3]), "l"(to), "r"(static_cast<uint32_t>(there))
               : "memory"));
}

/// Adds to such sums, without waiting for them where the device can.
__device__ inline void add_parts(float* to, bool there, const float (&x)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .pred p; setp.ne.u32 p, %5, 0; @p red.relaxed.gpu.global.add.v4.f32 [%4], {%0, %1, %2, %3}; }" ::"f"(
          x[0]),
      "f"(x[1]), "f"(x[2]), "f"(x[3]), "l"(to), "r"(static_cast<uint32_t>(there))
      : "memory");
#else
  float sum[4];
  load_parts(sum, to, there);
  for (int e = 0; e < 4; ++e) sum[e] += x[e];
  store_parts(to, there, sum);
#endif
}

/// An address that the compiler keeps in a register rather than computing it anew.
__device__ inline uint32_t keep(uint32_t x) {
  CAMO_FLASH_ASM(volatile("" : "+r"(x)));
  return x;
}

/// A counter of phases in shared memory that all warps of a block pass.
__device__ inline void barrier_init(uint32_t barrier, int count) {
  CAMO_FLASH_ASM(volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory"));
}
__device__ inline void barrier_arrive(uint32_t barrier) {
  CAMO_FLASH_ASM(volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier) : "memory"));
}
__device__ inline void barrier_wait(uint32_t barrier, int parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .pred p; again: mbarrier.try_wait.parity.shared.b64 p, [%0], %1; @p bra done; bra again; done: }" ::"r"(
          barrier),
      "r"(parity)
      : "memory");
#else
  CAMO_FLASH_ASM(volatile(
      "{ .reg .pred p; again: mbarrier.test_wait.parity.shared.b64 p, [%0], %1; @p bra done; bra again; done: }" ::"r"(
          barrier),
      "r"(parity)
      : "memory"));
#endif
}

/// Waits until `turn` others have had theirs; lets the next have its.
__device__ inline void wait_turn([[maybe_unused]] const int* turns, [[maybe_unused]] int turn) {
  int now = turn;
  do {
    CAMO_FLASH_ASM(volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(turns) : "memory"));
  } while (now != turn);
}
__device__ inline void give_turn([[maybe_unused]] int* turns, [[maybe_unused]] int turn) {
  CAMO_FLASH_ASM(volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turns), "r"(turn) : "memory"));
}

}  // namespace camo::flash
