#include "ops/attention/cuda/hopper_short_launch.cuh"

namespace camo::flash {
template bool hopper_takes_short<Half>(const Call<Half>&);
template void backward_hopper_short<Half>(const Call<Half>&, Device);
}  // namespace camo::flash
