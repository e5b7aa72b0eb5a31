// The mixtures of experts. ONNX has no way to send each image of a batch through experts of its own, so all experts run
// on all images, and those that an image did not choose get weight 0: the same sum, exactly.
#include "models/camoxpert/experts.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "models/onnx/layers.h"

namespace camo::onnx {
namespace {

/// The matrix of an adaptive average pool along one axis: [to, from].
Tensor pooling_matrix(int64_t from, int64_t to) {
  std::vector<float> values(static_cast<size_t>(from * to));
  for (int64_t i = 0; i < to; ++i) {
    const int64_t begin = i * from / to, end = ((i + 1) * from + to - 1) / to;
    for (int64_t j = begin; j < end; ++j)
      values[static_cast<size_t>(i * from + j)] = 1.0f / static_cast<float>(end - begin);
  }
  return from_vector(values, {to, from}, cpu);
}

Tensor transposed(const Tensor& x) { return clone(make_view(x, {x.size(1), x.size(0)}, {1, x.size(1)}, 0)); }

Map adaptive_mean(const Layers& net, const Map& x, int64_t grid) {
  Graph& graph = net.graph();
  const auto name = [&](int64_t extent, const char* side) {
    return concat_text("pool_", extent, "_to_", grid, "_", side);
  };
  const Value rows = graph.constant(name(x.height, "rows"), pooling_matrix(x.height, grid));
  const Value columns = graph.constant(name(x.width, "columns"), transposed(pooling_matrix(x.width, grid)));
  const Value pooled = graph.node("MatMul", {graph.node("MatMul", {rows, x.value}), columns});
  return {pooled, x.channels, grid, grid};
}

Map box_mean(const Layers& net, const Map& x, int64_t size) {
  Map y = x;
  y.value = net.graph().node("AveragePool", {x.value},
                             {{"kernel_shape", Integers{size, size}},
                              {"pads", Integers(4, size / 2)},
                              {"strides", Integers{1, 1}},
                              {"count_include_pad", int64_t{1}}});
  return y;
}

/// A fixed 3x3 kernel over every channel.
Map filtered(const Layers& net, const Map& x, const std::string& kernel_name) {
  const std::vector<float> kernel = net.weight(kernel_name).to_vector<float>();
  std::vector<float> values;
  for (int64_t c = 0; c < x.channels; ++c) values.insert(values.end(), kernel.begin(), kernel.end());
  const Value weight = net.graph().constant(kernel_name + ".expanded", from_vector(values, {x.channels, 1, 3, 3}, cpu));
  Map y = x;
  y.value = net.graph().node("Conv", {x.value, weight}, {{"pads", Integers(4, 1)}, {"group", x.channels}});
  return y;
}

Map texture(const Layers& net, const Map& x, const std::string& prefix) {
  std::vector<Map> parts;
  for (int64_t b = 1; b <= 4; ++b) {
    const std::string branch = prefix + ".branch" + std::to_string(b);
    const Map wide = net.conv(net.conv(x, branch + ".0"), branch + ".1", {.padding = b, .dilation = b});
    parts.push_back(net.gelu(net.layer_norm(wide, branch + ".2")));
  }
  return net.add(net.unit(net.concat(parts), prefix + ".fusion"), x);
}

/// Softmax attention over all pixels. Queries go in chunks, or the scores of a large map would take gigabytes.
Map attention(const Layers& net, const Map& x, const std::string& prefix, int64_t heads) {
  constexpr int64_t kChunk = 1024;
  Graph& graph = net.graph();
  const int64_t length = x.height * x.width, width = x.channels / heads;
  const Value qkv = net.reshape(net.conv(x, prefix + ".attention.qkv").value, {0, 3, heads, width, length});
  const Integers swap{0, 1, 3, 2};
  const Value queries = graph.node("Transpose", {net.pick(qkv, 1, 0)}, {{"perm", swap}});  // [N, heads, L, d]
  const Value scaled = graph.node("Mul", {queries, graph.scalar(1 / std::sqrt(static_cast<float>(width)))});
  const Value keys = net.pick(qkv, 1, 1);                                                 // [N, heads, d, L]
  const Value values = graph.node("Transpose", {net.pick(qkv, 1, 2)}, {{"perm", swap}});  // [N, heads, L, d]
  Integers sizes;
  for (int64_t begin = 0; begin < length; begin += kChunk) sizes.push_back(std::min(kChunk, length - begin));
  const Values chunks = graph.nodes("Split", sizes.size(), {scaled, graph.integers(sizes)}, {{"axis", int64_t{2}}});
  Values mixed;
  for (const Value& chunk : chunks) {
    const Value weights = graph.node("Softmax", {graph.node("MatMul", {chunk, keys})}, {{"axis", int64_t{-1}}});
    mixed.push_back(graph.node("MatMul", {weights, values}));
  }
  const Value joined = graph.node("Concat", mixed, {{"axis", int64_t{2}}});
  Map y = x;
  y.value = net.reshape(graph.node("Transpose", {joined}, {{"perm", swap}}), {0, x.channels, x.height, x.width});
  return net.add(net.conv(y, prefix + ".attention.proj"), x);
}

Map hybrid(const Layers& net, const Map& x, const std::string& prefix) {
  const std::string near = prefix + ".local_branch", far = prefix + ".global_branch";
  const Map local = net.gelu(net.conv(net.layer_norm(net.depthwise(x, near + ".0"), near + ".1"), near + ".2"));
  const Map gate = net.unary("Sigmoid", net.conv(net.gelu(net.conv(net.global_mean(x), far + ".1")), far + ".3"));
  return net.add(net.conv(net.mul(local, gate), prefix + ".fusion"), x);
}

Map frequency(const Layers& net, const Map& x, const std::string& prefix) {
  const Map box3 = box_mean(net, x, 3), box5 = box_mean(net, x, 5);
  const Map parts =
      net.concat({net.unit(box3, prefix + ".low_freq_conv"), net.unit(net.sub(box3, box5), prefix + ".mid_freq_conv"),
                  net.unit(net.sub(x, box3), prefix + ".high_freq_conv"), net.unit(x, prefix + ".spatial_conv")});
  return net.add(net.unit(parts, prefix + ".fusion"), x);
}

Map edge(const Layers& net, const Map& x, const std::string& prefix) {
  const Map sobel = net.magnitude(filtered(net, x, prefix + ".sobel_x"), filtered(net, x, prefix + ".sobel_y"));
  const Map curvature = net.unary("Abs", filtered(net, x, prefix + ".laplacian"));
  const Map parts =
      net.concat({net.unit(sobel, prefix + ".sobel_branch"), net.unit(curvature, prefix + ".laplacian_branch"),
                  net.unit(net.magnitude(sobel, curvature), prefix + ".gradient_branch"),
                  net.unit(x, prefix + ".spatial_branch")});
  return net.add(net.unit(parts, prefix + ".fusion"), x);
}

Map semantic_context(const Layers& net, const Map& x, const std::string& prefix) {
  constexpr int64_t kGrids[] = {8, 4, 2, 1};
  std::vector<Map> parts;
  for (size_t i = 0; i < 4; ++i) {
    const Map context = net.unit(adaptive_mean(net, x, kGrids[i]), prefix + ".conv_" + std::to_string(i + 1));
    parts.push_back(net.resize(context, x.height, x.width));
  }
  return net.add(net.unit(net.concat(parts), prefix + ".context_fusion"), x);
}

Map contrast(const Layers& net, const Map& x, const std::string& prefix) {
  const std::string local = prefix + ".local_contrast";
  const Map smoothed = net.gelu(net.layer_norm(net.depthwise(x, local + ".0"), local + ".1"));
  const Map mixed = net.layer_norm(net.conv(smoothed, local + ".3"), local + ".4");
  return net.add(net.unit(mixed, prefix + ".fusion"), x);
}

/// Logits [N, experts].
Value gate(const Layers& net, const Map& x, const std::string& prefix) {
  Graph& graph = net.graph();
  const int64_t quarter = net.weight(prefix + ".spatial_branch.0.weight").size(0);
  const Map spatial = net.gelu(net.conv(x, prefix + ".spatial_branch.0", {.padding = 1, .groups = quarter}));
  const auto flat = [&](const Value& map) { return graph.node("Flatten", {map}, {{"axis", int64_t{1}}}); };
  const Value means = net.gelu(net.linear(flat(net.global_mean(x).value), prefix + ".channel_branch.2"));
  const Value peaks = net.gelu(net.linear(flat(graph.node("GlobalMaxPool", {x.value})), prefix + ".max_branch.2"));
  const Value joined =
      graph.node("Concat", {flat(net.global_mean(spatial).value), means, peaks}, {{"axis", int64_t{1}}});
  return net.linear(net.gelu(net.linear(joined, prefix + ".fusion.0")), prefix + ".fusion.3");
}

}  // namespace

Map expert(const Layers& net, const Map& x, const std::string& prefix, int64_t index, int64_t heads) {
  using Type = Map (*)(const Layers&, const Map&, const std::string&);
  constexpr Type kAttention = nullptr;  // takes the heads besides
  constexpr Type kTypes[] = {texture, kAttention, hybrid, frequency, edge, semantic_context, contrast};
  static_assert(std::size(kTypes) == kExpertNames.size());
  const Type type = kTypes[static_cast<size_t>(index) % std::size(kTypes)];
  return type == kAttention ? attention(net, x, prefix, heads) : type(net, x, prefix);
}

Map mixture(const Layers& net, const Map& x, const std::string& prefix, int64_t chosen, int64_t experts,
            int64_t heads) {
  Graph& graph = net.graph();
  const Value logits = gate(net, x, prefix + ".gate");
  const Values top = graph.nodes("TopK", 2, {logits, graph.integers({chosen})}, {{"axis", int64_t{-1}}});
  const Value shares = graph.node("Softmax", {top[0]}, {{"axis", int64_t{-1}}});
  const Value none = graph.node("ConstantOfShape", {graph.node("Shape", {logits})});  // zeros [N, experts]
  const Value weights = graph.node("ScatterElements", {none, top[1], shares}, {{"axis", int64_t{1}}});
  Map sum;
  for (int64_t e = 0; e < experts; ++e) {
    const Map y = expert(net, x, prefix + ".experts." + std::to_string(e), e, heads);
    const Map weight{net.reshape(net.pick(weights, 1, e), {-1, 1, 1, 1}), 1, 1, 1};
    const Map part = net.mul(y, weight);
    sum = e == 0 ? part : net.add(sum, part);
  }
  return sum;
}

}  // namespace camo::onnx
