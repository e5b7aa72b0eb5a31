// What Hopper's attention kernels use of sm_90a beyond CUDA C++: barriers in shared memory, copies by the tensor memory
// accelerator (TMA), products of a warpgroup (wgmma) and register budgets.
//
// Tiles in shared memory consist of panels: 64 16-bit columns of all rows, 128 bytes a row, in TMA's 128-byte swizzle,
// each beginning at a multiple of 1024 bytes. The tensor cores read a panel either way: contracted along its columns
// (`by columns`: scores from keys) or along its rows (`by rows`: outputs from values).
//
// Only kernels whose body stands under CAMO_FLASH_HOPPER may call these.
#pragma once

#include <cuda.h>  // CUtensorMap; nothing here links the driver

#include <cstdint>

#include "core/half.h"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CAMO_FLASH_HOPPER 1
#endif

namespace camo::flash::hopper {

inline constexpr int kWarpgroup = 128;  // threads
inline constexpr int kPanel = 64;       // 16-bit columns of a panel: 128 bytes

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- Barriers in shared memory. `parity` is that of the phase waited for: 0 for the first.

__device__ inline void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Barriers just initialised become visible to TMA.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and makes the phase wait for `bytes` that TMA brings.
__device__ inline void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline bool has_completed(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
  return done != 0;
}
__device__ inline void wait(uint32_t barrier, uint32_t parity) {
#ifdef CAMO_FLASH_WATCHDOG  // a dead-lock becomes a wrong result
  for (int tries = 0; tries < 100000 && !has_completed(barrier, parity); ++tries) {
  }
#else
  while (!has_completed(barrier, parity)) {
  }
#endif
}

// ---- The 16 named barriers of a block: `threads` counts who waits and who only arrives.

__device__ inline void wait_named(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void arrive_named(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- TMA

/// Brings one box of a [batch, rows, heads, columns] map, completing on `barrier`.
__device__ inline void load_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int head, int row,
                                int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(column), "r"(head), "r"(row), "r"(batch)
      : "memory");
}
/// Adds f32s from shared memory to global memory, or stores them; both in the thread's current bulk group.
__device__ inline void add_bulk(float* to, uint32_t from, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(from),
               "r"(bytes)
               : "memory");
}
__device__ inline void store_bulk(float* to, uint32_t from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
}
__device__ inline void commit_bulk() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until the groups have read their sources; until they are complete.
__device__ inline void wait_bulk_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ inline void wait_bulk() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
/// Orders ordinary accesses and those of TMA, to any memory.
__device__ inline void fence_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

/// Ordinary stores to shared memory become visible to TMA and to the tensor cores.
__device__ inline void fence_shared_for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Brings row `index` of a map [rows, columns].
__device__ inline void load_row(uint32_t to, const CUtensorMap& map, uint32_t barrier, int index) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          to),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(0), "r"(index)
      : "memory");
}
// ---- Ordinary memory

/// Adds four floats to memory, in no order.
__device__ inline void add_four(float* to, const float* x) {
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
}
__device__ inline int load_acquire(const int* from) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline void store_release(int* to, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
/// Waits until `turn` blocks have added.
__device__ inline void wait_turn(const int* turns, int turn) {
#ifdef CAMO_FLASH_WATCHDOG
  for (int tries = 0; tries < 3000000 && load_acquire(turns) != turn; ++tries) {
  }
#else
  while (load_acquire(turns) != turn) {
  }
#endif
}
__device__ inline void store_word(uint32_t to, uint32_t x) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}
/// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void store_matrices(uint32_t to, const uint32_t* x) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x[0]), "r"(x[1]),
               "r"(x[2]), "r"(x[3])
               : "memory");
}

// ---- Registers of a warpgroup

template <int kCount>
__device__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// ---- wgmma

