// The Hopper kernels, as the other launchers see them.
#pragma once

#include "ops/attention/cuda/call.cuh"

namespace camo::flash {

/// Whether the kernels take these tensors: no mask, no dropout, strides that TMA can follow, D up to 256.
template <class T>
bool hopper_takes_forward(const Call<T>& call);
template <class T>
bool hopper_takes_backward(const Call<T>& call);
/// Of tensors in phase, y too.
template <class T>
bool hopper_takes_short(const Call<T>& call);

template <class T>
void forward_hopper(const Call<T>& call, Device device);
/// Of heads that fit in shared memory, D 49 to 80; for calls that hopper_takes_forward.
template <class T>
void forward_hopper_resident(const Call<T>& call, Device device);
/// Fills the gradients whose data is not null.
template <class T>
void backward_hopper(const Call<T>& call, Device device);
template <class T>
void backward_hopper_short(const Call<T>& call, Device device);

extern template bool hopper_takes_forward<Half>(const Call<Half>&);
extern template bool hopper_takes_forward<BFloat16>(const Call<BFloat16>&);
extern template bool hopper_takes_backward<Half>(const Call<Half>&);
extern template bool hopper_takes_backward<BFloat16>(const Call<BFloat16>&);
extern template void forward_hopper<Half>(const Call<Half>&, Device);
extern template void forward_hopper<BFloat16>(const Call<BFloat16>&, Device);
extern template void forward_hopper_resident<Half>(const Call<Half>&, Device);
extern template void forward_hopper_resident<BFloat16>(const Call<BFloat16>&, Device);
extern template void backward_hopper<Half>(const Call<Half>&, Device);
extern template void backward_hopper<BFloat16>(const Call<BFloat16>&, Device);

extern template bool hopper_takes_short<Half>(const Call<Half>&);
extern template bool hopper_takes_short<BFloat16>(const Call<BFloat16>&);
extern template void backward_hopper_short<Half>(const Call<Half>&, Device);
extern template void backward_hopper_short<BFloat16>(const Call<BFloat16>&, Device);

}  // namespace camo::flash
