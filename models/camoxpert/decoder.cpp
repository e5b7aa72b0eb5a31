#include "models/camoxpert/decoder.h"

#include "ops/ops.h"

namespace camo {

DecoderBlock::DecoderBlock(const DecoderSpec& spec)
    : spec_(spec),
      conv_(child<Sequential>("conv")
                .add<Conv2d>(Conv2dSpec{.in = spec.in + spec.skip, .out = spec.out, .kernel = 3, .padding = 1})
                .add<BatchNorm2d>(spec.out)
                .add(relu)
                .add<Conv2d>(Conv2dSpec{.in = spec.out, .out = spec.out, .kernel = 3, .padding = 1})
                .add<BatchNorm2d>(spec.out)
                .add(relu)) {}

Tensor DecoderBlock::operator()(const Tensor& x, const Tensor& skip) const {
  const int64_t skip_channels = skip.defined() ? skip.size(-1) : 0;
  CAMO_CHECK(skip_channels == spec_.skip, "decoder block: skip map must have ", spec_.skip, " channels; got ",
             skip_channels);
  Tensor y = resize_bilinear(x, 2 * x.size(1), 2 * x.size(2));
  if (skip.defined()) y = concat({resize_bilinear(y, skip.size(1), skip.size(2)), skip}, 3);
  return conv_(y);
}

}  // namespace camo
