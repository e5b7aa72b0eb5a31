// Published weights and checkpoints: names, whole files, partial loads, reports.
#include <cstring>

#include "core/pth/pth.h"
#include "core/safetensors.h"
#include "models/weights/describe.h"
#include "models/weights/state.h"
#include "nn/init.h"
#include "ops/ops.h"
#include "tests/models/golden_support.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

constexpr const char* kVariants[] = {"edgenext_xx_small", "edgenext_x_small", "edgenext_small", "edgenext_base"};

CamoXpertSpec spec_of(const std::string& backbone, int64_t experts = 7) {
  return {.backbone = backbone, .num_experts = experts, .attention_heads = backbone == "edgenext_x_small" ? 4 : 8};
}

/// Zeros in place of drawn values: several times faster to make.
std::unique_ptr<CamoXpert> blank_network(const CamoXpertSpec& spec) {
  const SkipInit skip;
  auto network = std::make_unique<CamoXpert>(spec);
  for (const Tensor& parameter : network->parameters()) {
    std::memset(parameter.raw_data(), 0, static_cast<size_t>(parameter.numel()) * sizeof(float));
  }
  return network;
}

/// Other values in every element of every tensor, made quickly.
void number_elements(Module& module) {
  float next = 1;
  for (const NamedTensor& parameter : module.named_parameters()) {
    float* values = parameter.tensor.data<float>();
    for (int64_t i = 0; i < parameter.tensor.numel(); ++i) values[i] = next += 1;
  }
}

StateDict backbone_state(const CamoXpert& network) {
  StateDict state;
  for (auto& [name, tensor] : network.state_dict()) {
    if (name.starts_with("backbone.")) state.emplace_back(name, tensor);
  }
  return state;
}

/// The tensors of a backbone in another form, with a classifier where the form has one.
StateDict in_form(const StateDict& backbone, NameForm form, int64_t channels) {
  StateDict state;
  for (const auto& [name, tensor] : backbone) state.emplace_back(from_camoxpert(form, name).value(), tensor);
  for (const auto& [name, shape] : std::vector<std::pair<std::string, Shape>>{{"head.norm.weight", {channels}},
                                                                              {"head.norm.bias", {channels}},
                                                                              {"head.fc.weight", {5, channels}},
                                                                              {"head.fc.bias", {5}}}) {
    if (const auto own = from_camoxpert(form, name)) state.emplace_back(*own, ones(shape, f32, cpu));
  }
  return state;
}

PthDict dict_of(const StateDict& state) {
  PthDict dict;
  for (const auto& [name, tensor] : state) dict.emplace_back(name, PthValue{tensor});
  return dict;
}

void expect_same(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    EXPECT_TRUE(bitwise_equal(a[i].second, b[i].second)) << a[i].first;
  }
}

class WeightFiles : public ::testing::Test {
 protected:
  WeightFiles() { set_default_device(cpu); }  // which reads and writes files

  std::unique_ptr<TensorFile> saved(const StateDict& state) const {
    write_safetensors(folder_.path() / "state.safetensors", {.tensors = state, .metadata = {}});
    return open_tensor_file(folder_.path() / "state.safetensors");
  }
  std::unique_ptr<TensorFile> saved(const PthDict& content) const {
    write_pth(folder_.path() / "state.pth", content);
    return open_tensor_file(folder_.path() / "state.pth");
  }
  TemporaryFolder folder_;
};

// --- names ---

