// How well predicted masks agree with the true ones, per picture and over a data set.
#pragma once

#include <cstdint>

#include "data/image.h"

namespace camo {

struct SegmentationScore {
  double iou = 0;  // intersection over union of probability > 0.5 and mask > 128; 1 when both are empty
  double mae = 0;  // mean |probability - mask|
};

/// Compares probabilities (height rows of width values in [0, 1]) with a grey mask of any size: they are resized to the
/// mask's size bilinearly, in floating point.
SegmentationScore score_prediction(const float* probabilities, int width, int height, const Image& mask);

/// Means over pictures: every picture counts the same, whatever its size.
class ScoreAccumulator {
 public:
  void add(const SegmentationScore& score);
  int64_t count() const { return count_; }
  /// Throws when nothing was added.
  SegmentationScore mean() const;

 private:
  int64_t count_ = 0;
  SegmentationScore sum_;
};

}  // namespace camo
