#include "nn/attention.h"

#include "ops/attention.h"
#include "ops/shape_ops.h"

namespace camo {

SelfAttention::SelfAttention(const SelfAttentionSpec& spec)
    : spec_(spec),
      qkv_(child<Linear>("qkv", LinearSpec{.in = spec.channels, .out = 3 * spec.channels, .bias = spec.qkv_bias})),
      proj_(child<Linear>("proj", LinearSpec{.in = spec.channels, .out = spec.channels})) {
  CAMO_CHECK(spec.heads > 0 && spec.channels % spec.heads == 0, "self-attention: heads must divide the channels; got ",
             spec.heads, " heads, ", spec.channels, " channels");
  CAMO_CHECK(spec.dropout >= 0 && spec.dropout < 1, "self-attention: dropout must be in [0, 1); got ", spec.dropout);
}

Tensor SelfAttention::operator()(const Tensor& x, const Tensor& mask) const {
  CAMO_CHECK(x.dims() == 3 && x.size(2) == spec_.channels, "self-attention: x must be [batch, tokens, ", spec_.channels,
             "]; got ", x.shape());
  const Tensor qkv = reshape(qkv_(x), {x.size(0), x.size(1), 3, spec_.heads, spec_.channels / spec_.heads});
  AttentionOptions options;
  options.mask = mask;
  if (!spec_.use_flash_attention) options.backend = AttentionBackend::math;
  if (training() && spec_.dropout > 0) {
    options.dropout = spec_.dropout;
    options.dropout_key = default_generator().next();
  }
  const Tensors parts = unstack(qkv, 2);
  const Tensor mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], options);
  return proj_(reshape(mixed, x.shape()));
}

}  // namespace camo