TEST(NameForms, MapBothWays) {
  struct Row {
    const char *camoxpert, *features, *timm, *authors;
  };
  constexpr Row rows[] = {
      {"backbone.stem_0.weight", "stem_0.weight", "stem.0.weight", "downsample_layers.0.0.weight"},
      {"backbone.stem_1.bias", "stem_1.bias", "stem.1.bias", "downsample_layers.0.1.bias"},
      {"backbone.stages_1.downsample.0.weight", "stages_1.downsample.0.weight", "stages.1.downsample.0.weight",
       "downsample_layers.1.0.weight"},
      {"backbone.stages_2.blocks.8.gamma", "stages_2.blocks.8.gamma", "stages.2.blocks.8.gamma", "stages.2.8.gamma"},
      {"backbone.stages_0.blocks.1.conv_dw.weight", "stages_0.blocks.1.conv_dw.weight",
       "stages.0.blocks.1.conv_dw.weight", "stages.0.1.dwconv.weight"},
      {"backbone.stages_0.blocks.1.mlp.fc1.weight", "stages_0.blocks.1.mlp.fc1.weight",
       "stages.0.blocks.1.mlp.fc1.weight", "stages.0.1.pwconv1.weight"},
      {"backbone.stages_3.blocks.2.mlp.fc2.bias", "stages_3.blocks.2.mlp.fc2.bias", "stages.3.blocks.2.mlp.fc2.bias",
       "stages.3.2.pwconv2.bias"},
      {"backbone.stages_3.blocks.2.xca.temperature", "stages_3.blocks.2.xca.temperature",
       "stages.3.blocks.2.xca.temperature", "stages.3.2.xca.temperature"},
      {"backbone.stages_1.blocks.2.pos_embd.token_projection.weight",
       "stages_1.blocks.2.pos_embd.token_projection.weight", "stages.1.blocks.2.pos_embd.token_projection.weight",
       "stages.1.2.pos_embd.token_projection.weight"},
  };
  for (const Row& row : rows) {
    const std::pair<NameForm, const char*> forms[] = {
        {NameForm::timm_features, row.features}, {NameForm::timm, row.timm}, {NameForm::authors, row.authors}};
    for (const auto& [form, own] : forms) {
      EXPECT_EQ(to_camoxpert(form, own), row.camoxpert);
      EXPECT_EQ(from_camoxpert(form, row.camoxpert).value_or("nothing"), own);
    }
  }
  EXPECT_EQ(to_camoxpert(NameForm::authors, "norm.weight"), "head.norm.weight");
  EXPECT_EQ(to_camoxpert(NameForm::authors, "head.bias"), "head.fc.bias");
  EXPECT_EQ(from_camoxpert(NameForm::authors, "head.fc.bias"), "head.bias");
  EXPECT_EQ(from_camoxpert(NameForm::timm, "head.norm.bias"), "head.norm.bias");
  EXPECT_EQ(from_camoxpert(NameForm::timm_features, "head.norm.bias"), std::nullopt);
  EXPECT_EQ(from_camoxpert(NameForm::timm, "moe_layers.0.gate.fusion.0.weight"), std::nullopt);
  for (const char* odd :
       {"backbone.stages_1", "backbone.stem_0", "backbone.stages_1.blocks", "backbone.stages_1.downsample"}) {
    EXPECT_EQ(from_camoxpert(NameForm::authors, odd), std::nullopt) << odd;
  }
}

TEST(NameForms, AreFoundByName) {
  for (const NamedForm& named : kNameForms) EXPECT_EQ(parse_name_form(named.name), named.form);
  EXPECT_ERROR(parse_name_form("timm"),
               "--map: must be one of camoxpert, timm-features, timm-edgenext, edgenext-authors; got timm");
  EXPECT_EQ(detect_form({"conv1.weight"}), std::nullopt);
}

TEST(NameForms, WrappersGo) {
  EXPECT_EQ(without_wrappers("module._orig_mod.module.stem_0.weight"), "stem_0.weight");
  EXPECT_EQ(without_wrappers("backbone._orig_mod.stem_0.weight"), "backbone.stem_0.weight");
  EXPECT_EQ(without_wrappers("my_module.weight"), "my_module.weight");
}

// --- whole files ---

class Variants : public WeightFiles, public ::testing::WithParamInterface<const char*> {};

