// forward() and backward() by element type: each is compiled in a file of its own.
#pragma once

#include "ops/attention/cuda/call.cuh"

namespace camo::flash {

template <class T>
void forward(const Call<T>& call, Device device);
/// Fills the gradients whose data is not null.
template <class T>
void backward(const Call<T>& call, Device device);

template <>
void forward<float>(const Call<float>& call, Device device);  // products of pairs of halves: f32_*.cuh
extern template void forward<Half>(const Call<Half>&, Device);
extern template void forward<BFloat16>(const Call<BFloat16>&, Device);
template <>
void backward<float>(const Call<float>& call, Device device);
extern template void backward<Half>(const Call<Half>&, Device);
extern template void backward<BFloat16>(const Call<BFloat16>&, Device);

}  // namespace camo::flash
