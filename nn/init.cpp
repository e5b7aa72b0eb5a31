#include "nn/init.h"

#include <cmath>

#include "core/random.h"

namespace camo {

Tensor init_uniform_fan_in(const Shape& shape, int64_t fan_in) {
  CAMO_CHECK(fan_in > 0, "init_uniform_fan_in: fan_in must be positive; got ", fan_in, " for shape ", shape);
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  return random_uniform(shape, -bound, bound);
}

Tensor init_truncated_normal(const Shape& shape, double deviation) { return random_truncated_normal(shape, deviation); }

}  // namespace camo