TEST_P(Variants, CheckpointsRoundTripInBothFormats) {
  const std::string backbone = GetParam();
  const auto network = blank_network(spec_of(backbone));
  number_elements(*network);
  const StateDict state = network->state_dict();
  const auto check = [&](const TensorFile& file) {
    const FileState found = find_state(file);
    EXPECT_EQ(found.form, NameForm::camoxpert);
    const auto info = describe_camoxpert(file, found);
    ASSERT_TRUE(info.has_value());
    EXPECT_EQ(info->spec.backbone, backbone);
    EXPECT_EQ(info->spec.num_experts, 7);
    EXPECT_EQ(info->spec.attention_heads, network->spec().attention_heads);
    const auto copy = blank_network(info->spec);
    const LoadReport report = load_state(*copy, file, found);
    EXPECT_EQ(report.loaded, state.size());
    expect_same(copy->state_dict(), state);
  };
  check(*saved(PthDict{{"epoch", {int64_t{3}}}, {"model_state_dict", {dict_of(state)}}}));
  check(*saved(state));
}

TEST_P(Variants, BackbonesLoadFromEveryForm) {
  const std::string backbone = GetParam();
  const auto source = blank_network(spec_of(backbone)), target = blank_network(spec_of(backbone));
  number_elements(*source);
  const StateDict state = backbone_state(*source);
  for (const NameForm form : {NameForm::timm_features, NameForm::timm, NameForm::authors}) {
    for (const Tensor& parameter : target->parameters()) fill(parameter, 0);
    const auto file = saved(PthDict{{"model_ema", {dict_of(in_form(state, form, edgenext_spec(backbone).dims[3]))}}});
    const FileState found = find_state(*file);
    EXPECT_EQ(found.form, form);
    EXPECT_EQ(describe_backbone(*file, found)->name, backbone);
    EXPECT_FALSE(describe_camoxpert(*file, found).has_value());
    const LoadReport report = load_state(*target, *file, found);
    EXPECT_TRUE(report.backbone_only);
    EXPECT_EQ(report.loaded, state.size());
    EXPECT_EQ(report.unused.size(), form == NameForm::timm_features ? 0u : 4u);
    expect_same(backbone_state(*target), state);
  }
}

INSTANTIATE_TEST_SUITE_P(EdgeNeXt, Variants, ::testing::ValuesIn(kVariants),
                         [](const auto& c) { return std::string(c.param); });

// The classifier form of timm, filled by the formula of the golden files, against the logits that timm computed.
TEST_F(WeightFiles, TimmClassifierGivesTimmsLogits) {
  const SafeTensors io = read_safetensors(golden_file("timm_edgenext_xx_small_io.safetensors"));
  const auto published = golden_dir() / "timm_edgenext_xx_small.safetensors";
  std::unique_ptr<TensorFile> file;
  if (std::filesystem::exists(published)) {
    file = open_tensor_file(published);
  } else {
    const auto shapes = blank_network(spec_of("edgenext_xx_small"));
    StateDict state = in_form(backbone_state(*shapes), NameForm::timm, 168);
    for (auto& [name, tensor] : state) {
      const Shape shape = name == "head.fc.weight" ? Shape{1000, 168}
                          : name == "head.fc.bias" ? Shape{1000}
                                                   : tensor.shape();
      tensor = golden_values(name, shape, "timm/");
    }
    file = saved(state);
  }
  const auto network = blank_network(spec_of("edgenext_xx_small"));
  const FileState state = find_state(*file);
  EXPECT_EQ(state.form, NameForm::timm);
  EXPECT_EQ(load_state(*network, *file, state).unused.size(), 4u);
  network->backbone().to(f64);
  const auto head = [&](const char* name) { return to(file->read(state.find(name)->index), f64); };
  const Tensor map = network->backbone()(from_golden(io.at("input"), f64))[3];
  const Tensor pooled = layer_norm(mean(mean(map, {1}), {1}), head("head.norm.weight"), head("head.norm.bias"), 1e-6);
  const Tensor logits = linear(pooled, head("head.fc.weight"), head("head.fc.bias"));
  EXPECT_TRUE(all_close(logits, to(io.at("logits"), f64), 2e-6));
}

// --- groups ---

