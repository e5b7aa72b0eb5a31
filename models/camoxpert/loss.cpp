#include "models/camoxpert/loss.h"

#include "ops/ops.h"

namespace camo {
namespace {

Tensor full_precision(const Tensor& x) { return x.dtype() == f16 || x.dtype() == bf16 ? to(x, f32) : x; }

/// The logits and a target of their dtype.
struct Pair {
  Tensor logits, target;
};

Pair prepare(const CamoXpertOutput& output, const Tensor& target) {
  CAMO_CHECK(target.shape() == output.logits.shape(), "loss: target must have the logits' shape ",
             output.logits.shape(), "; got ", target.shape());
  const Tensor logits = full_precision(output.logits);
  return {logits, to(target, logits.dtype())};
}

/// Adds weighted parts to a total.
class Sum {
 public:
  void add(std::string part, double weight, const Tensor& value) {
    const Tensor weighted = weight == 1 ? value : value * weight;
    result_.total = result_.total.defined() ? result_.total + weighted : weighted;
    result_.parts.emplace_back(std::move(part), value.detach());
  }
  LossOutput take() { return std::move(result_); }

 private:
  LossOutput result_;
};

}  // namespace

const Tensor& LossOutput::part(std::string_view name) const {
  for (const auto& [key, value] : parts) {
    if (key == name) return value;
  }
  fail(ErrorCode::general, "loss: has no part \"", name, "\"");
}

LossOutput AdvancedCODLoss::operator()(const CamoXpertOutput& output, const Tensor& target) const {
  const auto [logits, truth] = prepare(output, target);
  Sum sum;
  sum.add("bce", weights_.bce, bce_with_logits(logits, truth));
  sum.add("iou", weights_.iou, iou_loss(logits, truth));
  sum.add("edge", weights_.edge, edge_loss(logits, truth));
  sum.add("aux", weights_.aux, full({}, output.aux, logits.dtype(), logits.device()));
  if (!output.deep.empty()) {
    Tensor deep;
    for (const Tensor& head : output.deep) {
      const Tensor head_logits = full_precision(head);
      const Tensor head_loss = bce_with_logits(head_logits, resize_bilinear(truth, head.size(1), head.size(2)));
      deep = deep.defined() ? deep + head_loss : head_loss;
    }
    sum.add("deep", weights_.deep, deep / static_cast<double>(output.deep.size()));
  }
  return sum.take();
}

LossOutput DiceLoss::operator()(const CamoXpertOutput& output, const Tensor& target) const {
  const auto [logits, truth] = prepare(output, target);
  Sum sum;
  sum.add("dice", 1, dice_loss(logits, truth));
  return sum.take();
}

LossOutput StructureLoss::operator()(const CamoXpertOutput& output, const Tensor& target) const {
  const auto [logits, truth] = prepare(output, target);
  Sum sum;
  sum.add("edge", 1, edge_loss(logits, truth));
  sum.add("ssim", 1, global_ssim_loss(logits, truth));
  return sum.take();
}

LossOutput CamoXpertLoss::operator()(const CamoXpertOutput& output, const Tensor& target) const {
  const auto [logits, truth] = prepare(output, target);
  Sum sum;
  sum.add("bce", 1, bce_with_logits(logits, truth));
  sum.add("iou", 1, iou_loss(logits, truth));
  sum.add("ssim", 1, windowed_ssim_loss(logits, truth));
  return sum.take();
}

std::unique_ptr<Loss> make_loss(std::string_view name) {
  if (name == "advanced_cod") return std::make_unique<AdvancedCODLoss>();
  if (name == "dice") return std::make_unique<DiceLoss>();
  if (name == "structure") return std::make_unique<StructureLoss>();
  if (name == "camoxpert") return std::make_unique<CamoXpertLoss>();
  fail(ErrorCode::usage, "loss: unknown name \"", name, "\"; choose one of advanced_cod, dice, structure, camoxpert");
}

}  // namespace camo
