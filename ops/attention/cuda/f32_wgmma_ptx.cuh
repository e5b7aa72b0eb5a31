// The PTX instructions of sm_90a that the f32 attention kernels use: products of warpgroups, bulk copies, barriers.
#pragma once

#include <cstdint>

#include "ops/attention/cuda/f32_ptx.cuh"

/// Code for other devices compiles, and is never run.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define CAMO_SM90_ASM(...) asm __VA_ARGS__
#else
#define CAMO_SM90_ASM(...) __trap()
#endif

namespace camo::flash::halves {

/// Matrices in shared memory are images of 8 x 8 core matrices, 128 contiguous bytes each: the one of rows 8 r and
/// columns 8 c is number c * (rows / 8) + r.
__device__ inline uint64_t matrix_descriptor(const void* matrix, int leading_bytes, int stride_bytes) {
  return (static_cast<uint64_t>(shared_address(matrix)) >> 4) | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4) << 32;
}
__device__ inline void products_begin() { CAMO_SM90_ASM(volatile("wgmma.fence.sync.aligned;" ::: "memory")); }
__device__ inline void products_commit() { CAMO_SM90_ASM(volatile("wgmma.commit_group.sync.aligned;" ::: "memory")); }
/// Waits until at most kPending committed groups are under way.
template <int kPending>
__device__ void products_wait() {
  CAMO_SM90_ASM(volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory"));
}
/// Orders writes of this thread to shared memory before what reads it asynchronously.
__device__ inline void fence_async() { CAMO_SM90_ASM(volatile("fence.proxy.async.shared::cta;" ::: "memory")); }
/// A barrier of one warpgroup.
__device__ inline void warpgroup_sync(int warpgroup) {
  CAMO_SM90_ASM(volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory"));
}

__device__ inline void barrier_init(uint64_t* barrier, int arrivals) {
  CAMO_SM90_ASM(volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)));
}
__device__ inline void barrier_expect(uint64_t* barrier, int bytes) {
  CAMO_SM90_ASM(
      volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory"));
}
__device__ inline void barrier_arrive(uint64_t* barrier) {
  CAMO_SM90_ASM(volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory"));
}
__device__ inline void barrier_wait(uint64_t* barrier, int parity) {
  CAMO_SM90_ASM(volatile(
      "{\n.reg .pred done;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra WAIT;\n}" ::"r"(
          shared_address(barrier)),
      "r"(parity)
      : "memory"));
}
/// Copies from global to shared memory; the barrier counts the bytes.
__device__ inline void copy_bulk(void* to, const void* from, int bytes, uint64_t* barrier) {
  CAMO_SM90_ASM(
      volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory"));
}

/// d (+)= a b of 64 x 64 x 16, both from shared memory, contracted along columns.
__device__ inline void multiply_shared(float (&d)[8][4], uint64_t a, uint64_t b, int accumulate) {
  CAMO_SM90_ASM(volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;\n}"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "l"(a), "l"(b), "r"(accumulate)));
}
/// d (+)= a b of 64 x N x 16: a from registers, b contracted along rows.
template <int kColumns>
__device__ void multiply_registers(float (&d)[kColumns][4], const uint32_t (&a)[4], uint64_t b, int accumulate);
template <>
__device__ inline void multiply_registers<2>(float (&d)[2][4], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  CAMO_SM90_ASM(
      volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12, p, 1, 1, 1;\n}"
               : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
                 "+f"(d[1][2]), "+f"(d[1][3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)));
}
template <>
__device__ inline void multiply_registers<3>(float (&d)[3][4], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  CAMO_SM90_ASM(
      volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %17, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n24k16.f32.f16.f16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11}, {%12, %13, %14, %15}, %16, p, 1, 1, 1;\n}"
               : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
                 "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)));
}
template <>
__device__ inline void multiply_registers<5>(float (&d)[5][4], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  CAMO_SM90_ASM(volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %25, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n40k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19}, {%20, %21, %22, "
      "%23}, %24, p, 1, 1, 1;\n}"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)));
}
template <>
__device__ inline void multiply_registers<8>(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  CAMO_SM90_ASM(volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)));
}
template <>
__device__ inline void multiply_registers<10>(float (&d)[10][4], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  CAMO_SM90_ASM(volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %45, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n80k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}, {%40, %41, %42, %43}, %44, p, "
      "1, 1, 1;\n}"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]),
        "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)));
}

}  // namespace camo::flash::halves
