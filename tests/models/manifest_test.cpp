// Names, shapes, order and counts of all parameters and buffers against the reference's.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/camoxpert/network.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

nlohmann::ordered_json manifest() {
  const auto path = golden_dir() / "manifest.json";
  std::ifstream in(path);
  if (!in) fail(ErrorCode::checkpoint, path.string(), ": the manifest can not be read");
  return nlohmann::ordered_json::parse(in);
}

class Manifest : public ::testing::TestWithParam<EdgeNeXtSpec> {};

TEST_P(Manifest, NamesShapesOrderAndCounts) {
  const std::string backbone(GetParam().name);
  const nlohmann::ordered_json wanted = manifest().at(backbone);
  const CamoXpert network({.backbone = backbone, .attention_heads = 4});
  const auto dims = wanted.at("dims").get<std::vector<int64_t>>();
  EXPECT_TRUE(std::equal(dims.begin(), dims.end(), GetParam().dims.begin(), GetParam().dims.end()));
  EXPECT_EQ(network.parameter_count(), wanted.at("total").get<int64_t>());
  EXPECT_EQ(network.backbone().parameter_count(), wanted.at("backbone_total").get<int64_t>());

  const StateDict state = network.state_dict();
  const auto& keys = wanted.at("state_dict");
  ASSERT_EQ(state.size(), keys.size());
  size_t i = 0;
  for (const auto& [key, shape] : keys.items()) {
    EXPECT_EQ(state[i].first, key) << "position " << i;
    EXPECT_EQ(state[i].second.shape(), Shape(std::span<const int64_t>(shape.get<std::vector<int64_t>>()))) << key;
    ++i;
  }
  if (!wanted.contains("parameters")) return;
  std::vector<std::string> names;
  for (const NamedTensor& parameter : network.named_parameters()) names.push_back(parameter.name);
  EXPECT_EQ(names, wanted.at("parameters").get<std::vector<std::string>>());
}

INSTANTIATE_TEST_SUITE_P(Backbones, Manifest, ::testing::ValuesIn(kEdgeNeXtVariants),
                         [](const auto& c) { return std::string(c.param.name); });

TEST(Manifest, CountsOfTheModelPage) {
  const std::pair<const char*, int64_t> totals[] = {{"edgenext_xx_small", 2411560},
                                                    {"edgenext_x_small", 3781118},
                                                    {"edgenext_small", 9297080},
                                                    {"edgenext_base", 31334228}};
  for (const auto& [backbone, total] : totals) {
    EXPECT_EQ(CamoXpert({.backbone = backbone, .attention_heads = 4}).parameter_count(), total) << backbone;
  }
}

}  // namespace
}  // namespace camo::test
