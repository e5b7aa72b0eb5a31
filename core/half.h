// 16-bit floating-point numbers: storage types that convert to and from float with round-to-nearest-even.
#pragma once

#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define CAMO_HOST_DEVICE __host__ __device__
#else
#define CAMO_HOST_DEVICE
#endif

namespace camo {

/// bfloat16: the upper half of a float.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  CAMO_HOST_DEVICE explicit BFloat16(float value) {
#ifdef __CUDA_ARCH__
    bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
    uint32_t word = std::bit_cast<uint32_t>(value);
    if ((word & 0x7fffffffu) > 0x7f800000u) bits = static_cast<uint16_t>((word >> 16) | 0x40u);  // NaN stays quiet
    else bits = static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
#endif
  }
  CAMO_HOST_DEVICE explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

/// IEEE 754 binary16.
struct Half {
  uint16_t bits = 0;

  Half() = default;
  CAMO_HOST_DEVICE explicit Half(float value) {
#ifdef __CUDA_ARCH__
    bits = __half_as_ushort(__float2half_rn(value));
#else
    const uint32_t word = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (word >> 16) & 0x8000u;
    const uint32_t magnitude = word & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) half = 0x7e00u;        // NaN
    else if (magnitude >= 0x477ff000u) half = 0x7c00u;  // rounds to 65520 or more: infinity
    else if (magnitude >= 0x38800000u) {                // normal: rebias the exponent, round the 13 dropped bits
      half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else {  // subnormal: adding 0.5 moves the 10 kept bits to the end of the significand and rounds them
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      half = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f);
    }
    bits = static_cast<uint16_t>(sign | half);
#endif
  }
  CAMO_HOST_DEVICE explicit operator float() const {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(bits));
#else
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    uint32_t word;
    if (magnitude >= 0x7c00u) word = 0x7f800000u | ((magnitude & 0x3ffu) << 13);  // infinity, NaN
    else if (magnitude >= 0x400u) word = (magnitude << 13) + 0x38000000u;
    else word = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
    return std::bit_cast<float>(sign | word);
#endif
  }
};

}  // namespace camo
