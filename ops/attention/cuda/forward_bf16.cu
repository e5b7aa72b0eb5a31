#include "ops/attention/cuda/forward.cuh"

namespace camo::flash {
template void forward<BFloat16>(const Call<BFloat16>&, Device);
}  // namespace camo::flash
