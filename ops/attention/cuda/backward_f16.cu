#include "ops/attention/cuda/backward.cuh"

namespace camo::flash {
template void backward<Half>(const Call<Half>&, Device);
}  // namespace camo::flash