TEST_F(WeightFiles, AveragesComeFirstAndAreCompleted) {
  const auto network = blank_network(spec_of("edgenext_xx_small", 2));
  fill_by_key(*network, "weights");
  StateDict weights = network->state_dict(), averages;
  for (const NamedTensor& parameter : network->named_parameters()) {
    averages.emplace_back("module." + parameter.name, full(parameter.exported_shape(), 0.5));
  }
  const auto file = saved(PthDict{{"model_state_dict", {dict_of(weights)}}, {"ema_state_dict", {dict_of(averages)}}});
  const FileState state = find_state(*file);
  EXPECT_EQ(state.group, "ema_state_dict");
  EXPECT_TRUE(state.averaged);
  EXPECT_EQ(state.completed_from, "model_state_dict");
  const auto target = blank_network(spec_of("edgenext_xx_small", 2));
  const LoadReport report = load_state(*target, *file, state);
  EXPECT_EQ(report.loaded, weights.size());
  EXPECT_NE(report.str().find("completed from model_state_dict"), std::string::npos) << report.str();
  EXPECT_EQ(target->named_parameters()[0].tensor.to_vector<float>()[0], 0.5f);
  EXPECT_TRUE(bitwise_equal(target->named_buffers().back().tensor, network->named_buffers().back().tensor));
  EXPECT_EQ(find_state(*file, "model_state_dict").averaged, false);
  EXPECT_ERROR(find_state(*file, "weights"),
               "must have tensors in 'weights'; the file has tensors in 'model_state_dict', "
               "'ema_state_dict'; choose with --group");
}

TEST_F(WeightFiles, OtherGroupsAreNamed) {
  const Tensor x = zeros({1});
  EXPECT_EQ(find_state(*saved(PthDict{{"net", {PthDict{{"stem_0.weight", {x}}}}}})).group, "net");
  const FileState nested =
      find_state(*saved(PthDict{{"ema_state_dict", {PthDict{{"decay", {0.5}}, {"shadow", {PthDict{{"y", {x}}}}}}}}}));
  EXPECT_EQ(nested.group, "ema_state_dict/shadow");
  EXPECT_TRUE(nested.averaged);
  EXPECT_EQ(nested.entries.front().name, "y");
  EXPECT_ERROR(find_state(*saved(PthDict{{"a", {PthDict{{"x", {x}}}}}, {"b", {PthDict{{"x", {x}}}}}})),
               "must hold one state dict; the file has tensors in 'a', 'b'; choose with --group");
  EXPECT_ERROR(find_state(*saved(PthDict{{"epoch", {int64_t{1}}}})), "the file has no tensors");
  EXPECT_ERROR(find_state(*saved(StateDict{{"module.x", x}, {"x", x}})),
               "names must be unique without 'module.' and '_orig_mod.'; got 'x' twice");
}

// --- what does not fit ---

