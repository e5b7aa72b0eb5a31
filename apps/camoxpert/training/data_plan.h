// Which pairs a run trains on, and which it validates on.
#pragma once

#include <string>
#include <vector>

#include "apps/camoxpert/training/train_options.h"
#include "data/loader.h"

namespace camo::app {

struct DataPlan {
  std::vector<Sample> train, validation;
  std::vector<Sample> unused;  // test pairs that are not validated on
  // A message per file without its partner; each in one of them only.
  std::vector<std::string> unpaired, validation_unpaired;
  std::string report;          // a few lines for the log
  int64_t max_bad_images = 0;  // what --on-bad-image still allows

  /// Of the training pairs' names in order: tells whether a resumed run sees the same data.
  std::string fingerprint() const;
  /// Decodes all pairs, the unused ones too. Throws ErrorCode::data naming each file that can't be used when
  /// --on-bad-image does not allow for them all.
  void check_files() const;
};

/// Validation uses the first part (--val-fraction) of --val-path or of the test split, or held-out training pairs when
/// there is neither. Throws ErrorCode::data when that leaves nothing, and as check_files() does when more files have no
/// partner than --on-bad-image allows.
DataPlan plan_data(const TrainOptions& options);

/// How a run's batches are made.
LoaderOptions loader_options(const TrainOptions& options, const DataPlan& plan, Device device);

}  // namespace camo::app
