// Scores of a network on samples, at the masks' own sizes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "data/dataset.h"
#include "data/metrics.h"
#include "models/camoxpert/network.h"

namespace camo::app {

struct EvaluationOptions {
  int img_size = 384;
  int64_t batch_size = 4;
  int sheet_rows = 8;                                  // of the contact sheet, spread over the samples
  std::filesystem::path contact_sheet = {};            // where to write it; empty: nowhere
  std::function<void(int64_t done)> on_progress = {};  // samples scored so far
};

struct EvaluationResult {
  std::vector<SegmentationScores> per_image;  // in the order of the samples
  SegmentationScores mean;
  ScoreCurves curves;         // means over the samples
  double everything_iou = 0;  // mean IoU of answering 'everything': a trivial baseline
};

/// The network is put in evaluation mode and back. Throws ErrorCode::data naming the file when one can't be read: a
/// missing picture never makes a better mean.
EvaluationResult evaluate(CamoXpert& network, const std::vector<Sample>& samples, const EvaluationOptions& options);

}  // namespace camo::app
