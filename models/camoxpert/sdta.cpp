#include "models/camoxpert/sdta.h"

#include <algorithm>

#include "models/camoxpert/maps.h"
#include "ops/ops.h"

namespace camo {

SDTABlock::SDTABlock(int64_t channels)
    : channel_attention_(child<Sequential>("channel_attention")),
      spatial_attention_(child<Sequential>("spatial_attention")) {
  const int64_t reduced = std::max<int64_t>(channels / 8, 8);
  channel_attention_.add(mean_map)
      .add<Conv2d>(Conv2dSpec{.in = channels, .out = reduced, .bias = false})
      .add(relu)
      .add<Conv2d>(Conv2dSpec{.in = reduced, .out = channels, .bias = false})
      .add(sigmoid);
  spatial_attention_.add<Conv2d>(Conv2dSpec::depthwise(channels, 5, false))
      .add<Conv2d>(Conv2dSpec{.in = channels, .out = 1, .bias = false})
      .add(sigmoid);
}

Tensor SDTABlock::operator()(const Tensor& x) const {
  const Tensor u = x * channel_attention_(x);  // gate [N, 1, 1, C]
  return u * spatial_attention_(u) + 0.1 * x;  // gate [N, H, W, 1]
}

}  // namespace camo
