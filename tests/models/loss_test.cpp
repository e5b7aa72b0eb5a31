#include "models/camoxpert/loss.h"

#include <gtest/gtest.h>

#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

CamoXpertOutput output_of(const Tensor& logits) {
  CamoXpertOutput output;
  output.logits = logits;
  return output;
}

TEST(MakeLoss, KnowsItsNames) {
  for (const char* name : {"advanced_cod", "dice", "structure", "camoxpert"}) EXPECT_EQ(make_loss(name)->name(), name);
  EXPECT_ERROR(make_loss("focal"),
               "loss: unknown name \"focal\"; choose one of advanced_cod, dice, structure, camoxpert");
}

TEST(Losses, AddTheirParts) {
  const Tensor logits = uniform({2, 9, 8, 1}), target = uniform({2, 9, 8, 1}, f64, 0, 1);
  for (const char* name : {"dice", "structure", "camoxpert"}) {
    const LossOutput loss = (*make_loss(name))(output_of(logits), target);
    double total = 0;
    for (const auto& [part, value] : loss.parts) total += value.item();
    EXPECT_NEAR(loss.total.item(), total, 1e-12) << name;
  }
  EXPECT_NEAR(make_loss("dice")->operator()(output_of(logits), target).total.item(), dice_loss(logits, target).item(),
              1e-15);
}

TEST(Losses, HaveTheirOwnParts) {
  const Tensor logits = uniform({2, 16, 14, 1}), target = uniform({2, 16, 14, 1}, f64, 0, 1);
  const auto expect = [&](const char* name, const std::vector<std::pair<std::string, Tensor>>& wanted) {
    const LossOutput loss = (*make_loss(name))(output_of(logits), target);
    ASSERT_EQ(loss.parts.size(), wanted.size()) << name;
    for (const auto& [part, value] : wanted) EXPECT_EQ(loss.part(part).item(), value.item()) << name << " " << part;
  };
  expect("structure", {{"edge", edge_loss(logits, target)}, {"ssim", global_ssim_loss(logits, target)}});
  expect("camoxpert", {{"bce", bce_with_logits(logits, target)},
                       {"iou", iou_loss(logits, target)},
                       {"ssim", windowed_ssim_loss(logits, target)}});
}

TEST(Losses, SmallForTheTruthAndLargeForItsOpposite) {
  const Tensor truth = to(greater(uniform({2, 16, 16, 1}), 0.0), f64);
  for (const char* name : {"advanced_cod", "dice", "structure", "camoxpert"}) {
    const auto loss = make_loss(name);
    const double good = (*loss)(output_of((truth - 0.5) * 40), truth).total.item();
    const double bad = (*loss)(output_of((truth - 0.5) * -40), truth).total.item();
    EXPECT_LT(good, 0.01) << name;
    EXPECT_GT(bad, 0.5) << name;
  }
}

TEST(AdvancedCODLoss, WeightsAndDeepHeads) {
  CamoXpertOutput output = output_of(uniform({1, 8, 8, 1}).set_requires_grad(true));
  output.deep = {uniform({1, 2, 2, 1}).set_requires_grad(true), uniform({1, 4, 4, 1}).set_requires_grad(true)};
  output.aux = 0.25;
  const Tensor target = uniform({1, 8, 8, 1}, f64, 0, 1);
  const LossOutput loss = AdvancedCODLoss({.bce = 1, .iou = 2, .edge = 3, .aux = 4, .deep = 5})(output, target);
  const double deep = (bce_with_logits(output.deep[0], resize_bilinear(target, 2, 2)).item() +
                       bce_with_logits(output.deep[1], resize_bilinear(target, 4, 4)).item()) /
                      2;
  EXPECT_NEAR(loss.part("deep").item(), deep, 1e-14);
  EXPECT_NEAR(
      loss.total.item(),
      loss.part("bce").item() + 2 * loss.part("iou").item() + 3 * loss.part("edge").item() + 4 * 0.25 + 5 * deep,
      1e-12);
  EXPECT_FALSE(loss.part("bce").requires_grad());
  backward(loss.total);
  EXPECT_TRUE(output.deep[1].grad().defined());
}

TEST(AdvancedCODLoss, RefusesAnotherTargetShape) {
  EXPECT_ERROR(AdvancedCODLoss()(output_of(zeros({1, 8, 8, 1})), zeros({1, 8, 4, 1})),
               "loss: target must have the logits' shape [1, 8, 8, 1]; got [1, 8, 4, 1]");
}

TEST(AdvancedCODLoss, TakesHalfPrecisionLogits) {
  for (const DType half : {bf16, f16}) {
    CamoXpertOutput output = output_of(to(uniform({1, 8, 8, 1}, f32), half)), wide;
    output.deep = {to(uniform({1, 4, 4, 1}, f32), half)};
    wide.logits = to(output.logits, f32);
    wide.deep = {to(output.deep[0], f32)};
    const Tensor target = uniform({1, 8, 8, 1}, f32, 0, 1);
    const LossOutput loss = AdvancedCODLoss()(output, target);
    EXPECT_EQ(loss.total.dtype(), f32);
    EXPECT_EQ(loss.total.item(), AdvancedCODLoss()(wide, target).total.item()) << name(half);
  }
}

}  // namespace
}  // namespace camo::test
