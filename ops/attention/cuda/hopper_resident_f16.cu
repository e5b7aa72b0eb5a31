#include "ops/attention/cuda/hopper_resident_launch.cuh"

namespace camo::flash {
template void forward_hopper_resident<Half>(const Call<Half>&, Device);
}  // namespace camo::flash
