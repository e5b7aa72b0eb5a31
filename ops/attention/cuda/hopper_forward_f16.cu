#include "ops/attention/cuda/hopper_forward_launch.cuh"

namespace camo::flash {
template bool hopper_takes_forward<Half>(const Call<Half>&);
template void forward_hopper<Half>(const Call<Half>&, Device);
}  // namespace camo::flash
