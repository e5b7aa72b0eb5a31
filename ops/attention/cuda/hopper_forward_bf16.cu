#include "ops/attention/cuda/hopper_forward_launch.cuh"

namespace camo::flash {
template bool hopper_takes_forward<BFloat16>(const Call<BFloat16>&);
template void forward_hopper<BFloat16>(const Call<BFloat16>&, Device);
}  // namespace camo::flash
