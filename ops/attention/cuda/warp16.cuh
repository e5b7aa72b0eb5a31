// What one warp does with 16-bit numbers: loads from shared memory as fragments, products on tensor cores (mma.sync),
// cheap powers of two.
//
// Lane l has group g = l / 4 and member t = l % 4. An accumulator of 16 x 8 holds (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1); two of them side by side, packed, are the left operand of 16 x 16.
#pragma once

#include "ops/attention/cuda/fragments.cuh"
#include "ops/attention/cuda/tiles.cuh"

namespace camo::flash {

inline constexpr int kLanes = 32;

__device__ inline uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

/// Four 8 x 8 matrices whose rows of 16 bytes start where the lanes point: lanes 8 i to 8 i + 7 at matrix i.
__device__ inline void load_matrices(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}
__device__ inline void load_matrices(uint32_t (&x)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(address));
}
__device__ inline void load_transposed(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}
__device__ inline void load_transposed(uint32_t (&x)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(address));
}

/// d = a b + c, 16 x 8 times 8 x 8.
template <class T>
__device__ void multiply_8(float (&d)[4], const uint32_t* a, uint32_t b, const float (&c)[4]) {
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  } else {
    CAMO_FLASH_ASM(("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
                    : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                    : "r"(a[0]), "r"(a[1]), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3])));
  }
}
/// d = a b + c, 16 x 16 times 16 x 8.
template <class T>
__device__ void multiply_16(float (&d)[4], const uint32_t* a, uint32_t b0, uint32_t b1, const float (&c)[4]) {
  if constexpr (std::is_same_v<T, Half>) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    multiply_8<T>(d, a, b0, c);
    multiply_8<T>(d, a + 2, b1, d);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
  } else {
    CAMO_FLASH_ASM(
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
         "{%10,%11,%12,%13};"
         : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3])));
  }
}
/// c += a b.
template <class T>
__device__ void multiply_16(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  multiply_16<T>(c, a, b0, b1, c);
}
template <class T>
__device__ void multiply_8(float (&c)[4], const uint32_t* a, uint32_t b) {
  multiply_8<T>(c, a, b, c);
}

/// 2^x within 2 ulp on the special-function unit (16 a clock and multiprocessor); 0 for -infinity.
__device__ inline float exp2_special(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 2^x on the multiply-add units, within 7.5e-5 relative, for x in [kExp2Lowest, kExp2Lowest + 128]; `u` is
/// (x - kExp2Lowest) / 128, in [0, 1]. The weight it gives is rounded to 16 bits next.
/// u splits into a multiple of 1/128, which becomes the exponent, and r, for which a cubic stands (minimax, Remez).
inline constexpr float kExp2Lowest = -113;
__device__ inline float exp2_polynomial(float u) {
  constexpr float kRound = 98304;  // 1.5 * 2^16: its last bit is worth 1/128
  constexpr float kUnit = 0x1p-113f;
  const float shifted = u + kRound;
  const float r = u - (shifted - kRound);
  float p = fmaf(0.05517166907486273f * 0x1p21f * kUnit, r, 0.2426111221943299f * 0x1p14f * kUnit);
  p = fmaf(p, r, 0.6932609854573365f * 0x1p7f * kUnit);
  p = fmaf(p, r, 0.9999280735404958f * kUnit);
  return __int_as_float((__float_as_int(shifted) << 23) + __float_as_int(p));
}

/// The largest weights seen, kept as cheaply as finding one that is too large allows.
template <class T>
struct WeightWatch;
/// Of bfloat16, the top bit of the exponent tells numbers from 2 on.
template <>
struct WeightWatch<BFloat16> {
  static constexpr float kHeadroom = 6;  // a fresh reference lies so far above the largest score: 2^7 until the alarm
  uint32_t seen = 0;
  __device__ void add(uint32_t x, uint32_t y) { seen = seen | x | y; }
  __device__ bool alarm() const { return (seen & 0x40004000u) != 0; }
};
/// float16 has little room below 1, so weights may grow to 2^8.
template <>
struct WeightWatch<Half> {
  static constexpr float kHeadroom = 0;
  __half2 seen = __half2(__half(0), __half(0));
  __device__ void add(uint32_t x, uint32_t y) {
    seen = __hmax2(seen, __hmax2(reinterpret_cast<const __half2&>(x), reinterpret_cast<const __half2&>(y)));
  }
  __device__ bool alarm() const {
    const uint32_t bits = reinterpret_cast<const uint32_t&>(seen);
    return (bits & 0xffffu) >= 0x5c00u || bits >= 0x5c000000u;
  }
};

}  // namespace camo::flash
