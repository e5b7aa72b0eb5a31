#include "models/edgenext/edgenext.h"

#include <string>

#include "nn/init.h"
#include "ops/ops.h"

namespace camo {

EdgeNeXtStage::EdgeNeXtStage(const EdgeNeXtSpec& spec, int index)
    : downsample_(index > 0 ? &child<Sequential>("downsample") : nullptr), blocks_(child<Blocks>("blocks")) {
  const size_t at = static_cast<size_t>(index);
  const EdgeNeXtStageSpec& stage = kEdgeNeXtStages[at];
  const int64_t channels = spec.dims[at];
  if (downsample_ != nullptr) {
    const int64_t in = spec.dims[at - 1];
    downsample_->add<LayerNorm>(in).add<Conv2d>(Conv2dSpec{.in = in, .out = channels, .kernel = 2, .stride = 2});
  }
  const int64_t conv_blocks = spec.depths[at] - (stage.has_attention ? 1 : 0);
  for (int64_t i = 0; i < conv_blocks; ++i) blocks_.append<ConvBlock>(channels, stage.kernel);
  if (stage.has_attention) {
    blocks_.append<SplitTransposeBlock>(SplitTransposeSpec{
        .channels = channels, .splits = stage.splits, .heads = spec.heads, .positions = stage.has_positions});
  }
}

Tensor EdgeNeXtStage::operator()(const Tensor& x) const {
  Tensor y = downsample_ != nullptr ? (*downsample_)(x) : x;
  for (const auto& block : blocks_.steps) {
    y = checkpointing_ && grad_enabled() ? checkpoint([&block](const Tensors& in) { return block(in[0]); }, {y})
                                         : block(y);
  }
  return y;
}

EdgeNeXt::EdgeNeXt(const EdgeNeXtSpec& spec)
    : spec_(spec),
      stem_0_(child<Conv2d>("stem_0", Conv2dSpec{.in = 3, .out = spec.dims[0], .kernel = 4, .stride = 4})),
      stem_1_(child<LayerNorm>("stem_1", spec.dims[0])) {
  for (int s = 0; s < 4; ++s) {
    stages_[static_cast<size_t>(s)] = &child<EdgeNeXtStage>("stages_" + std::to_string(s), spec, s);
  }
  for (const NamedTensor& parameter : named_parameters()) {
    const Tensor& value = parameter.tensor;
    const bool is_weight = parameter.name.ends_with(".weight") && value.dims() > 1;
    if (is_weight) copy_into(value, init_truncated_normal(value.shape()));
    if (parameter.name.ends_with(".bias")) fill(value, 0);
  }
}

Tensor EdgeNeXt::stem(const Tensor& x) const {
  CAMO_CHECK(x.dims() == 4 && x.size(3) == 3, "edgenext: input must be [N, H, W, 3]; got ", x.shape());
  CAMO_CHECK(x.size(1) >= 32 && x.size(2) >= 32, "edgenext: height and width must be at least 32; got ", x.shape(),
             "; resize the picture");
  return stem_1_(stem_0_(x));
}

std::array<Tensor, 4> EdgeNeXt::operator()(const Tensor& x) const {
  std::array<Tensor, 4> features;
  Tensor y = stem(x);
  for (size_t s = 0; s < 4; ++s) features[s] = y = (*stages_[s])(y);
  return features;
}

void EdgeNeXt::set_gradient_checkpointing(bool on) {
  for (EdgeNeXtStage* stage : stages_) stage->set_gradient_checkpointing(on);
}

}  // namespace camo
