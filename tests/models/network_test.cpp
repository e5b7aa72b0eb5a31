#include "models/camoxpert/network.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/autocast.h"
#include "core/op_observer.h"
#include "models/camoxpert/loss.h"
#include "nn/optim/adamw.h"
#include "ops/ops.h"
#include "tests/models/golden_support.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

CamoXpertSpec smallest() { return {.backbone = "edgenext_xx_small", .num_experts = 2, .dropout = 0}; }

TEST(CamoXpert, RefusesSpecsThatDoNotFit) {
  EXPECT_ERROR(CamoXpert({.backbone = "edgenext_x_small"}),
               "camoxpert: attention_heads must divide the channels of every stage; got 8 heads for 100 channels of "
               "edgenext_x_small; choose one of 1, 2, 4");
  EXPECT_ERROR(CamoXpert({.backbone = "edgenext"}), "backbone: unknown name \"edgenext\"");
  EXPECT_ERROR(CamoXpert({.backbone = "edgenext_small", .num_experts = 0}),
               "num_experts must be at least 1 and at most 256; got 0");
  EXPECT_ERROR(CamoXpert({.backbone = "edgenext_small", .num_experts = 1 << 20}), "at most 256; got 1048576");
  EXPECT_ERROR(CamoXpert({.backbone = "edgenext_small", .attention_heads = 0}), "attention_heads must be at least 1");
  EXPECT_ERROR(CamoXpert({.backbone = "edgenext_small", .dropout = 1}), "dropout must be in [0, 1); got 1");
}

TEST(CamoXpert, RefusesOtherInputs) {
  const CamoXpert network(smallest());
  EXPECT_ERROR(network(zeros({1, 3, 64, 64})), "camoxpert: input must be [N, H, W, 3]; got [1, 3, 64, 64]");
  EXPECT_ERROR(network(zeros({1, 64, 16, 3})), "camoxpert: height and width must be at least 32; got [1, 64, 16, 3]");
}

TEST(CamoXpert, EncodeAndDecodeAreThePartsOfIt) {
  CamoXpert network(smallest());
  network.eval();
  const NoGrad no_grad;
  const Tensor x = uniform({3, 32, 64, 3}, f32);
  const CamoXpertEncoding encoding = network.encode(x);
  std::array<Tensor, 4> maps;
  for (size_t s = 0; s < 4; ++s) {
    const MoELayer& layer = network.moe_layer(s);
    maps[s] = layer.mix(encoding.enhanced[s], encoding.routing[s], layer.report(encoding.routing[s]));
    EXPECT_TRUE(bitwise_equal(maps[s], layer(encoding.enhanced[s]).y)) << "stage " << s;
  }
  EXPECT_TRUE(bitwise_equal(network.decode(maps, 32, 64).logits, network(x).logits));
}

// The backbone's residual stream is wide; what stands behind it is not.
TEST(CamoXpert, FeaturesAreNarrowUnderAutocast) {
  const CamoXpert network(smallest());
  const NoGrad no_grad;
  const Tensor x = uniform({1, 32, 32, 3}, f32);
  EXPECT_EQ(network.features(x)[0].dtype(), f32);
  const Autocast autocast(bf16);
  for (const Tensor& map : network.features(x)) EXPECT_EQ(map.dtype(), bf16);
  for (const Tensor& map : network.backbone()(x)) EXPECT_EQ(map.dtype(), f32);
}

TEST(CamoXpert, SizesThatAreNoMultipleOf32) {
  CamoXpert network(smallest());
  network.eval();
  const NoGrad no_grad;
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{32, 32}, {47, 65}, {70, 33}}) {
    const CamoXpertOutput out = network(uniform({1, height, width, 3}, f32));
    EXPECT_EQ(out.logits.shape(), Shape({1, height, width, 1}));
    ASSERT_EQ(out.deep.size(), 3u);
    EXPECT_EQ(out.deep[2].shape(), Shape({1, height / 4, width / 4, 1}));
    EXPECT_EQ(out.deep[0].shape(), Shape({1, height / 16, width / 16, 1}));
    EXPECT_TRUE(out.stages.empty());
    for (const double value : out.logits.to_vector<double>()) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST(CamoXpert, XSmallWithFourHeads) {
  CamoXpert network({.backbone = "edgenext_x_small", .attention_heads = 4});
  network.eval();
  const NoGrad no_grad;
  EXPECT_EQ(network(uniform({1, 32, 32, 3}, f32)).logits.shape(), Shape({1, 32, 32, 1}));
}

TEST(CamoXpert, WithoutDeepSupervision) {
  CamoXpertSpec spec = smallest();
  spec.deep_supervision = false;
  const CamoXpert network(spec);
  const CamoXpertOutput out = network(uniform({2, 32, 32, 3}, f32));
  EXPECT_TRUE(out.deep.empty());
  const LossOutput loss = AdvancedCODLoss()(out, full({2, 32, 32, 1}, 1));
  EXPECT_EQ(loss.parts.size(), 4u);
  EXPECT_ERROR(loss.part("deep"), "loss: has no part \"deep\"");
}

TEST(CamoXpert, ParameterGroupsFollowTheFreezing) {
  CamoXpert network(smallest());
  std::vector<ParameterGroup> groups = parameter_groups(network, 0.1);
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].lr_scale, 0.1);
  EXPECT_EQ(groups[1].lr_scale, 1);
  EXPECT_EQ(groups[0].parameters.size(), network.backbone().parameters().size());
  EXPECT_EQ(groups[0].parameters.size() + groups[1].parameters.size(), network.parameters().size());
  network.backbone().freeze();
  groups = parameter_groups(network, 0.1);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].lr_scale, 1);
  EXPECT_EQ(groups[0].parameters.front().name, "sdta_blocks.0.channel_attention.1.weight");
}

