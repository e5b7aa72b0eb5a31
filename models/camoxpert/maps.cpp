#include "models/camoxpert/maps.h"

#include "ops/pool.h"
#include "ops/shape_ops.h"

namespace camo {

Tensor mean_map(const Tensor& x) { return reshape(global_avg_pool2d(x), {x.size(0), 1, 1, x.size(3)}); }

int64_t quarter_of(int64_t channels, const char* who) {
  CAMO_CHECK(channels > 0 && channels % 4 == 0, who, ": channels must be a multiple of 4; got ", channels);
  return channels / 4;
}

}  // namespace camo
