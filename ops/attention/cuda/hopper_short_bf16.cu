#include "ops/attention/cuda/hopper_short_launch.cuh"

namespace camo::flash {
template bool hopper_takes_short<BFloat16>(const Call<BFloat16>&);
template void backward_hopper_short<BFloat16>(const Call<BFloat16>&, Device);
}  // namespace camo::flash
