// EdgeNeXt's stages, and the enhancement that follows each.
#include "models/edgenext/blocks.h"
#include "models/edgenext/spec.h"
#include "models/onnx/layers.h"
#include "ops/shape_ops.h"

namespace camo::onnx {
namespace {

Value mlp(const Layers& net, const Value& tokens, const std::string& prefix) {
  return net.linear(net.gelu(net.linear(tokens, prefix + ".fc1")), prefix + ".fc2");
}

/// gamma * mlp(norm(tokens))
Value scaled_mlp(const Layers& net, const Value& tokens, const std::string& prefix) {
  const Value mixed = mlp(net, net.token_norm(tokens, prefix + ".norm"), prefix + ".mlp");
  return net.graph().node("Mul", {mixed, net.parameter(prefix + ".gamma")});
}

Map conv_block(const Layers& net, const Map& x, const std::string& prefix) {
  const Value tokens = net.to_channels_last(net.depthwise(x, prefix + ".conv_dw"));
  Map y = x;
  y.value = net.to_channels_first(scaled_mlp(net, tokens, prefix));
  return net.add(x, y);
}

/// Depthwise convolutions in a cascade over parts of the channels; the last part passes unchanged.
Map cascade(const Layers& net, const Map& x, const std::string& prefix, int64_t splits) {
  const int64_t part = (x.channels + splits - 1) / splits;
  Integers sizes(static_cast<size_t>(splits - 1), part);
  sizes.push_back(x.channels - part * (splits - 1));
  const Values parts =
      net.graph().nodes("Split", sizes.size(), {x.value, net.graph().integers(sizes)}, {{"axis", int64_t{1}}});
  const auto part_map = [&](size_t i) { return Map{parts[i], sizes[i], x.height, x.width}; };
  std::vector<Map> emitted;
  Map running = part_map(0);
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    if (i > 0) running = net.add(running, part_map(i));
    running = net.depthwise(running, prefix + ".convs." + std::to_string(i));
    emitted.push_back(running);
  }
  emitted.push_back(part_map(parts.size() - 1));
  return net.concat(emitted);
}

/// Cross-covariance attention over tokens [B, L, C].
Value cross_covariance(const Layers& net, const Value& tokens, const std::string& prefix, int64_t length,
                       int64_t channels, int64_t heads) {
  Graph& graph = net.graph();
  const Value qkv = net.reshape(net.linear(tokens, prefix + ".qkv"), {0, length, 3, heads, channels / heads});
  const Value split = graph.node("Transpose", {qkv}, {{"perm", Integers{2, 0, 3, 4, 1}}});  // [3, B, heads, d, L]
  const auto normalized = [&](const Value& x) {
    const Value norm = graph.node("ReduceL2", {x, graph.integers({-1})}, {{"keepdims", int64_t{1}}});
    return graph.node("Div", {x, graph.node("Max", {norm, graph.scalar(1e-12f)})});
  };
  const Value q = normalized(net.pick(split, 0, 0)), k = normalized(net.pick(split, 0, 1)), v = net.pick(split, 0, 2);
  const Value keys = graph.node("Transpose", {k}, {{"perm", Integers{0, 1, 3, 2}}});
  const Value scores = graph.node("Mul", {graph.node("MatMul", {q, keys}), net.parameter(prefix + ".temperature")});
  const Value attention = graph.node("Softmax", {scores}, {{"axis", int64_t{-1}}});  // [B, heads, d, d]
  const Value mixed = graph.node("Transpose", {graph.node("MatMul", {attention, v})}, {{"perm", Integers{0, 3, 1, 2}}});
  return net.linear(net.reshape(mixed, {0, length, channels}), prefix + ".proj");
}

Map split_transpose_block(const Layers& net, const Map& x, const std::string& prefix, const EdgeNeXtStageSpec& stage,
                          int64_t heads) {
  Graph& graph = net.graph();
  Map mixed = cascade(net, x, prefix, stage.splits);
  if (stage.has_positions) {
    const Tensor encoding = contiguous(permute(fourier_encoding(x.height, x.width, f32), {0, 3, 1, 2}));
    const Map positions{graph.constant(prefix + ".encoding", encoding), encoding.size(1), x.height, x.width};
    mixed = net.add(mixed, net.conv(positions, prefix + ".pos_embd.token_projection"));
  }
  const int64_t length = x.height * x.width;
  const Value tokens = net.reshape(net.to_channels_last(mixed), {0, length, x.channels});
  const Value attended =
      cross_covariance(net, net.token_norm(tokens, prefix + ".norm_xca"), prefix + ".xca", length, x.channels, heads);
  const Value scaled = graph.node("Mul", {attended, net.parameter(prefix + ".gamma_xca")});
  const Value out = scaled_mlp(net, graph.node("Add", {tokens, scaled}), prefix);
  Map y = x;
  y.value = net.to_channels_first(net.reshape(out, {0, x.height, x.width, x.channels}));
  return net.add(x, y);
}

}  // namespace

Map backbone_stage(const Layers& net, const Map& x, const std::string& prefix, int64_t stage, int64_t depth,
                   int64_t heads) {
  const EdgeNeXtStageSpec& spec = kEdgeNeXtStages[static_cast<size_t>(stage)];
  Map y = x;
  if (stage > 0) {
    y = net.conv(net.layer_norm(x, prefix + ".downsample.0"), prefix + ".downsample.1", {.stride = 2});
  }
  for (int64_t b = 0; b < depth; ++b) {
    const std::string block = prefix + ".blocks." + std::to_string(b);
    const bool attends = spec.has_attention && b == depth - 1;
    y = attends ? split_transpose_block(net, y, block, spec, heads) : conv_block(net, y, block);
  }
  return y;
}

Map sdta_block(const Layers& net, const Map& x, const std::string& prefix) {
  const Map reduced = net.relu(net.conv(net.global_mean(x), prefix + ".channel_attention.1"));
  const Map channels = net.unary("Sigmoid", net.conv(reduced, prefix + ".channel_attention.3"));
  const Map u = net.mul(x, channels);
  const Map smoothed = net.depthwise(u, prefix + ".spatial_attention.0");
  const Map pixels = net.unary("Sigmoid", net.conv(smoothed, prefix + ".spatial_attention.1"));
  return net.add(net.mul(u, pixels), net.scaled(x, 0.1f));
}

}  // namespace camo::onnx
