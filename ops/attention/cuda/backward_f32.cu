#include "ops/attention/cuda/backward.cuh"

namespace camo::flash {
template void backward<float>(const Call<float>&, Device);
}  // namespace camo::flash
