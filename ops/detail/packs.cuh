// Several elements a thread: the widest access that pointers and extents allow.
#pragma once

#include <initializer_list>

#include "core/cuda/kernels.cuh"

namespace camo::detail {

/// What an access of several elements must divide: addresses, and extents or strides in elements.
struct PackLimits {
  std::initializer_list<const void*> pointers;
  std::initializer_list<int64_t> extents;

  bool allow(int count, size_t bytes) const {
    for (const void* pointer : pointers) {
      if (!cuda::is_aligned(pointer, bytes)) return false;
    }
    for (const int64_t extent : extents) {
      if (extent % count != 0) return false;
    }
    return true;
  }
};

/// Calls fn.template operator()<N>() with N elements of T in 16 bytes, or 2, or 1.
template <class T, class Fn>
void dispatch_pack(const PackLimits& limits, Fn&& fn) {
  constexpr int kWide = cuda::kPackSize<T>;
  if (limits.allow(kWide, 16)) return fn.template operator()<kWide>();
  if constexpr (kWide > 2) {
    if (limits.allow(2, 2 * sizeof(T))) return fn.template operator()<2>();
  }
  fn.template operator()<1>();
}

/// The unsigned word of this many bytes that one instruction loads.
template <int kBytes>
struct LoadWord {
  using type = uint4;
};
template <>
struct LoadWord<8> {
  using type = uint2;
};
template <>
struct LoadWord<4> {
  using type = unsigned;
};
template <>
struct LoadWord<2> {
  using type = unsigned short;
};

/// From memory that nothing writes while the kernel runs: the loads of several steps of a loop may then be in flight
/// together, although stores lie between them.
template <class T, int N>
__device__ void load_pack(const T* from, cuda::Accumulator<T> (&values)[N]) {
  using Word = typename LoadWord<sizeof(T) * N>::type;
  constexpr int kWords = sizeof(T) * N / sizeof(Word);
  Word words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __ldg(reinterpret_cast<const Word*>(from) + i);
  cuda::Pack<T, N> pack;
  static_assert(sizeof pack == sizeof words);
  memcpy(&pack, words, sizeof pack);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = convert<cuda::Accumulator<T>>(pack.values[i]);
}

template <class T, int N>
__device__ void store_pack(T* to, const cuda::Accumulator<T> (&values)[N]) {
  cuda::Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.values[i] = convert<T>(values[i]);
  *reinterpret_cast<cuda::Pack<T, N>*>(to) = pack;
}

}  // namespace camo::detail
