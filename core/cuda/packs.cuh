// Elements in the type that kernels compute with, loaded and stored several at once.
#pragma once

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
