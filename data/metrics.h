// How well predicted maps agree with masks: the numbers of PySODMetrics, per picture and over a data set.
//
// A prediction has 8 bits a pixel. It is resized to its mask, divided by 255 and, unless it is constant, stretched to
// [0, 1]; mask pixels above 128 are foreground. N is the number of pixels.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "data/image.h"

namespace camo {

struct SegmentationScores {
  double mae = 0;  // mean |prediction - mask|
  double sm = 0;  // S-measure, alpha 0.5; 1 - mean(prediction) when the mask is empty, mean(prediction) when it is full
  double wfm = 0;  // weighted F-measure, beta^2 = 1; 0 when the mask is empty
  // F-measure (beta^2 = 0.3) and E-measure (divided by N - 1, so it can exceed 1) of the prediction cut at
  // min(2 * mean, 1), and mean and maximum over the 256 thresholds.
  double adp_fm = 0, mean_fm = 0, max_fm = 0;
  double adp_em = 0, mean_em = 0, max_em = 0;
  // Of the prediction cut above 0.5; 0 where the denominator is 0.
  double iou = 0, dice = 0, precision = 0, recall = 0, specificity = 0, accuracy = 0;
};

/// Value of each of a prediction's levels as the scores take it: divided by 255 and, unless it is constant, stretched.
std::array<double, 256> stretched_levels(const Image& prediction);

/// All scores by name, in the order of tables. The name is the key in JSON and CSV files.
struct ScoreField {
  const char* name;
  const char* title;
  double SegmentationScores::*value;
};
inline constexpr std::array<ScoreField, 15> kScoreFields = {{
    {"sm", "S-measure", &SegmentationScores::sm},
    {"wfm", "weighted F", &SegmentationScores::wfm},
    {"mae", "MAE", &SegmentationScores::mae},
    {"adp_fm", "adaptive F", &SegmentationScores::adp_fm},
    {"mean_fm", "mean F", &SegmentationScores::mean_fm},
    {"max_fm", "max F", &SegmentationScores::max_fm},
    {"adp_em", "adaptive E", &SegmentationScores::adp_em},
    {"mean_em", "mean E", &SegmentationScores::mean_em},
    {"max_em", "max E", &SegmentationScores::max_em},
    {"iou", "IoU", &SegmentationScores::iou},
    {"dice", "Dice", &SegmentationScores::dice},
    {"precision", "precision", &SegmentationScores::precision},
    {"recall", "recall", &SegmentationScores::recall},
    {"specificity", "specificity", &SegmentationScores::specificity},
    {"accuracy", "accuracy", &SegmentationScores::accuracy},
}};

/// Values for the prediction cut at t / 255 and above, t = 0..255.
struct ScoreCurves {
  using Curve = std::array<double, 256>;
  Curve precision{}, recall{}, f{}, e{};
};

struct PictureScore {
  SegmentationScores scores;
  ScoreCurves curves;
};

/// Both grey; the prediction is resized bilinearly as an 8-bit picture when its size is another.
PictureScore score_prediction(const Image& prediction, const Image& mask);

/// Weighted F-measure of a prediction in [0, 1] (Margolin, Zelnik-Manor, Tal: How to evaluate foreground maps?). Both
/// hold height * width values; the mask is 0 or 1.
double weighted_f_measure(const std::vector<double>& prediction, const std::vector<uint8_t>& mask, int width,
                          int height);

/// Means over pictures: every picture counts the same, whatever its size. Mean and maximum of F and E are those of the
/// mean curves.
class ScoreAccumulator {
 public:
  void add(const PictureScore& picture);
  int64_t count() const { return count_; }
  /// Throws when nothing was added.
  PictureScore mean() const;

 private:
  int64_t count_ = 0;
  PictureScore sum_;
};

}  // namespace camo
