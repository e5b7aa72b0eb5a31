#include "models/camoxpert/moe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "core/autocast.h"
#include "ops/ops.h"
#include "tests/models/golden_support.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

std::unique_ptr<MoELayer> filled_layer(int64_t channels, int64_t experts) {
  auto layer =
      std::make_unique<MoELayer>(MoESpec{.channels = channels, .experts = experts, .attention_heads = 4, .dropout = 0});
  fill_by_key(*layer, "moe/");
  layer->to(f64);
  layer->eval();
  return layer;
}

TEST(MoELayer, NumberOfExpertsPerImage) {
  const std::pair<int64_t, int64_t> expected[] = {{1, 1}, {2, 2}, {3, 2}, {5, 2}, {6, 3}, {7, 3}, {9, 4}};
  for (const auto& [experts, chosen] : expected) {
    EXPECT_EQ(MoELayer({.channels = 8, .experts = experts}).chosen_per_image(), chosen) << experts << " experts";
  }
  EXPECT_ERROR(MoELayer({.channels = 8, .experts = 0}), "mixture of experts: needs at least one expert; got 0");
}

TEST(MoELayer, ReportFollowsTheLogits) {
  const auto layer = filled_layer(8, 9);
  const MoEOutput out = (*layer)(uniform({3, 4, 5, 8}));
  const TopK top = top_k(out.gate_logits, 4);
  std::vector<int64_t> chosen, counts(9, 0);
  for (const auto& row : out.routing.chosen) chosen.insert(chosen.end(), row.begin(), row.end());
  for (const int64_t expert : chosen) ++counts[static_cast<size_t>(expert)];
  EXPECT_EQ(chosen, top.indices.to_vector<int64_t>());
  EXPECT_EQ(counts, out.routing.counts);
  EXPECT_LT(max_difference(out.routing.weights, softmax(top.values, -1)), 1e-15);
  EXPECT_DOUBLE_EQ(out.routing.aux, load_balance_loss(counts));
}

TEST(MoELayer, EqualsTheWeightedSumOfTheChosenExpertsOfEachImage) {
  const auto layer = filled_layer(8, 7);
  std::vector<std::shared_ptr<Expert>> experts;
  for (int64_t e = 0; e < 7; ++e) {
    experts.push_back(make_expert(e, 8, 4, 0));
    fill_by_key(*experts.back(), "moe/experts." + std::to_string(e) + ".");
    experts.back()->to(f64);
  }
  const Tensor x = concat({uniform({2, 4, 5, 8}), uniform({2, 4, 5, 8}, f64, 0, 4)}, 0);
  const MoEOutput out = (*layer)(x);
  for (int64_t b = 0; b < 4; ++b) {
    Tensor wanted;
    const auto& chosen = out.routing.chosen[static_cast<size_t>(b)];
    for (size_t slot = 0; slot < chosen.size(); ++slot) {
      const Tensor weight = select(select(out.routing.weights, 0, b), 0, static_cast<int64_t>(slot));
      const Tensor part = (*experts[static_cast<size_t>(chosen[slot])])(slice(x, 0, b, b + 1)) * weight;
      wanted = wanted.defined() ? wanted + part : part;
    }
    EXPECT_LT(max_difference(slice(out.y, 0, b, b + 1), wanted), 1e-13) << "image " << b;
  }
}

TEST(MoELayer, ExpertsNobodyChoseGetNoGradient) {
  const auto layer = filled_layer(8, 7);
  const MoEOutput out = (*layer)(uniform({1, 4, 4, 8}));
  backward(sum(out.y));
  for (const NamedTensor& parameter : layer->named_parameters()) {
    if (!parameter.name.starts_with("experts.")) {
      EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
      continue;
    }
    const size_t expert = static_cast<size_t>(parameter.name[8] - '0');
    EXPECT_EQ(parameter.tensor.grad().defined(), out.routing.counts[expert] > 0) << parameter.name;
  }
}

