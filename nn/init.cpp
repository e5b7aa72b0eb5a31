#include "nn/init.h"

#include <cmath>
#include <utility>

#include "core/random.h"

namespace camo {
namespace {

thread_local bool skip_init = false;

}  // namespace

SkipInit::SkipInit() : before_(std::exchange(skip_init, true)) {}
SkipInit::~SkipInit() { skip_init = before_; }

Tensor init_uniform_fan_in(const Shape& shape, int64_t fan_in) {
  CAMO_CHECK(fan_in > 0, "init_uniform_fan_in: fan_in must be positive; got ", fan_in, " for shape ", shape);
  if (skip_init) return empty(shape);
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  return random_uniform(shape, -bound, bound);
}

Tensor init_truncated_normal(const Shape& shape, double deviation) {
  return skip_init ? empty(shape) : random_truncated_normal(shape, deviation);
}

}  // namespace camo
