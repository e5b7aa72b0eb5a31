// What launches the kernels, by element type: each is compiled in a file of its own.
#pragma once

#include "ops/attention/cuda/call.cuh"

namespace camo::flash {

template <class T>
void forward(const Call<T>& call, Device device);
/// Fills the gradients whose data is not null.
template <class T>
void backward(const Call<T>& call, Device device);

/// The kernels that read rows as windows (16 bits, no rules): those of q, k, v, y and dy are in phase.
template <class T>
void forward_narrow(const Call<T>& call, Device device);
template <class T>
void backward_narrow(const Call<T>& call, Device device);
template <class T>
void backward_whole(const Call<T>& call, Device device);

template <>
void forward<float>(const Call<float>& call, Device device);  // products of pairs of halves: f32_*.cuh
extern template void forward<Half>(const Call<Half>&, Device);
extern template void forward<BFloat16>(const Call<BFloat16>&, Device);
template <>
void backward<float>(const Call<float>& call, Device device);
extern template void backward<Half>(const Call<Half>&, Device);
extern template void backward<BFloat16>(const Call<BFloat16>&, Device);
extern template void forward_narrow<Half>(const Call<Half>&, Device);
extern template void forward_narrow<BFloat16>(const Call<BFloat16>&, Device);
extern template void backward_narrow<Half>(const Call<Half>&, Device);
extern template void backward_narrow<BFloat16>(const Call<BFloat16>&, Device);
extern template void backward_whole<Half>(const Call<Half>&, Device);
extern template void backward_whole<BFloat16>(const Call<BFloat16>&, Device);

}  // namespace camo::flash
