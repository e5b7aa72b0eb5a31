#include "ops/attention/cuda/backward.cuh"

namespace camo::flash {
template void backward<BFloat16>(const Call<BFloat16>&, Device);
}  // namespace camo::flash
