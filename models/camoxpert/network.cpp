#include "models/camoxpert/network.h"

#include <numeric>
#include <utility>

#include "core/autocast.h"
#include "ops/ops.h"

namespace camo {
namespace {

constexpr int64_t kLastWidth = 64;   // channels of the last decoder block
constexpr int64_t kFinalWidth = 32;  // inside the final convolutions

// Fails here, before any parameter is allocated, when the numbers do not fit.
const EdgeNeXtSpec& checked_backbone(const CamoXpertSpec& spec) {
  const EdgeNeXtSpec& backbone = edgenext_spec(spec.backbone);
  constexpr int64_t kMostExperts = 256;
  CAMO_CHECK_CODE(usage, spec.num_experts >= 1 && spec.num_experts <= kMostExperts,
                  "camoxpert: num_experts must be at least 1 and at most ", kMostExperts, "; got ", spec.num_experts);
  CAMO_CHECK_CODE(usage, spec.dropout >= 0 && spec.dropout < 1, "camoxpert: dropout must be in [0, 1); got ",
                  spec.dropout);
  CAMO_CHECK_CODE(usage, spec.attention_heads >= 1, "camoxpert: attention_heads must be at least 1; got ",
                  spec.attention_heads);
  int64_t common = 0;
  for (const int64_t channels : backbone.dims) common = std::gcd(common, channels);
  std::string choices;
  for (int64_t heads = 1; heads <= common; ++heads) {
    if (common % heads == 0) choices += (choices.empty() ? "" : ", ") + std::to_string(heads);
  }
  for (const int64_t channels : backbone.dims) {
    CAMO_CHECK_CODE(usage, channels % spec.attention_heads == 0, "camoxpert: attention_heads must divide the channels ",
                    "of every stage; got ", spec.attention_heads, " heads for ", channels, " channels of ",
                    spec.backbone, "; choose one of ", choices);
  }
  return backbone;
}

}  // namespace

CamoXpert::CamoXpert(const CamoXpertSpec& spec)
    : spec_(spec),
      dims_(checked_backbone(spec).dims),
      backbone_(child<EdgeNeXt>("backbone", edgenext_spec(spec.backbone))),
      sdta_blocks_(child<ModuleList<SDTABlock>>("sdta_blocks")),
      moe_layers_(child<ModuleList<MoELayer>>("moe_layers")),
      decoder_blocks_(child<ModuleList<DecoderBlock>>("decoder_blocks")),
      deep_heads_(child<ModuleList<Conv2d>>("deep_heads")),
      final_conv_(child<Sequential>("final_conv")) {
  for (const int64_t channels : dims_) {
    sdta_blocks_.append(channels);
    moe_layers_.append(MoESpec{.channels = channels,
                               .experts = spec.num_experts,
                               .attention_heads = spec.attention_heads,
                               .dropout = spec.dropout,
                               .use_flash_attention = spec.use_flash_attention});
  }
  for (size_t j = 0; j < 3; ++j) {
    const int64_t in = dims_[3 - j], out = dims_[2 - j];
    decoder_blocks_.append(DecoderSpec{.in = in, .skip = out, .out = out});
    deep_heads_.append(Conv2dSpec{.in = out, .out = 1});
  }
  decoder_blocks_.append(DecoderSpec{.in = dims_[0], .out = kLastWidth});
  final_conv_.add<Conv2d>(Conv2dSpec{.in = kLastWidth, .out = kFinalWidth, .kernel = 3, .padding = 1, .bias = false})
      .add<BatchNorm2d>(kFinalWidth)
      .add(relu)
      .add<Conv2d>(Conv2dSpec{.in = kFinalWidth, .out = 1});
  set_gradient_checkpointing(spec.gradient_checkpointing);
}

Tensor CamoXpert::begin(const Tensor& x) const {
  CAMO_CHECK(x.dims() == 4 && x.size(3) == 3, "camoxpert: input must be [N, H, W, 3]; got ", x.shape());
  CAMO_CHECK(x.size(1) >= 32 && x.size(2) >= 32, "camoxpert: height and width must be at least 32; got ", x.shape(),
             "; resize the picture");
  return backbone_.stem(x);
}

Tensor CamoXpert::leave_backbone(const Tensor& map) const {
  // The residual stream is wide; nothing behind it scales layers down.
  return autocast_dtype() != f32 ? camo::to(map, autocast_dtype()) : map;
}

std::array<Tensor, 4> CamoXpert::features(const Tensor& x) const {
  std::array<Tensor, 4> maps;
  Tensor y = begin(x);
  for (size_t s = 0; s < 4; ++s) maps[s] = leave_backbone(y = backbone_.stage(s)(y));
  return maps;
}

CamoXpertEncoding CamoXpert::encode(const Tensor& x) const {
  CamoXpertEncoding encoding;
  Tensor y = begin(x);
  // A stage's choices are on their way to the host while the next stages run: it can queue their experts meanwhile.
  for (size_t s = 0; s < 4; ++s) {
    y = backbone_.stage(s)(y);
    encoding.features[s] = leave_backbone(y);
    encoding.enhanced[s] = enhance(s, encoding.features[s]);
    encoding.routing[s] = moe_layers_[s].route(encoding.enhanced[s]);
    encoding.routing[s].indices_on_host = std::make_shared<HostCopy>(contiguous(encoding.routing[s].indices));
  }
  return encoding;
}

CamoXpertOutput CamoXpert::decode(const std::array<Tensor, 4>& maps, int64_t height, int64_t width) const {
  CamoXpertOutput out;
  const auto decode_block = [&](size_t j, const Tensor& map, const Tensor& skip) {
    const DecoderBlock& block = decoder_blocks_[j];
    if (!spec_.gradient_checkpointing || !grad_enabled()) return block(map, skip);
    if (!skip.defined()) return checkpoint([&block](const Tensors& in) { return block(in[0]); }, {map});
    return checkpoint([&block](const Tensors& in) { return block(in[0], in[1]); }, {map, skip});
  };
  Tensor y = maps[3];
  for (size_t j = 0; j < 3; ++j) {
    y = decode_block(j, y, maps[2 - j]);
    if (spec_.deep_supervision) out.deep.push_back(deep_heads_[j](y));
  }
  y = resize_bilinear(decode_block(3, y, {}), height, width);
  out.logits = final_conv_(y);
  return out;
}

CamoXpertMixture CamoXpert::mix(CamoXpertEncoding& encoding) const {
  CamoXpertMixture mixture;
  for (size_t s = 0; s < 4; ++s) {
    mixture.routing[s] = moe_layers_[s].report(encoding.routing[s]);
    const Tensor enhanced = std::exchange(encoding.enhanced[s], {});
    mixture.maps[s] = moe_layers_[s].mix(enhanced, encoding.routing[s], mixture.routing[s]);
  }
  return mixture;
}

CamoXpertOutput CamoXpert::operator()(const Tensor& x, const CamoXpertOptions& options) const {
  CamoXpertEncoding encoding = encode(x);
  std::vector<StageTrace> stages;
  for (size_t s = 0; options.keep_stages && s < 4; ++s) {
    stages.push_back(
        {encoding.features[s].detach(), encoding.enhanced[s].detach(), {}, encoding.routing[s].gate_logits});
  }
  encoding.features = {};
  CamoXpertMixture mixture = mix(encoding);
  for (size_t s = 0; s < stages.size(); ++s) stages[s].mixed = mixture.maps[s].detach();
  CamoXpertOutput out = decode(mixture.maps, x.size(1), x.size(2));
  for (const RoutingReport& layer : mixture.routing) out.aux += layer.aux;
  out.routing = std::move(mixture.routing);
  out.stages = std::move(stages);
  return out;
}

void CamoXpert::set_dropout(double p) {
  CAMO_CHECK_CODE(usage, p >= 0 && p < 1, "camoxpert: dropout must be in [0, 1); got ", p);
  spec_.dropout = p;
  visit([p](const std::string&, Module& module) {
    if (auto* dropout = dynamic_cast<Dropout*>(&module)) dropout->set_probability(p);
  });
}

void CamoXpert::set_gradient_checkpointing(bool on) {
  spec_.gradient_checkpointing = on;
  backbone_.set_gradient_checkpointing(on);
  for (MoELayer* layer : moe_layers_) layer->set_gradient_checkpointing(on);
}

std::vector<ParameterGroup> parameter_groups(const CamoXpert& network, double backbone_scale) {
  ParameterGroup backbone{.parameters = {}, .lr_scale = backbone_scale}, rest;
  for (const NamedTensor& parameter : network.named_parameters()) {
    if (!parameter.tensor.requires_grad()) continue;
    (parameter.name.starts_with("backbone.") ? backbone : rest).parameters.push_back(parameter);
  }
  std::vector<ParameterGroup> groups;
  if (!backbone.parameters.empty()) groups.push_back(std::move(backbone));
  if (!rest.parameters.empty()) groups.push_back(std::move(rest));
  return groups;
}

}  // namespace camo