/// use_flash_attention = false is stronger than the environment.
TEST(CamoXpert, FlashAttentionCanBeSwitchedOff) {
  CamoXpertSpec spec = smallest();
  CamoXpert flash(spec);
  spec.use_flash_attention = false;
  CamoXpert math(spec);
  math.load_state_dict(flash.state_dict());
  flash.eval();
  math.eval();
  const NoGrad no_grad;
  const Tensor x = uniform({1, 64, 64, 3}, f32);
  const Tensor by_default = math(x).logits;
  set_attention_backend(AttentionBackend::flash);
  EXPECT_TRUE(bitwise_equal(math(x).logits, by_default));
  const Tensor tiled = flash(x).logits;
  set_attention_backend(AttentionBackend::automatic);
  EXPECT_FALSE(bitwise_equal(tiled, by_default));
  EXPECT_TRUE(all_close(tiled, by_default, 1e-4));
}

TEST(CamoXpert, DropoutCanBeSet) {
  CamoXpertSpec spec = smallest();
  spec.dropout = 0.5;
  CamoXpert network(spec);
  const Tensor x = uniform({2, 32, 32, 3}, f32);
  const auto run = [&] { return network(x).logits.detach(); };
  EXPECT_GT(max_difference(run(), run()), 0);
  network.set_dropout(0);
  EXPECT_TRUE(bitwise_equal(run(), run()));
  EXPECT_ERROR(network.set_dropout(2), "dropout must be in [0, 1); got 2");
}

TEST(CamoXpert, CheckpointingChangesNoGradient) {
  CamoXpert network(smallest());
  fill_by_key(network, "");
  network.to(f64);
  const Tensor x = uniform({2, 32, 32, 3}), target = full({2, 32, 32, 1}, 1, f64);
  const auto gradients = [&](bool checkpointing) {
    network.set_gradient_checkpointing(checkpointing);
    network.zero_grad();
    backward(AdvancedCODLoss()(network(x), target).total);
    Tensors result;
    for (const Tensor& parameter : network.parameters()) result.push_back(parameter.grad());
    return result;
  };
  const Tensors plain = gradients(false), again = gradients(true);
  // Maps with several consumers add up their gradients in another order.
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(all_close(again[i], plain[i], 1e-12)) << "parameter " << i;
}

/// Counts the checkpoint() calls of a pass: one per block of the backbone, expert that runs, and decoder block.
class CheckpointCounter final : public OpObserver {
 public:
  CheckpointCounter() { observe_ops(this); }
  ~CheckpointCounter() override { observe_ops(nullptr); }
  void recorded(const Node& node, std::span<const Tensor>, std::span<const Tensor>) override {
    count += node.name() == "checkpoint";
  }
  void backward_begins(const Node&) override {}
  void backward_ended(const Node&) override {}

  int count = 0;
};

TEST(CamoXpert, CheckpointsEveryBlockExpertAndDecoderStep) {
  CamoXpertSpec spec = smallest();
  const Tensor x = uniform({1, 32, 32, 3}, f32);
  const auto checkpoints = [&](const CamoXpert& network) {
    CheckpointCounter counter;
    network(x);
    return counter.count;
  };
  EXPECT_EQ(checkpoints(CamoXpert(spec)), 0);
  spec.gradient_checkpointing = true;
  CamoXpert network(spec);
  EXPECT_EQ(checkpoints(network), 12 + 4 * 2 + 4);
  {
    const NoGrad no_grad;
    EXPECT_EQ(checkpoints(network), 0);
  }
  network.set_gradient_checkpointing(false);
  EXPECT_EQ(checkpoints(network), 0);
}

TEST(CamoXpert, LearnsOneBatch) {
  seed_everything(1);
  CamoXpert network(smallest());
  const Tensor x = uniform({2, 32, 32, 3}, f32);
  const Tensor target = to(greater(slice(x, 3, 0, 1), 0.0), f32);
  AdamW optimizer(parameter_groups(network, 1), {.lr = 2e-3, .weight_decay = 0});
  double first = 0, last = 0;
  for (int step = 0; step < 15; ++step) {
    optimizer.zero_grad();
    const LossOutput loss = AdvancedCODLoss()(network(x), target);
    backward(loss.total);
    clip_gradient_norm(network.parameters(), 1.0);
    optimizer.step();
    last = loss.total.item();
    if (step == 0) first = last;
  }
  EXPECT_LT(last, 0.9 * first);
}

TEST(DecoderBlock, RefusesAnotherSkip) {
  const DecoderBlock with({.in = 4, .skip = 2, .out = 3}), without({.in = 4, .out = 3});
  const Tensor x = zeros({1, 2, 2, 4});
  EXPECT_ERROR(with(x), "decoder block: skip map must have 2 channels; got 0");
  EXPECT_ERROR(without(x, zeros({1, 4, 4, 2})), "decoder block: skip map must have 0 channels; got 2");
}

}  // namespace
}  // namespace camo::test
