// Single modules against the reference: outputs and all gradients of every file in modules/, in f64 and in f32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "core/autograd.h"
#include "models/camoxpert/loss.h"
#include "nn/layers.h"
#include "tests/models/golden_support.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

struct Case {
  std::filesystem::path path;
  DType dtype;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.path << " in " << name(c.dtype); }

std::string module_name(const std::filesystem::path& path) {
  const std::string file = path.filename().string();
  return file.substr(0, file.find('.'));
}

bool is_loss(const std::filesystem::path& path) { return module_name(path).ends_with("Loss"); }

std::vector<Case> cases(bool losses) {
  std::vector<Case> found;
  for (const auto& path : golden_files(golden_dir() / "modules")) {
    if (is_loss(path) != losses) continue;
    found.push_back({path, f64});
    found.push_back({path, f32});
  }
  return found;
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return test_name(info.param.path) + "_" + std::string(name(info.param.dtype));
}

/// A module and the way to call it.
struct Built {
  std::shared_ptr<Module> module;
  std::function<Tensor(const Tensors&)> forward;
};

template <class M, class... Args>
Built built(Args&&... args) {
  auto module = std::make_shared<M>(std::forward<Args>(args)...);
  return {module, [module = module.get()](const Tensors& in) { return (*module)(in[0]); }};
}

/// What a factory may read off the file.
struct Sizes {
  int64_t channels;  // of the first input
  int64_t skip;      // of the second input; 0 without
  int64_t out;       // of the output
  int64_t experts;   // children of "experts" in the state
  int64_t heads() const { return channels % 8 == 0 ? 8 : 4; }
};

Built decoder(const Sizes& sizes) {
  auto module = std::make_shared<DecoderBlock>(DecoderSpec{.in = sizes.channels, .skip = sizes.skip, .out = sizes.out});
  return {module,
          [module = module.get()](const Tensors& in) { return (*module)(in[0], in.size() > 1 ? in[1] : Tensor()); }};
}

Built mixture(const Sizes& sizes) {
  auto module = std::make_shared<MoELayer>(
      MoESpec{.channels = sizes.channels, .experts = sizes.experts, .attention_heads = sizes.heads(), .dropout = 0});
  return {module, [module = module.get()](const Tensors& in) { return (*module)(in[0]).y; }};
}

using Factory = std::function<Built(const Sizes&)>;

const std::map<std::string, Factory>& factories() {
  static const std::map<std::string, Factory> table{
      {"LayerNorm2d", [](const Sizes& s) { return built<LayerNorm>(s.channels); }},
      {"ConvBlock", [](const Sizes& s) { return built<ConvBlock>(s.channels, 5); }},
      {"SplitTransposeBlock",
       [](const Sizes& s) {
         return built<SplitTransposeBlock>(
             SplitTransposeSpec{.channels = s.channels, .splits = 3, .heads = 4, .positions = true});
       }},
      {"SplitTransposeBlock2",
       [](const Sizes& s) {
         return built<SplitTransposeBlock>(
             SplitTransposeSpec{.channels = s.channels, .splits = 2, .heads = 8, .positions = false});
       }},
      {"SDTABlock", [](const Sizes& s) { return built<SDTABlock>(s.channels); }},
      {"ContentAwareGate", [](const Sizes& s) { return built<ContentAwareGate>(s.channels, s.out, 0); }},
      {"TextureExpert", [](const Sizes& s) { return built<TextureExpert>(s.channels); }},
      {"AttentionExpert", [](const Sizes& s) { return built<AttentionExpert>(s.channels, s.heads(), 0); }},
      {"HybridExpert", [](const Sizes& s) { return built<HybridExpert>(s.channels); }},
      {"FrequencyExpert", [](const Sizes& s) { return built<FrequencyExpert>(s.channels); }},
      {"EdgeExpert", [](const Sizes& s) { return built<EdgeExpert>(s.channels); }},
      {"SemanticContextExpert", [](const Sizes& s) { return built<SemanticContextExpert>(s.channels); }},
      {"ContrastExpert", [](const Sizes& s) { return built<ContrastExpert>(s.channels); }},
      {"MoELayer", mixture},
      {"DecoderBlock", decoder},
      {"DecoderBlockLast", decoder},
      {"DecoderBlockResize", decoder},
  };
  return table;
}

int64_t count_experts(const std::vector<std::string>& state) {
  std::set<std::string> indices;
  for (const std::string& key : state) {
    if (key.starts_with("experts.")) indices.insert(key.substr(8, key.find('.', 8) - 8));
  }
  return static_cast<int64_t>(indices.size());
}

