#include "ops/attention/cuda/narrow_launch.cuh"

namespace camo::flash {
template void forward_narrow<BFloat16>(const Call<BFloat16>&, Device);
template void backward_narrow<BFloat16>(const Call<BFloat16>&, Device);
template void backward_whole<BFloat16>(const Call<BFloat16>&, Device);
}  // namespace camo::flash
