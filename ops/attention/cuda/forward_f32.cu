#include "ops/attention/cuda/forward.cuh"

namespace camo::flash {
template void forward<float>(const Call<float>&, Device);
}  // namespace camo::flash
