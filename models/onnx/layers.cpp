#include "models/onnx/layers.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo::onnx {
namespace {

constexpr float kLayerNormEps = 1e-6f, kBatchNormEps = 1e-5f;

}  // namespace

Layers::Layers(Graph& graph, const StateDict& state) : graph_(graph) {
  for (const auto& [name, tensor] : state) {
    const DType dtype = is_floating(tensor.dtype()) ? f32 : i64;
    weights_.emplace(name, contiguous(to(to(tensor, cpu), dtype)));
  }
}

const Tensor& Layers::weight(const std::string& name) const {
  const auto found = weights_.find(name);
  CAMO_CHECK(found != weights_.end(), "export: the network has no tensor '", name, "'");
  return found->second;
}

Map Layers::conv(const Map& x, const std::string& prefix, const ConvShape& shape) const {
  const std::string key = prefix + ".weight", bias = prefix + ".bias";
  const Tensor& kernel = weight(key);  // [O, I, KH, KW]
  Values inputs{x.value, parameter(key)};
  if (weights_.contains(bias)) inputs.push_back(parameter(bias));
  const auto reach = [&](int64_t extent, int axis) {
    return (extent + 2 * shape.padding - shape.dilation * (kernel.size(axis) - 1) - 1) / shape.stride + 1;
  };
  return {graph_.node("Conv", inputs,
                      {{"kernel_shape", Integers{kernel.size(2), kernel.size(3)}},
                       {"strides", Integers{shape.stride, shape.stride}},
                       {"pads", Integers(4, shape.padding)},
                       {"dilations", Integers{shape.dilation, shape.dilation}},
                       {"group", shape.groups}}),
          kernel.size(0), reach(x.height, 2), reach(x.width, 3)};
}

Map Layers::depthwise(const Map& x, const std::string& prefix) const {
  return conv(x, prefix, {.padding = weight(prefix + ".weight").size(2) / 2, .groups = x.channels});
}

Value Layers::token_norm(const Value& x, const std::string& prefix) const {
  return graph_.node("LayerNormalization", {x, parameter(prefix + ".weight"), parameter(prefix + ".bias")},
                     {{"axis", int64_t{-1}}, {"epsilon", kLayerNormEps}});
}

Map Layers::layer_norm(const Map& x, const std::string& prefix) const {
  return with(x, to_channels_first(token_norm(to_channels_last(x), prefix)));
}

Map Layers::batch_norm(const Map& x, const std::string& prefix) const {
  return with(x, graph_.node("BatchNormalization",
                             {x.value, parameter(prefix + ".weight"), parameter(prefix + ".bias"),
                              parameter(prefix + ".running_mean"), parameter(prefix + ".running_var")},
                             {{"epsilon", kBatchNormEps}}));
}

Value Layers::gelu(const Value& x) const {
  const Value scaled = graph_.node("Mul", {x, graph_.scalar(static_cast<float>(1 / std::numbers::sqrt2))});
  const Value gate = graph_.node("Add", {graph_.node("Erf", {scaled}), graph_.scalar(1)});
  return graph_.node("Mul", {graph_.node("Mul", {x, graph_.scalar(0.5f)}), gate});
}

Value Layers::linear(const Value& x, const std::string& prefix) const {
  const std::string key = prefix + ".weight";
  const Value transposed = graph_.constant(key + ".transposed", contiguous(transpose(weight(key), 0, 1)));
  return graph_.node("Add", {graph_.node("MatMul", {x, transposed}), parameter(prefix + ".bias")});
}

Value Layers::pick(const Value& x, int64_t axis, int64_t index) const {
  const Value at = graph_.constant(concat_text("index_", index), from_vector<int64_t>({index}, {}, cpu));
  return graph_.node("Gather", {x, at}, {{"axis", axis}});
}

Map Layers::concat(const std::vector<Map>& maps) const {
  Values values;
  int64_t channels = 0;
  for (const Map& map : maps) {
    values.push_back(map.value);
    channels += map.channels;
  }
  return {graph_.node("Concat", values, {{"axis", int64_t{1}}}), channels, maps[0].height, maps[0].width};
}

Map Layers::resize(const Map& x, int64_t height, int64_t width) const {
  if (x.height == height && x.width == width) return x;
  return {graph_.node("Resize", {x.value, "", "", graph_.integers({height, width})},
                      {{"axes", Integers{2, 3}},
                       {"mode", std::string("linear")},
                       {"coordinate_transformation_mode", std::string("half_pixel")}}),
          x.channels, height, width};
}

Map Layers::global_mean(const Map& x) const { return {graph_.node("GlobalAveragePool", {x.value}), x.channels, 1, 1}; }

Map Layers::magnitude(const Map& a, const Map& b) const {
  const Map sum = add(mul(a, a), mul(b, b));
  return unary("Sqrt", with(sum, graph_.node("Add", {sum.value, graph_.scalar(1e-8f)})));
}

Map Layers::unit(const Map& x, const std::string& prefix) const {
  return gelu(layer_norm(conv(x, prefix + ".0"), prefix + ".1"));
}

}  // namespace camo::onnx
