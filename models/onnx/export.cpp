#include "models/onnx/export.h"

#include <algorithm>

#include "models/onnx/layers.h"

namespace camo {

using onnx::Graph;
using onnx::Layers;
using onnx::Map;

namespace {

Map decoder_block(const Layers& net, const Map& x, const Map* skip, const std::string& prefix) {
  Map y = net.resize(x, 2 * x.height, 2 * x.width);
  if (skip != nullptr) y = net.concat({net.resize(y, skip->height, skip->width), *skip});
  for (const char* conv : {".conv.0", ".conv.3"}) {
    const std::string norm = std::string(".conv.") + (conv[6] == '0' ? "1" : "4");
    y = net.relu(net.batch_norm(net.conv(y, prefix + conv, {.padding = 1}), prefix + norm));
  }
  return y;
}

}  // namespace

void export_onnx(const std::filesystem::path& path, const CamoXpert& network, int64_t img_size) {
  CAMO_CHECK_CODE(usage, img_size >= 32, "export: img_size must be at least 32; got ", img_size);
  const CamoXpertSpec& spec = network.spec();
  const EdgeNeXtSpec& backbone = network.backbone().spec();
  Graph graph;
  const Layers net(graph, network.state_dict());
  graph.input("image", {3, img_size, img_size});

  Map y =
      net.layer_norm(net.conv({"image", 3, img_size, img_size}, "backbone.stem_0", {.stride = 4}), "backbone.stem_1");
  const int64_t chosen = std::min(spec.num_experts, std::max<int64_t>(2, spec.num_experts / 2));
  std::vector<Map> maps;
  for (size_t s = 0; s < 4; ++s) {
    const std::string number = std::to_string(s);
    y = onnx::backbone_stage(net, y, "backbone.stages_" + number, static_cast<int64_t>(s), backbone.depths[s],
                             backbone.heads);
    const Map enhanced = onnx::sdta_block(net, y, "sdta_blocks." + number);
    maps.push_back(
        onnx::mixture(net, enhanced, "moe_layers." + number, chosen, spec.num_experts, spec.attention_heads));
  }
  Map decoded = maps[3];
  for (size_t j = 0; j < 4; ++j) {
    decoded = decoder_block(net, decoded, j < 3 ? &maps[2 - j] : nullptr, "decoder_blocks." + std::to_string(j));
  }
  decoded = net.resize(decoded, img_size, img_size);
  const Map hidden = net.relu(net.batch_norm(net.conv(decoded, "final_conv.0", {.padding = 1}), "final_conv.1"));
  graph.output(net.conv(hidden, "final_conv.3").value, "logits", {1, img_size, img_size});
  graph.save(path, {{"backbone", spec.backbone},
                    {"num_experts", std::to_string(spec.num_experts)},
                    {"img_size", std::to_string(img_size)},
                    {"mean", "0.485,0.456,0.406"},
                    {"std", "0.229,0.224,0.225"},
                    {"output", "logits; sigmoid gives the probability of the foreground"}});
}

}  // namespace camo
