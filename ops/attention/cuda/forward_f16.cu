#include "ops/attention/cuda/forward.cuh"

namespace camo::flash {
template void forward<Half>(const Call<Half>&, Device);
}  // namespace camo::flash
