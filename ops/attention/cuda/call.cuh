// What the attention kernels are told, and the rules that hide or drop scores.
#pragma once

#include <cstdint>

#include "core/cuda/kernels.cuh"
#include "core/random.h"

namespace camo::flash {

inline constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;
inline constexpr float kLeastAdded = -1e38f;  // finite in base 2, and so is the log-sum-exp of a row of them

/// [B, N, H, D] memory, contiguous along D. Strides in elements.
template <class T>
struct Heads {
  T* data = nullptr;
  int64_t batch = 0, row = 0, head = 0;
  int access = sizeof(T);  // bytes that may be read at once: 16, 8, 4 or sizeof(T)

  __device__ T* of(int b, int h) const { return data + b * batch + h * head; }
};

enum class MaskKind { none, boolean, additive };

struct Rules {
  const void* mask = nullptr;
  MaskKind kind = MaskKind::none;
  int64_t strides[4] = {0, 0, 0, 0};  // of the mask over [B, H, Nq, Nk]; 0 where it is repeated
  bool causal = false;
  float dropout = 0;  // as the CPU compares it
  float keep_scale = 1;
  RandomKey key{};
};

template <class T>
struct Call {
  Heads<const T> q, k, v, y, dy;
  Heads<T> out, dq, dk, dv;
  float* log_sum_exp = nullptr;  // [B, H, Nq], natural logarithm; -infinity where a query sees no key
  float* delta = nullptr;        // [B, H, Nq], sum over D of dy * y
  int batch = 0, heads = 0, queries = 0, keys = 0, width = 0;
  float scale = 1;
  bool rounded = false;  // f32: numbers may be rounded to 11 bits
  Rules rules;
};

/// Every query sees every key and nothing is dropped: the kernels hold no code for it.
struct Dense {
  static constexpr bool kDense = true;
};

/// Mask, causality and dropout.
template <class T>
struct Ruled {
  static constexpr bool kDense = false;

  /// The score of query i and key j in base 2, -infinity where hidden. i and j may lie outside.
  static __device__ float score(const Call<T>& call, int b, int h, int i, int j, float product) {
    const Rules& rules = call.rules;
    if (i >= call.queries || j >= call.keys) return -INFINITY;
    if (rules.causal && j > i + call.keys - call.queries) return -INFINITY;
    float value = product * (call.scale * kLog2E);
    if (rules.kind == MaskKind::none) return value;
    const int64_t at = b * rules.strides[0] + h * rules.strides[1] + i * rules.strides[2] + j * rules.strides[3];
    if (rules.kind == MaskKind::boolean) return static_cast<const bool*>(rules.mask)[at] ? value : -INFINITY;
    const float added = static_cast<float>(static_cast<const T*>(rules.mask)[at]);
    return value + (added == -INFINITY ? added : fmaxf(added * kLog2E, kLeastAdded));  // the least float hides nothing
  }
  /// 0 or 1 / (1 - p), from the element's index in [B, H, Nq, Nk].
  static __device__ float keep(const Call<T>& call, int head, int i, int j) {
    if (call.rules.dropout <= 0) return 1;
    const uint64_t element = (static_cast<uint64_t>(head) * call.queries + i) * call.keys + j;
    const auto words = philox(call.rules.key.seed, element / 4, call.rules.key.stream);
    const uint32_t low = element & 1 ? words[1] : words[0], high = element & 1 ? words[3] : words[2];
    return uniform_from_bits(element & 2 ? high : low) < call.rules.dropout ? 0 : call.rules.keep_scale;
  }
};

}  // namespace camo::flash
