// Names, shapes, order and counts of all parameters and buffers against the reference's.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/camoxpert/network.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

nlohmann::ordered_json manifest() {
  const auto path = golden_file("manifest.json");
  std::ifstream in(path);
  if (!in) fail(ErrorCode::checkpoint, path.string(), ": the manifest can not be read");
  return nlohmann::ordered_json::parse(in);
}

/// The reference leaves out the skip map of a decoder block whose output has 64 channels (the second of
/// edgenext_x_small); here a block's place decides. The first convolution of such a block has 64 more inputs.
Shape with_skip(const std::string& key, Shape shape, const EdgeNeXtSpec& spec) {
  for (size_t j = 0; j < 3; ++j) {
    const int64_t channels = spec.dims[2 - j];
    if (channels == 64 && key == "decoder_blocks." + std::to_string(j) + ".conv.0.weight") shape[1] += channels;
  }
  return shape;
}

class Manifest : public ::testing::TestWithParam<EdgeNeXtSpec> {};

TEST_P(Manifest, NamesShapesOrderAndCounts) {
  const std::string backbone(GetParam().name);
  const nlohmann::ordered_json wanted = manifest().at(backbone);
  const CamoXpert network({.backbone = backbone, .attention_heads = 4});
  const auto dims = wanted.at("dims").get<std::vector<int64_t>>();
  EXPECT_TRUE(std::equal(dims.begin(), dims.end(), GetParam().dims.begin(), GetParam().dims.end()));
  int64_t total = wanted.at("total").get<int64_t>();
  EXPECT_EQ(network.backbone().parameter_count(), wanted.at("backbone_total").get<int64_t>());

  const StateDict state = network.state_dict();
  const auto& keys = wanted.at("state_dict");
  ASSERT_EQ(state.size(), keys.size());
  size_t i = 0;
  for (const auto& [key, shape] : keys.items()) {
    EXPECT_EQ(state[i].first, key) << "position " << i;
    const auto extents = shape.get<std::vector<int64_t>>();
    const Shape recorded{std::span<const int64_t>(extents)};
    const Shape expected = with_skip(key, recorded, GetParam());
    total += expected.numel() - recorded.numel();
    EXPECT_EQ(state[i].second.shape(), expected) << key;
    ++i;
  }
  EXPECT_EQ(network.parameter_count(), total);
  if (backbone == "edgenext_base") {
    EXPECT_EQ(total, 31334228);
  }
  if (!wanted.contains("parameters")) return;
  std::vector<std::string> names;
  for (const NamedTensor& parameter : network.named_parameters()) names.push_back(parameter.name);
  EXPECT_EQ(names, wanted.at("parameters").get<std::vector<std::string>>());
}

INSTANTIATE_TEST_SUITE_P(Backbones, Manifest, ::testing::ValuesIn(kEdgeNeXtVariants),
                         [](const auto& c) { return std::string(c.param.name); });

}  // namespace
}  // namespace camo::test
