#include "apps/camoxpert/training/validation.h"

#include <fmt/core.h>

#include "apps/camoxpert/bad_images.h"
#include "apps/camoxpert/evaluation.h"
#include "core/error.h"

namespace camo::app {

namespace {

/// The averaged weights in evaluation mode, within its scope.
class ValidationWeights {
 public:
  ValidationWeights(CamoXpert& network, Ema* ema) : network_(network), ema_(ema), was_training_(network.training()) {
    if (ema_ != nullptr) ema_->swap(network_);
    network_.eval();
  }
  ~ValidationWeights() {
    if (ema_ != nullptr) ema_->swap(network_);
    network_.train(was_training_);
  }
  ValidationWeights(const ValidationWeights&) = delete;
  ValidationWeights& operator=(const ValidationWeights&) = delete;

 private:
  CamoXpert& network_;
  Ema* ema_;
  bool was_training_;
};

}  // namespace

double Validation::at(const std::string& name) const {
  for (const auto& [key, value] : scores) {
    if (key == name) return value;
  }
  fail(ErrorCode::general, "validation: has no score '", name, "'");
}

std::string Validation::str() const {
  return fmt::format("IoU {:.4f}  S {:.4f}  wF {:.4f}  MAE {:.4f}", at("iou"), at("sm"), at("wfm"), at("mae"));
}

Validation validate(CamoXpert& network, Ema* ema, const DataPlan& data, const TrainOptions& options,
                    const std::filesystem::path& sheet, const std::function<void(int64_t done)>& on_progress) {
  const ValidationWeights weights(network, ema);
  EvaluationOptions evaluation;
  evaluation.img_size = options.img_size;
  evaluation.autocast = options.common.autocast();
  evaluation.max_bad_images = parse_on_bad_image(options.on_bad_image);
  evaluation.left_out = data.validation_unpaired;
  evaluation.contact_sheet = sheet;
  evaluation.on_progress = on_progress;
  const EvaluationResult result = evaluate(network, data.validation, evaluation);
  Validation validation{.scores = {}, .everything_iou = result.everything_iou, .left_out = result.left_out};
  for (const ScoreField& field : kScoreFields) validation.scores.emplace_back(field.name, result.mean.*field.value);
  return validation;
}

}  // namespace camo::app