TEST_F(WeightFiles, NothingIsHalfLoaded) {
  const auto network = blank_network(spec_of("edgenext_xx_small", 2));
  StateDict state = network->state_dict();
  for (auto& [name, tensor] : state) tensor = ones(tensor.shape(), tensor.dtype());
  state[3].first = "backbone.stem_1.other";
  state[5].second = ones({7});
  const auto file = saved(state);
  try {
    load_state(*network, *file, find_state(*file));
    FAIL() << "loaded what does not fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::checkpoint);
    const std::string text = error.what();
    for (const char* part :
         {"nothing was loaded; --partial loads what fits", "missing in the file (1):\n  backbone.stem_1.bias",
          "unexpected in the file (1):\n  backbone.stem_1.other", "different (1):\n  ", "file f32 [7]"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    }
  }
  EXPECT_EQ(network->parameters()[0].to_vector<float>()[0], 0);

  const LoadReport report = load_state(*network, *file, find_state(*file), {.partial = true});
  EXPECT_EQ(report.loaded, state.size() - 2);
  EXPECT_EQ(report.of, state.size());
  EXPECT_EQ(report.mismatch.mismatched.size(), 1u);
  EXPECT_EQ(network->parameters()[0].to_vector<float>()[0], 1);
  EXPECT_NE(report.str().find("different (1)"), std::string::npos);
}

TEST_F(WeightFiles, WholeNumbersAreNoWeights) {
  const auto network = blank_network(spec_of("edgenext_xx_small", 2));
  StateDict state = network->state_dict();
  state[0].second = zeros(state[0].second.shape(), i64);
  const auto file = saved(state);
  EXPECT_ERROR(load_state(*network, *file, find_state(*file)),
               "different (1):\n  backbone.stem_0.weight: network f32 ");
}

TEST_F(WeightFiles, AnotherNumberOfExpertsLoadsPartially) {
  const auto seven = blank_network(spec_of("edgenext_xx_small", 7)),
             five = blank_network(spec_of("edgenext_xx_small", 5));
  fill_by_key(*seven, "");
  const auto file = saved(seven->state_dict());
  EXPECT_ERROR(load_state(*five, *file, find_state(*file)),
               "moe_layers.0.gate.fusion.3.weight: network f32 [5, 12], file f32 [7, 12]");
  const LoadReport report = load_state(*five, *file, find_state(*file), {.partial = true});
  EXPECT_TRUE(report.mismatch.missing.empty());
  EXPECT_EQ(report.mismatch.mismatched.size(), 8u);  // weight and bias of the gates' last layer
  EXPECT_EQ(report.loaded, report.of - 8);
}

TEST_F(WeightFiles, OtherModelsAreRefused) {
  const auto network = blank_network(spec_of("edgenext_xx_small", 2));
  const auto file = saved(StateDict{{"conv1.weight", zeros({2})}});
  EXPECT_ERROR(
      load_state(*network, *file, find_state(*file)),
      "the names must be those of CamoXpert or of an EdgeNeXt (timm, or its authors); got 'conv1.weight', ...");
  const auto far = saved(StateDict{{"stem_0.weight", zeros({2})}});
  EXPECT_ERROR(load_state(*network, *far, find_state(*far), {.partial = true}), "no tensor fits the network");
}

TEST_F(WeightFiles, AuthorsPointwiseConvolutionsMayBeLinear) {
  const auto network = blank_network(spec_of("edgenext_xx_small", 2));
  StateDict state = in_form(backbone_state(*network), NameForm::authors, 168);
  for (auto& [name, tensor] : state) {
    if (name.ends_with("token_projection.weight")) tensor = full({tensor.size(0), tensor.size(1)}, 3);
  }
  const auto file = saved(state);
  EXPECT_TRUE(load_state(*network, *file, find_state(*file)).mismatch.empty());
}

// --- a file of the reference's training script, where it is ---

TEST(ReferenceCheckpoint, IsBitEqualToItsFormula) {
  set_default_device(cpu);
  const auto path = golden_dir() / "reference_best_model.pth";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "not in " << golden_dir() << "; CAMO_GOLDEN_DIR names the folder";
  const auto file = open_tensor_file(path);
  const FileState state = find_state(*file);
  EXPECT_EQ(state.group, "model_state_dict");
  const auto info = describe_camoxpert(*file, state);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->spec.backbone, "edgenext_xx_small");
  EXPECT_EQ(info->img_size, 64);
  EXPECT_EQ(info->epoch, 7);
  EXPECT_EQ(info->iou, 0.5);
  const auto loaded = blank_network(info->spec), formula = blank_network(info->spec);
  load_state(*loaded, *file, state);
  fill_by_key(*formula, "");
  expect_same(loaded->state_dict(), formula->state_dict());

  const SafeTensors golden = read_safetensors(golden_file("camoxpert_xx_small_e7.safetensors"));
  loaded->eval();
  loaded->to(f64);
  const CamoXpertOutput output = (*loaded)(from_golden(golden.at("input"), f64));
  EXPECT_TRUE(all_close(to_golden(output.logits), to(golden.at("eval.pred"), f64), 2e-6));
}

}  // namespace
}  // namespace camo::test
