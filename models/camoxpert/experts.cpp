#include "models/camoxpert/experts.h"

#include <functional>
#include <iterator>

#include "models/camoxpert/maps.h"
#include "ops/ops.h"

namespace camo {

std::shared_ptr<Expert> make_expert(int64_t index, int64_t channels, int64_t attention_heads, double dropout,
                                    bool use_flash_attention) {
  const std::function<std::shared_ptr<Expert>()> types[] = {
      [&] { return std::make_shared<TextureExpert>(channels); },
      [&] { return std::make_shared<AttentionExpert>(channels, attention_heads, dropout, use_flash_attention); },
      [&] { return std::make_shared<HybridExpert>(channels); },
      [&] { return std::make_shared<FrequencyExpert>(channels); },
      [&] { return std::make_shared<EdgeExpert>(channels); },
      [&] { return std::make_shared<SemanticContextExpert>(channels); },
      [&] { return std::make_shared<ContrastExpert>(channels); },
  };
  static_assert(std::size(types) == kExpertNames.size());
  return types[static_cast<size_t>(index) % std::size(types)]();
}

Sequential& Expert::unit(const std::string& name, int64_t in, int64_t out) {
  return child<Sequential>(name).add<Conv2d>(Conv2dSpec{.in = in, .out = out}).add<LayerNorm>(out).add(gelu);
}

TextureExpert::TextureExpert(int64_t channels)
    : branches_([&] {
        const int64_t quarter = quarter_of(channels, "texture expert");
        std::array<Sequential*, 4> branches;
        for (int64_t b = 1; b <= 4; ++b) {
          Sequential& branch = child<Sequential>("branch" + std::to_string(b));
          branch.add<Conv2d>(Conv2dSpec{.in = channels, .out = quarter})
              .add<Conv2d>(Conv2dSpec{.in = quarter, .out = quarter, .kernel = 3, .padding = b, .dilation = b})
              .add<LayerNorm>(quarter)
              .add(gelu);
          branches[static_cast<size_t>(b - 1)] = &branch;
        }
        return branches;
      }()),
      fusion_(unit("fusion", channels, channels)) {}

Tensor TextureExpert::operator()(const Tensor& x) const {
  Tensors parts;
  for (const Sequential* branch : branches_) parts.push_back((*branch)(x));
  return fusion_(concat(parts, 3)) + x;
}

SDTAEncoder::SDTAEncoder(int64_t channels, int64_t heads, double dropout, bool use_flash_attention)
    : heads_(heads),
      use_flash_attention_(use_flash_attention),
      qkv_(child<Conv2d>("qkv", Conv2dSpec{.in = channels, .out = 3 * channels, .bias = false})),
      proj_(child<Conv2d>("proj", Conv2dSpec{.in = channels, .out = channels})),
      dropout_(child<Dropout>("dropout", dropout)) {
  CAMO_CHECK(heads > 0 && channels % heads == 0, "attention expert: heads must divide the channels; got ", heads,
             " heads, ", channels, " channels");
}

Tensor SDTAEncoder::operator()(const Tensor& x) const {
  const int64_t batch = x.size(0), pixels = x.size(1) * x.size(2), channels = x.size(3);
  const Tensor qkv = reshape(qkv_(x), {batch, pixels, 3, heads_, channels / heads_});
  AttentionOptions options;
  if (!use_flash_attention_) options.backend = AttentionBackend::math;
  const Tensors parts = unstack(qkv, 2);
  const Tensor mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], options);
  return dropout_(proj_(reshape(mixed, x.shape()))) + x;
}

AttentionExpert::AttentionExpert(int64_t channels, int64_t heads, double dropout, bool use_flash_attention)
    : attention_(child<SDTAEncoder>("attention", channels, heads, dropout, use_flash_attention)) {}

HybridExpert::HybridExpert(int64_t channels)
    : local_branch_(child<Sequential>("local_branch")
                        .add<Conv2d>(Conv2dSpec::depthwise(channels, 5))
                        .add<LayerNorm>(channels)
                        .add<Conv2d>(Conv2dSpec{.in = channels, .out = channels})
                        .add(gelu)),
      global_branch_(child<Sequential>("global_branch")
                         .add(mean_map)
                         .add<Conv2d>(Conv2dSpec{.in = channels, .out = quarter_of(channels, "hybrid expert")})
                         .add(gelu)
                         .add<Conv2d>(Conv2dSpec{.in = channels / 4, .out = channels})
                         .add(sigmoid)),
      fusion_(child<Conv2d>("fusion", Conv2dSpec{.in = channels, .out = channels})) {}

Tensor HybridExpert::operator()(const Tensor& x) const { return fusion_(local_branch_(x) * global_branch_(x)) + x; }

FrequencyExpert::FrequencyExpert(int64_t channels)
    : low_(unit("low_freq_conv", channels, quarter_of(channels, "frequency expert"))),
      mid_(unit("mid_freq_conv", channels, channels / 4)),
      high_(unit("high_freq_conv", channels, channels / 4)),
      spatial_(unit("spatial_conv", channels, channels / 4)),
      fusion_(unit("fusion", channels, channels)) {}

Tensor FrequencyExpert::operator()(const Tensor& x) const {
  const Tensor box3 = avg_pool2d(x, {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
  const Tensor box5 = avg_pool2d(x, {.kernel = {5, 5}, .stride = {1, 1}, .padding = {2, 2}});
  return fusion_(concat({low_(box3), mid_(box3 - box5), high_(x - box3), spatial_(x)}, 3)) + x;
}

SemanticContextExpert::SemanticContextExpert(int64_t channels)
    : branches_([&] {
        const int64_t quarter = quarter_of(channels, "semantic context expert");
        std::array<Sequential*, 4> branches;
        for (size_t i = 0; i < 4; ++i) branches[i] = &unit("conv_" + std::to_string(i + 1), channels, quarter);
        return branches;
      }()),
      fusion_(unit("context_fusion", channels, channels)) {}

Tensor SemanticContextExpert::operator()(const Tensor& x) const {
  constexpr std::array<int64_t, 4> kGrids{8, 4, 2, 1};
  Tensors parts;
  for (size_t i = 0; i < 4; ++i) {
    const Tensor context = (*branches_[i])(adaptive_avg_pool2d(x, kGrids[i], kGrids[i]));
    parts.push_back(resize_bilinear(context, x.size(1), x.size(2)));
  }
  return fusion_(concat(parts, 3)) + x;
}

ContrastExpert::ContrastExpert(int64_t channels)
    : local_contrast_(child<Sequential>("local_contrast")
                          .add<Conv2d>(Conv2dSpec::depthwise(channels, 3))
                          .add<LayerNorm>(channels)
                          .add(gelu)
                          .add<Conv2d>(Conv2dSpec{.in = channels, .out = channels})
                          .add<LayerNorm>(channels)),
      fusion_(unit("fusion", channels, channels)) {}

Tensor ContrastExpert::operator()(const Tensor& x) const { return fusion_(local_contrast_(x)) + x; }

}  // namespace camo
