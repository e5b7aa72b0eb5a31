#include "ops/attention/cuda/hopper_backward_launch.cuh"

namespace camo::flash {
template bool hopper_takes_backward<BFloat16>(const Call<BFloat16>&);
template void backward_hopper<BFloat16>(const Call<BFloat16>&, Device);
}  // namespace camo::flash