TEST(MoELayer, CheckpointingChangesNoGradient) {
  const auto layer = filled_layer(8, 7);
  const Tensor x = uniform({2, 4, 4, 8});
  const auto gradients = [&](bool checkpointing) {
    layer->set_gradient_checkpointing(checkpointing);
    layer->zero_grad();
    backward(sum((*layer)(x).y));
    Tensors result;
    for (const Tensor& parameter : layer->parameters()) result.push_back(parameter.grad());
    return result;
  };
  const Tensors plain = gradients(false), again = gradients(true);
  for (size_t i = 0; i < plain.size(); ++i) {
    ASSERT_EQ(plain[i].defined(), again[i].defined());
    if (!plain[i].defined()) continue;
    EXPECT_TRUE(bitwise_equal(plain[i], again[i])) << "parameter " << i;
  }
}

TEST(MoELayer, DropoutIsInTheGateAndTheAttentionExpert) {
  const Tensor x = uniform({2, 4, 4, 8}, f32);
  const MoELayer layer({.channels = 8, .attention_heads = 4, .dropout = 0.5});
  const Tensor first = layer.route(x).gate_logits;
  EXPECT_FALSE(bitwise_equal(first, layer.route(x).gate_logits));
  const Expert& attention = *layer.experts()[1];
  const Tensor mixed = attention(x).detach();
  EXPECT_FALSE(bitwise_equal(mixed, attention(x)));
  MoELayer still({.channels = 8, .attention_heads = 4, .dropout = 0.5});
  still.eval();
  EXPECT_TRUE(bitwise_equal(still.route(x).gate_logits, still.route(x).gate_logits));
  EXPECT_TRUE(bitwise_equal((*still.experts()[1])(x), (*still.experts()[1])(x)));
}

// The choice of experts hangs on small differences.
TEST(MoELayer, GateComputesInFullPrecisionUnderAutocast) {
  const MoELayer layer({.channels = 8, .attention_heads = 4, .dropout = 0});
  const Tensor x = uniform({2, 4, 4, 8}, f32);
  const Tensor exact = layer.route(x).gate_logits;
  const Autocast autocast(bf16);
  const Routing routing = layer.route(x);
  EXPECT_EQ(routing.gate_logits.dtype(), f32);
  EXPECT_EQ(routing.weights.dtype(), f32);
  EXPECT_TRUE(all_close(routing.gate_logits, exact, 1e-3));
}

TEST(MoELayer, NoImagesGiveNoImages) {
  set_default_device(cpu);
  const auto layer = filled_layer(8, 3);
  const NoGrad no_grad;
  EXPECT_EQ((*layer)(zeros({0, 4, 4, 8}, f64)).y.shape(), Shape({0, 4, 4, 8}));
}

TEST(LoadBalanceLoss, SmallestForEvenCounts) {
  EXPECT_NEAR(load_balance_loss({2, 2, 2, 2}), 0, 1e-15);
  EXPECT_NEAR(load_balance_loss({4, 0}), 0.001 * 0.25, 1e-10);
}

TEST(Experts, SevenTypesInOrder) {
  const char* first_keys[] = {
      "branch1.0.weight", "attention.qkv.weight",    "local_branch.0.weight", "low_freq_conv.0.weight", "sobel_x",
      "conv_1.0.weight",  "local_contrast.0.weight", "branch1.0.weight",      "attention.qkv.weight"};
  for (int64_t e = 0; e < 9; ++e) {
    EXPECT_EQ(make_expert(e, 8, 8, 0)->state_dict().front().first, first_keys[e]) << "expert " << e;
  }
}

