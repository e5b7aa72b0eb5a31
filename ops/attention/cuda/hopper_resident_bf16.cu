#include "ops/attention/cuda/hopper_resident_launch.cuh"

namespace camo::flash {
template void forward_hopper_resident<BFloat16>(const Call<BFloat16>&, Device);
}  // namespace camo::flash
