// Scores of a network on samples, or of predicted maps, at the masks' own sizes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "apps/camoxpert/inference.h"
#include "data/dataset.h"
#include "data/metrics.h"
#include "models/camoxpert/network.h"

namespace camo::app {

struct EvaluationOptions {
  int img_size = 384;
  int64_t batch_size = 4;
  DType autocast = f32;  // of the network; see core/autocast.h
  TestTimeAugmentation augmentation = {};
  int64_t max_bad_images = 0;                          // left out before giving up
  std::vector<std::string> left_out = {};              // messages of those that were left out before
  int sheet_rows = 8;                                  // of the contact sheet, spread over the samples
  std::filesystem::path contact_sheet = {};            // where to write it; empty: nowhere
  std::function<void(int64_t done)> on_progress = {};  // samples read so far
  CudaGraphs cuda_graphs = CudaGraphs::off;
};

struct EvaluationResult {
  std::vector<std::string> names;             // of the samples that were scored
  std::vector<size_t> numbers;                // their positions among all samples
  std::vector<SegmentationScores> per_image;  // and their scores
  SegmentationScores mean;
  /// Means of each data set where several were joined: those whose samples are called LABEL/name.
  std::vector<std::pair<std::string, SegmentationScores>> sets;
  ScoreCurves curves;                 // means over the samples
  double everything_iou = 0;          // mean IoU of answering 'everything': a trivial baseline
  ExpertUsage usage;                  // empty without a network
  std::vector<std::string> left_out;  // a message per bad picture
};

/// The network is put in evaluation mode and back. Throws ErrorCode::data naming the files when some can't be used and
/// options.max_bad_images does not allow for them: a missing picture never makes a better mean.
EvaluationResult evaluate(CamoXpert& network, const std::vector<Sample>& samples, const EvaluationOptions& options);

/// A predicted map as an 8-bit file, and its mask.
struct PredictionFile {
  std::string name;
  std::filesystem::path prediction, mask;
  std::filesystem::path image = {};  // for reports; may be empty
};

/// Scores files with the same rules. Of the options only max_bad_images and on_progress are used.
EvaluationResult evaluate_predictions(const std::vector<PredictionFile>& files, const EvaluationOptions& options);

}  // namespace camo::app
