// Training losses of CamoXpert over its logits.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/camoxpert/network.h"

namespace camo {

struct LossOutput {
  Tensor total;                                       // one element
  std::vector<std::pair<std::string, Tensor>> parts;  // unweighted, one element each, outside of the graph

  /// The part of this name. Throws when there is none.
  const Tensor& part(std::string_view name) const;
};

/// Maps the network's output and a target [N, H, W, 1] in [0, 1] to a loss. 16-bit logits are taken to f32 first.
class Loss {
 public:
  virtual ~Loss() = default;
  virtual std::string_view name() const = 0;
  virtual LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const = 0;
};

/// 5 BCE + 3 IoU + 2 edge + 0.1 aux + 0.4 deep: the loss of the reference's training. Deep is the mean BCE of the deep
/// heads against the target resized to their sizes; it is left out when there are none.
class AdvancedCODLoss : public Loss {
 public:
  struct Weights {
    double bce = 5, iou = 3, edge = 2, aux = 0.1, deep = 0.4;
  };
  AdvancedCODLoss() = default;
  explicit AdvancedCODLoss(const Weights& weights) : weights_(weights) {}
  std::string_view name() const override { return "advanced_cod"; }
  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override;

 private:
  Weights weights_;
};

/// Dice loss with smoothing 1.
class DiceLoss : public Loss {
 public:
  std::string_view name() const override { return "dice"; }
  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override;
};

/// Mean square of the difference of Sobel edges, plus 1 - SSIM with one window over the image.
class StructureLoss : public Loss {
 public:
  std::string_view name() const override { return "structure"; }
  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override;
};

/// BCE + IoU + 1 - SSIM with 11 x 11 Gaussian windows.
class CamoXpertLoss : public Loss {
 public:
  std::string_view name() const override { return "camoxpert"; }
  LossOutput operator()(const CamoXpertOutput& output, const Tensor& target) const override;
};

/// The loss of this name. Throws ErrorCode::usage listing the known names.
std::unique_ptr<Loss> make_loss(std::string_view name);

}  // namespace camo