__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most kPending committed groups are unfinished.
template <int kPending>
__device__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Registers that a product in flight writes: nothing that uses them moves across.
template <int kCount>
__device__ void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
__device__ void pin(uint32_t (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

/// A matrix in panels as the tensor cores find it. `panel_bytes`: from one panel to the next.
__device__ inline uint64_t describe(uint32_t address, uint32_t panel_bytes) {
  constexpr uint64_t kSwizzle128 = 1, kEightRows = 1024;
  return kSwizzle128 << 62 | kEightRows >> 4 << 32 | uint64_t{(panel_bytes >> 4) & 0x3fff} << 16 |
         ((address & 0x3ffff) >> 4);
}
/// The descriptor `bytes` further.
__device__ inline uint64_t advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }
/// From columns [0, 16) to columns [16 step, 16 step + 16) of a matrix contracted along its columns.
__device__ inline uint32_t column_step(int step, uint32_t panel_bytes) {
  return static_cast<uint32_t>(step / 4) * panel_bytes + static_cast<uint32_t>(step % 4) * 32;
}
/// From rows [0, 16) to rows [16 step, 16 step + 16) of a matrix contracted along its rows.
__device__ inline uint32_t row_step(int step) { return static_cast<uint32_t>(step) * 2048; }

/// d [64, kColumns] (+)= a [64, 16] times b [16, kColumns], asynchronously. `add`: 0 overwrites. Transposed: contracted
/// along its rows in shared memory.
template <class T, int kColumns>
struct Product;

// The registers %0 to %(n - 1), as text.
#define CAMO_TEN(t) "%" t "0,%" t "1,%" t "2,%" t "3,%" t "4,%" t "5,%" t "6,%" t "7,%" t "8,%" t "9"
#define CAMO_R10 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9"
#define CAMO_R20 CAMO_R10 "," CAMO_TEN("1")
#define CAMO_R30 CAMO_R20 "," CAMO_TEN("2")
#define CAMO_R40 CAMO_R30 "," CAMO_TEN("3")
#define CAMO_R50 CAMO_R40 "," CAMO_TEN("4")
#define CAMO_R60 CAMO_R50 "," CAMO_TEN("5")
#define CAMO_R70 CAMO_R60 "," CAMO_TEN("6")
#define CAMO_R80 CAMO_R70 "," CAMO_TEN("7")
#define CAMO_R90 CAMO_R80 "," CAMO_TEN("8")
#define CAMO_R100 CAMO_R90 "," CAMO_TEN("9")
#define CAMO_R110 CAMO_R100 "," CAMO_TEN("10")
#define CAMO_R120 CAMO_R110 "," CAMO_TEN("11")
// Eight accumulators from d[i] on.
#define CAMO_D8(i)                                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define CAMO_D16(i) CAMO_D8(i), CAMO_D8(i + 8)
#define CAMO_D32(i) CAMO_D16(i), CAMO_D16(i + 16)
#define CAMO_D64(i) CAMO_D32(i), CAMO_D32(i + 32)

// n columns; the registers' text; the numbers of the operands after them; the registers' constraints.
#define CAMO_PRODUCT(T, type, n, registers, o0, o1, o2, o3, o4, o5, o6, ...)                                    \
  template <>                                                                                                   \
  struct Product<T, n> {                                                                                        \
    template <bool kTransposedA, bool kTransposedB>                                                             \
    static __device__ void run(float (&d)[n / 2], uint64_t a, uint64_t b, int add) {                            \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n         \
                   "k16.f32." type "." type " {" registers "}, %" o0 ", %" o1 ", p, 1, 1, %" o3 ", %" o4 ";\n}" \
                   : __VA_ARGS__                                                                                \
                   : "l"(a), "l"(b), "r"(add), "n"(int(kTransposedA)), "n"(int(kTransposedB)));                 \
    }                                                                                                           \
    template <bool kTransposedB>                                                                                \
    static __device__ void run(float (&d)[n / 2], const uint32_t* a, uint64_t b, int add) {                     \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n         \
                   "k16.f32." type "." type " {" registers "}, {%" o0 ", %" o1 ", %" o2 ", %" o3 "}, %" o4      \
                   ", p, 1, 1, %" o6 ";\n}"                                                                     \
                   : __VA_ARGS__                                                                                \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(int(kTransposedB)));     \
    }                                                                                                           \
  }
