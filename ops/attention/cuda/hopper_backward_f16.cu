#include "ops/attention/cuda/hopper_backward_launch.cuh"

namespace camo::flash {
template bool hopper_takes_backward<Half>(const Call<Half>&);
template void backward_hopper<Half>(const Call<Half>&, Device);
}  // namespace camo::flash