TEST(Experts, RefuseChannelsThatDoNotFit) {
  EXPECT_ERROR(TextureExpert(6), "texture expert: channels must be a multiple of 4; got 6");
  EXPECT_ERROR(HybridExpert(6), "hybrid expert: channels must be a multiple of 4; got 6");
  EXPECT_ERROR(FrequencyExpert(6), "frequency expert: channels must be a multiple of 4; got 6");
  EXPECT_ERROR(EdgeExpert(6), "edge expert: channels must be a multiple of 4; got 6");
  EXPECT_ERROR(SemanticContextExpert(6), "semantic context expert: channels must be a multiple of 4; got 6");
  EXPECT_ERROR(ContentAwareGate(6, 7, 0), "gate: channels must be a multiple of 4; got 6");
  EXPECT_ERROR(AttentionExpert(100, 8, 0),
               "attention expert: heads must divide the channels; got 8 heads, 100 channels");
}

// Without edges both floors of 1e-8 are all there is: the magnitudes are 1e-4, 0 and sqrt(2) * 1e-4.
TEST(EdgeExpert, FloorsOfItsMagnitudes) {
  constexpr int64_t kChannels = 8;
  EdgeExpert expert(kChannels);
  fill_by_key(expert, "edge/");
  expert.to(f64);
  const auto unit = [state = expert.state_dict()](const std::string& name, const Tensor& x) {
    const auto at = [&](const char* key) {
      for (const auto& [own, tensor] : state)
        if (own == name + key) return tensor;
      throw std::out_of_range(name + key);
    };
    const Tensor weight = at(".0.weight");
    const Tensor mixed = linear(x, reshape(weight, {weight.size(0), weight.size(1)}), at(".0.bias"));
    return gelu(layer_norm(mixed, at(".1.weight"), at(".1.bias"), 1e-6));
  };
  const auto constant = [](double value) { return full({1, kChannels}, value, f64); };
  const Tensor wanted = unit(
      "fusion", concat({unit("sobel_branch", constant(1e-4)), unit("laplacian_branch", constant(0)),
                        unit("gradient_branch", constant(std::sqrt(2.0) * 1e-4)), unit("spatial_branch", constant(0))},
                       1));
  const Tensor out = expert(zeros({1, 1, 1, kChannels}, f64));
  EXPECT_LT(max_difference(reshape(out, {1, kChannels}), wanted), 1e-13);
}

/// Where a map is flat, what is below the root is less than f16 can hold.
TEST(EdgeExpert, FlatMapsHaveFiniteGradientsInEveryPrecision) {
  const EdgeExpert expert(24);
  for (const DType dtype : {f32, bf16, f16}) {
    Tensor x = full({1, 8, 8, 24}, 0.5);
    x.set_requires_grad(true);
    Tensor y;
    {
      const Autocast scope(dtype);
      y = expert(to(x, dtype));
    }
    EXPECT_EQ(y.dtype(), dtype);
    backward(sum(to(y, f32)));
    for (const double value : x.grad().to_vector<double>()) ASSERT_TRUE(std::isfinite(value)) << value;
  }
}

TEST(EdgeExpert, RefusesOtherKernels) {
  EdgeExpert expert(4);
  StateDict state = expert.state_dict();
  const Tensor x = uniform({1, 3, 3, 4}, f32);
  expert.load_state_dict(state);
  EXPECT_EQ(expert(x).shape(), x.shape());
  const auto with_last = [&](double value) {  // of the Laplacian's nine numbers
    for (auto& [key, kernel] : state) {
      if (key == "laplacian")
        kernel = from_vector(std::vector<float>{0, 1, 0, 1, -4, 1, 0, 1, float(value)}, {1, 1, 3, 3});
    }
    expert.load_state_dict(state);
  };
  with_last(0.009);  // as many roundings of a moving average leave it
  EXPECT_EQ(expert(x).shape(), x.shape());
  with_last(0.011);
  EXPECT_ERROR(expert(x), "edge expert: buffer laplacian must hold the fixed kernel; element 8 is 0.0109");
  for (auto& [key, value] : state) {
    if (key == "laplacian") fill(value, 1);
  }
  expert.load_state_dict(state);
  EXPECT_ERROR(expert(x), "edge expert: buffer laplacian must hold the fixed kernel; element 0 is 1, expected 0");
}

}  // namespace
}  // namespace camo::test
