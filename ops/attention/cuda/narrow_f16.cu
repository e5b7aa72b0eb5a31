#include "ops/attention/cuda/narrow_launch.cuh"

namespace camo::flash {
template void forward_narrow<Half>(const Call<Half>&, Device);
template void backward_narrow<Half>(const Call<Half>&, Device);
template void backward_whole<Half>(const Call<Half>&, Device);
}  // namespace camo::flash
