// exp, erf, sigmoid and softplus for loops that the compiler vectorises: no branches, no calls, no -ffast-math.
//
// The float versions are within 2.5 ulp of the exact value (erf: 1e-7 absolute); the double versions, and device code,
// use the standard library. Polynomials are least-squares fits reweighted to near-minimax on the stated intervals.
// Without always_inline gcc finds the functions too large to inline into loops, and nothing vectorises.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/half.h"

namespace camo::detail {

CAMO_HOST_DEVICE inline double simd_exp(double x) { return std::exp(x); }

/// exp(x) = 2^n exp(r), |r| <= ln(2) / 2. NaN stays NaN; overflow gives infinity, underflow subnormals and then 0.
[[gnu::always_inline]] CAMO_HOST_DEVICE inline float simd_exp(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number in the low bits
  x = x > 89.0f ? 89.0f : x;             // 2^128 and up: infinity
  x = x < -104.0f ? -104.0f : x;         // below half of the smallest subnormal: 0
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln(2) in two parts, the first exact in 10 bits
  float p = 0.00138144626f;
  p = p * r + 0.00836878084f;
  p = p * r + 0.0416683927f;
  p = p * r + 0.166665196f;
  p = p * r + 0.49999994f;
  p = (p * r) * r + r + 1.0f;
  // 2^n in two factors, as n reaches from -150 to 128.
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const int32_t half = exponent >> 1;
  const float scale0 = std::bit_cast<float>((half + 127) << 23);
  const float scale1 = std::bit_cast<float>((exponent - half + 127) << 23);
  return p * scale0 * scale1;
#endif
}

CAMO_HOST_DEVICE inline double simd_erf(double x) { return std::erf(x); }

/// x + x p(x^2) below 15/16, and 1 - exp(-t (1 + q(t))) for t = |x| above.
[[gnu::always_inline]] CAMO_HOST_DEVICE inline float simd_erf(float x) {
#ifdef __CUDA_ARCH__
  return erff(x);
#else
  const float s = x * x;
  float p = 8.267456e-05f;
  p = p * s - 0.000811807404f;
  p = p * s + 0.00519882981f;
  p = p * s - 0.0268584974f;
  p = p * s + 0.112836793f;
  p = p * s - 0.376126319f;
  p = p * s + 0.128379166f;
  const float small = p * x + x;
  float t = std::fabs(x);
  const bool is_small = t < 0.9375f;
  t = t > 4.0f ? 4.0f : t;  // erf rounds to 1
  float q = 1.21508165e-05f;
  q = q * t - 0.000331991265f;
  q = q * t + 0.00367974327f;
  q = q * t - 0.0238407571f;
  q = q * t + 0.10632804f;
  q = q * t + 0.635096312f;
  q = q * t + 0.128662005f;
  const float large = std::copysign(1.0f - simd_exp(-(q * t + t)), x);
  return is_small ? small : large;
#endif
}

/// 1 / (1 + exp(-x))
template <class T>
[[gnu::always_inline]] CAMO_HOST_DEVICE inline T simd_sigmoid(T x) {
  return T(1) / (T(1) + simd_exp(-x));
}

CAMO_HOST_DEVICE inline double simd_softplus(double x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::fabs(x))); }

/// max(x, 0) + log(1 + u) with u = exp(-|x|) in [0, 1]; log(1 + f) = f - f^2 / 2 + f^3 p(f) for f in [-0.29, 0.42],
/// where 1 + u is halved when u is larger.
[[gnu::always_inline]] CAMO_HOST_DEVICE inline float simd_softplus(float x) {
  const float u = simd_exp(-std::fabs(x));
#ifdef __CUDA_ARCH__
  const float log1p_u = log1pf(u);
#else
  const bool halve = u > 0.41421356f;
  const float f = halve ? (u - 1.0f) * 0.5f : u;
  float p = 0.067476511f;
  p = p * f - 0.116774946f;
  p = p * f + 0.118887223f;
  p = p * f - 0.124053448f;
  p = p * f + 0.142194495f;
  p = p * f - 0.166680053f;
  p = p * f + 0.200021237f;
  p = p * f - 0.250000089f;
  p = p * f + 0.333333135f;
  const float log1p_u = (p * f - 0.5f) * f * f + f + (halve ? 0.693147181f : 0.0f);
#endif
  return (x < 0.0f ? 0.0f : x) + log1p_u;
}

}  // namespace camo::detail
