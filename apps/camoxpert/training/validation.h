// Scores on the validation set, with the moving averages when there are any.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "apps/camoxpert/training/data_plan.h"
#include "apps/camoxpert/training/train_options.h"
#include "models/camoxpert/network.h"
#include "nn/optim/ema.h"

namespace camo::app {

struct Validation {
  std::vector<std::pair<std::string, double>> scores;  // names as in kScoreFields
  double everything_iou = 0;
  std::vector<std::string> left_out;  // a message per bad picture

  /// Throws when there is no score of this name.
  double at(const std::string& name) const;
  /// "IoU 0.4312  S 0.7123  wF 0.4567  MAE 0.1234"
  std::string str() const;
};

/// The name of the score that --best-by means. Throws ErrorCode::usage.
std::string best_score_name(const std::string& best_by);

/// Of data.validation. Writes a contact sheet to `sheet`. `on_progress` may throw: the network is put back as it was.
Validation validate(CamoXpert& network, Ema* ema, const DataPlan& data, const TrainOptions& options,
                    const std::filesystem::path& sheet, const std::function<void(int64_t done)>& on_progress);

}  // namespace camo::app
