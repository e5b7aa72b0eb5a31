// Several elements a thread, loaded and stored at once, in the type that kernels compute with.
#pragma once

#include <initializer_list>

#include "core/cuda/kernels.cuh"

namespace camo::cuda {

/// The type in which kernels hold an element of T: float for the 16-bit types, else T.
template <class T>
struct ValueOf {
  using type = T;
};
template <>
struct ValueOf<Half> {
  using type = float;
};
template <>
struct ValueOf<BFloat16> {
  using type = float;
};
template <class T>
using Value = typename ValueOf<T>::type;

/// `p` is aligned to the pack.
template <int N, class T>
__device__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
__device__ void store_pack(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

/// N elements in the type that sums have.
template <int N, class T>
__device__ void load_values(const T* from, Accumulator<T> (&values)[N]) {
  const Pack<T, N> pack = load_pack<N>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = convert<Accumulator<T>>(pack.values[i]);
}
template <int N, class T>
__device__ void store_values(T* to, const Accumulator<T> (&values)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.values[i] = convert<T>(values[i]);
  store_pack<N>(to, pack);
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

/// load_values from global memory that nothing writes while the kernel runs: the loads of several steps of a loop may
/// then be in flight together, although stores lie between them.
template <int N, class T>
__device__ void load_constants(const T* from, Accumulator<T> (&values)[N]) {
  using Word = typename LoadWord<sizeof(T) * N>::type;
  constexpr int kWords = sizeof(T) * N / sizeof(Word);
  Word words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __ldg(reinterpret_cast<const Word*>(from) + i);
  Pack<T, N> pack;
  static_assert(sizeof pack == sizeof words);
  memcpy(&pack, words, sizeof pack);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = convert<Accumulator<T>>(pack.values[i]);
}

/// What an access of several elements must divide: addresses, and extents or strides in elements.
struct PackLimits {
  std::initializer_list<const void*> pointers;
  std::initializer_list<int64_t> extents;

  bool allow(int count, size_t bytes) const {
    for (const void* pointer : pointers) {
      if (!is_aligned(pointer, bytes)) return false;
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
  constexpr int kWide = kPackSize<T>;
  if (limits.allow(kWide, 16)) return fn.template operator()<kWide>();
  if constexpr (kWide > 2) {
    if (limits.allow(2, 2 * sizeof(T))) return fn.template operator()<2>();
  }
  fn.template operator()<1>();
}

/// Calls `fn.template operator()<U>()` with the unsigned type of 1, 2, 4 or 8 bytes, for plain copies.
template <class Fn>
void dispatch_bytes(int64_t bytes, Fn&& fn) {
  switch (bytes) {
    case 1: return fn.template operator()<uint8_t>();
    case 2: return fn.template operator()<uint16_t>();
    case 4: return fn.template operator()<uint32_t>();
    default: return fn.template operator()<uint64_t>();
  }
}

}  // namespace camo::cuda
