// The layers of the network as ONNX nodes. Maps are [N, C, H, W], as ONNX convolutions want them.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "models/onnx/graph.h"
#include "nn/module.h"

namespace camo::onnx {

/// A map in the graph and its extents; the batch is open.
struct Map {
  Value value;
  int64_t channels = 0, height = 0, width = 0;
};

struct ConvShape {
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
};

/// Emits layers whose weights stand in a state dict under "PREFIX.weight", "PREFIX.bias" and so on.
class Layers {
 public:
  Layers(Graph& graph, const StateDict& state);

  Graph& graph() const { return graph_; }
  const Tensor& weight(const std::string& name) const;

  // --- maps ---
  Map conv(const Map& x, const std::string& prefix, const ConvShape& shape = {}) const;
  Map depthwise(const Map& x, const std::string& prefix) const;
  Map layer_norm(const Map& x, const std::string& prefix) const;
  Map batch_norm(const Map& x, const std::string& prefix) const;
  Map gelu(const Map& x) const { return with(x, gelu(x.value)); }
  Map relu(const Map& x) const { return unary("Relu", x); }
  Map unary(const char* op, const Map& x) const { return with(x, graph_.node(op, {x.value})); }
  Map add(const Map& a, const Map& b) const { return with(a, graph_.node("Add", {a.value, b.value})); }
  Map sub(const Map& a, const Map& b) const { return with(a, graph_.node("Sub", {a.value, b.value})); }
  Map mul(const Map& a, const Map& b) const { return with(a, graph_.node("Mul", {a.value, b.value})); }
  Map scaled(const Map& x, float factor) const { return with(x, graph_.node("Mul", {x.value, graph_.scalar(factor)})); }
  Map concat(const std::vector<Map>& maps) const;
  /// Bilinear, half-pixel centres, no antialiasing.
  Map resize(const Map& x, int64_t height, int64_t width) const;
  Map global_mean(const Map& x) const;
  /// sqrt(a^2 + b^2 + 1e-8)
  Map magnitude(const Map& a, const Map& b) const;
  /// 1x1 convolution, layer norm, GELU: PREFIX.0 and PREFIX.1.
  Map unit(const Map& x, const std::string& prefix) const;

  // --- tokens: channels on the last axis ---
  Value to_channels_last(const Map& x) const {
    return graph_.node("Transpose", {x.value}, {{"perm", Integers{0, 2, 3, 1}}});
  }
  Value to_channels_first(const Value& x) const {
    return graph_.node("Transpose", {x}, {{"perm", Integers{0, 3, 1, 2}}});
  }
  Value token_norm(const Value& x, const std::string& prefix) const;
  Value linear(const Value& x, const std::string& prefix) const;
  Value gelu(const Value& x) const;
  /// With 0 for an extent that stays.
  Value reshape(const Value& x, const Integers& shape) const {
    return graph_.node("Reshape", {x, graph_.integers(shape)});
  }
  /// x[..., index, ...]: the axis goes.
  Value pick(const Value& x, int64_t axis, int64_t index) const;
  Value parameter(const std::string& name) const { return graph_.constant(name, weight(name)); }

 private:
  static Map with(const Map& like, Value value) { return {std::move(value), like.channels, like.height, like.width}; }

  Graph& graph_;
  std::unordered_map<std::string, Tensor> weights_;
};

/// The experts, decoders and backbone of one network.
Map backbone_stage(const Layers& net, const Map& x, const std::string& prefix, int64_t stage, int64_t depth,
                   int64_t heads);
Map sdta_block(const Layers& net, const Map& x, const std::string& prefix);
Map mixture(const Layers& net, const Map& x, const std::string& prefix, int64_t chosen, int64_t experts, int64_t heads);
Map expert(const Layers& net, const Map& x, const std::string& prefix, int64_t type, int64_t heads);

}  // namespace camo::onnx