/// Tolerance of values and gradients relative to max(1, largest recorded value). The records are rounded to f32, which
/// alone is up to 6e-8; measured in f64 at most 5.6e-8, in f32 2e-6.
double tolerance(DType dtype) { return dtype == f64 ? 1e-7 : 2e-5; }

class GoldenModule : public ::testing::TestWithParam<Case> {};

TEST_P(GoldenModule, OutputAndGradients) {
  const auto& [path, dtype] = GetParam();
  const SafeTensors file = read_safetensors(path);
  const std::string module_key = module_name(path);
  ASSERT_TRUE(factories().contains(module_key)) << "no module is known for the name " << module_key;

  Tensors inputs;
  while (const Tensor* input = file.find("in" + std::to_string(inputs.size()))) {
    inputs.push_back(from_golden(*input, dtype).set_requires_grad(true));
  }
  ASSERT_FALSE(inputs.empty());
  const std::vector<std::string> state = string_list(file, "state");
  const Built model = factories().at(module_key)(Sizes{.channels = inputs[0].size(-1),
                                                       .skip = inputs.size() > 1 ? inputs[1].size(-1) : 0,
                                                       .out = file.at("out").size(1),
                                                       .experts = count_experts(state)});
  std::vector<std::string> keys;
  for (const auto& [key, value] : model.module->state_dict()) keys.push_back(key);
  EXPECT_EQ(keys, state);
  fill_by_key(*model.module, file.metadata.at("fill_prefix"));
  model.module->to(dtype);
  model.module->train(path.filename().string().find(".train.") != std::string::npos);

  const Tensor out = model.forward(inputs);
  EXPECT_TRUE(all_close(to_golden(out), to_golden(from_golden(file.at("out"), f64)), tolerance(dtype))) << "out";
  backward(out, from_golden(file.at("cot"), dtype));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& wanted = file.at("grad_in" + std::to_string(i));
    ASSERT_TRUE(inputs[i].grad().defined());
    EXPECT_TRUE(all_close(to_golden(inputs[i].grad()), to_golden(from_golden(wanted, f64)), tolerance(dtype)))
        << "grad_in" << i;
  }
  for (const NamedTensor& parameter : model.module->named_parameters()) {
    const Tensor wanted =
        from_vector(file.at("grad." + parameter.name).to_vector<double>(), parameter.exported_shape());
    EXPECT_TRUE(all_close(exported_gradient(parameter), wanted, tolerance(dtype))) << "grad." << parameter.name;
  }
  EXPECT_EQ(file.tensors.size(), 2 * inputs.size() + 2 + model.module->named_parameters().size())
      << "the file has tensors that are compared with nothing";
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenModule, ::testing::ValuesIn(cases(false)), case_name);

class GoldenLoss : public ::testing::TestWithParam<Case> {};

TEST_P(GoldenLoss, ValueAndGradients) {
  const auto& [path, dtype] = GetParam();
  ASSERT_EQ(module_name(path), "AdvancedCODLoss") << "no loss is known for this name";
  const SafeTensors file = read_safetensors(path);
  CamoXpertOutput output;
  output.logits = from_golden(file.at("pred"), dtype).set_requires_grad(true);
  // The reference holds the auxiliary loss in single precision.
  output.aux = json_number(file, "parts", "aux");
  while (const Tensor* deep = file.find("deep" + std::to_string(output.deep.size()))) {
    output.deep.push_back(from_golden(*deep, dtype).set_requires_grad(true));
  }
  const LossOutput loss = AdvancedCODLoss()(output, from_golden(file.at("target"), dtype));
  EXPECT_NEAR(loss.total.item(), file.at("loss").item(), tolerance(dtype));
  for (const std::string& part : json_fields(file, "parts")) {
    EXPECT_NEAR(loss.part(part).item(), json_number(file, "parts", part), tolerance(dtype)) << part;
  }
  backward(loss.total);
  const auto expect_gradient = [&](const std::string& key, const Tensor& leaf) {
    const Tensor* wanted = file.find(key);
    if (wanted == nullptr) return;
    ASSERT_TRUE(leaf.grad().defined()) << key;
    EXPECT_TRUE(all_close(to_golden(leaf.grad()), to_golden(from_golden(*wanted, f64)), tolerance(dtype))) << key;
  };
  EXPECT_NE(file.find("grad_pred"), nullptr);
  expect_gradient("grad_pred", output.logits);
  for (size_t i = 0; i < output.deep.size(); ++i) expect_gradient("grad_deep" + std::to_string(i), output.deep[i]);
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenLoss, ::testing::ValuesIn(cases(true)), case_name);

}  // namespace
}  // namespace camo::test