#define CAMO_PRODUCTS(T, type)                                                                                         \
  CAMO_PRODUCT(T, type, 8, "%0,%1,%2,%3", "4", "5", "6", "7", "8", "9", "10", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]),      \
               "+f"(d[3]));                                                                                            \
  CAMO_PRODUCT(T, type, 16, "%0,%1,%2,%3,%4,%5,%6,%7", "8", "9", "10", "11", "12", "13", "14", CAMO_D8(0));            \
  CAMO_PRODUCT(T, type, 24, CAMO_R10 ",%10,%11", "12", "13", "14", "15", "16", "17", "18", CAMO_D8(0), "+f"(d[8]),     \
               "+f"(d[9]), "+f"(d[10]), "+f"(d[11]));                                                                  \
  CAMO_PRODUCT(T, type, 32, CAMO_R10 ",%10,%11,%12,%13,%14,%15", "16", "17", "18", "19", "20", "21", "22",             \
               CAMO_D16(0));                                                                                           \
  CAMO_PRODUCT(T, type, 40, CAMO_R20, "20", "21", "22", "23", "24", "25", "26", CAMO_D16(0), "+f"(d[16]), "+f"(d[17]), \
               "+f"(d[18]), "+f"(d[19]));                                                                              \
  CAMO_PRODUCT(T, type, 48, CAMO_R20 ",%20,%21,%22,%23", "24", "25", "26", "27", "28", "29", "30", CAMO_D16(0),        \
               CAMO_D8(16));                                                                                           \
  CAMO_PRODUCT(T, type, 64, CAMO_R30 ",%30,%31", "32", "33", "34", "35", "36", "37", "38", CAMO_D32(0));               \
  CAMO_PRODUCT(T, type, 80, CAMO_R40, "40", "41", "42", "43", "44", "45", "46", CAMO_D32(0), CAMO_D8(32));             \
  CAMO_PRODUCT(T, type, 96, CAMO_R40 ",%40,%41,%42,%43,%44,%45,%46,%47", "48", "49", "50", "51", "52", "53", "54",     \
               CAMO_D32(0), CAMO_D16(32));                                                                             \
  CAMO_PRODUCT(T, type, 112, CAMO_R50 ",%50,%51,%52,%53,%54,%55", "56", "57", "58", "59", "60", "61", "62",            \
               CAMO_D32(0), CAMO_D16(32), CAMO_D8(48));                                                                \
  CAMO_PRODUCT(T, type, 128, CAMO_R60 ",%60,%61,%62,%63", "64", "65", "66", "67", "68", "69", "70", CAMO_D64(0));      \
  CAMO_PRODUCT(T, type, 144, CAMO_R70 ",%70,%71", "72", "73", "74", "75", "76", "77", "78", CAMO_D64(0), CAMO_D8(64)); \
  CAMO_PRODUCT(T, type, 160, CAMO_R80, "80", "81", "82", "83", "84", "85", "86", CAMO_D64(0), CAMO_D16(64));           \
  CAMO_PRODUCT(T, type, 176, CAMO_R80 ",%80,%81,%82,%83,%84,%85,%86,%87", "88", "89", "90", "91", "92", "93", "94",    \
               CAMO_D64(0), CAMO_D16(64), CAMO_D8(80));                                                                \
  CAMO_PRODUCT(T, type, 192, CAMO_R90 ",%90,%91,%92,%93,%94,%95", "96", "97", "98", "99", "100", "101", "102",         \
               CAMO_D64(0), CAMO_D32(64));                                                                             \
  CAMO_PRODUCT(T, type, 256, CAMO_R120 ",%120,%121,%122,%123,%124,%125,%126,%127", "128", "129", "130", "131", "132",  \
               "133", "134", CAMO_D64(0), CAMO_D64(64))
CAMO_PRODUCTS(Half, "f16");
CAMO_PRODUCTS(BFloat16, "bf16");

/// Two floats as one pair of T, `low` in the lower half.
template <class T>
__device__ uint32_t pack(float low, float high) {
  return uint32_t{T(low).bits} | uint32_t{T(high).bits} << 16;
}
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800  // in one instruction
template <>
__device__ inline uint32_t pack<Half>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
__device__ inline uint32_t pack<BFloat16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

/// 2^x in one instruction; 0 for -infinity.
__device__ inline float exp2_unit(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace camo::flash::hopper
