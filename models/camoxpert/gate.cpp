#include "models/camoxpert/gate.h"

#include "core/autocast.h"
#include "models/camoxpert/maps.h"
#include "ops/ops.h"

namespace camo {
namespace {

Tensor identity(const Tensor& x) { return x; }

}  // namespace

ContentAwareGate::ContentAwareGate(int64_t channels, int64_t experts, double dropout)
    : spatial_branch_(child<Sequential>("spatial_branch")),
      channel_branch_(child<Sequential>("channel_branch")),
      max_branch_(child<Sequential>("max_branch")),
      fusion_(child<Sequential>("fusion")) {
  const int64_t quarter = quarter_of(channels, "gate");
  spatial_branch_.add<Conv2d>(Conv2dSpec{.in = channels, .out = quarter, .kernel = 3, .padding = 1, .groups = quarter})
      .add(gelu)
      .add(global_avg_pool2d);
  // The identity holds the place of a flattening, so that the linear layer has the number 2 of its key.
  channel_branch_.add(global_avg_pool2d)
      .add(identity)
      .add<Linear>(LinearSpec{.in = channels, .out = quarter})
      .add(gelu);
  max_branch_.add(global_max_pool2d).add(identity).add<Linear>(LinearSpec{.in = channels, .out = quarter}).add(gelu);
  fusion_.add<Linear>(LinearSpec{.in = 3 * quarter, .out = channels / 2})
      .add(gelu)
      .add<Dropout>(dropout)
      .add<Linear>(LinearSpec{.in = channels / 2, .out = experts});
}

Tensor ContentAwareGate::operator()(const Tensor& x) const {
  const Tensor spatial = spatial_branch_(x);
  const Autocast full_precision(f32);  // from the pooled vectors on: the choice of experts hangs on small differences
  return fusion_(concat({spatial, channel_branch_(x), max_branch_(x)}, 1));
}

}  // namespace camo
