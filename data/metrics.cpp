#include "data/metrics.h"

#include <cmath>
#include <vector>

#include "core/error.h"
#include "data/resize_image.h"
#include "data/transforms.h"

namespace camo {

SegmentationScore score_prediction(const float* probabilities, int width, int height, const Image& mask) {
  CAMO_CHECK(mask.channels == 1 && !mask.pixels.empty(), "score_prediction: a grey mask is wanted; got ", mask.width,
             " x ", mask.height, " x ", mask.channels);
  std::vector<float> resized;
  if (width != mask.width || height != mask.height) {
    resized = resize_bilinear(probabilities, width, height, mask.width, mask.height);
    probabilities = resized.data();
  }
  int64_t hits = 0, in_either = 0;
  double error = 0;
  for (size_t i = 0; i < mask.pixels.size(); ++i) {
    const double probability = static_cast<double>(probabilities[i]);
    CAMO_CHECK_CODE(not_finite, std::isfinite(probability), "score_prediction: the prediction is not finite at pixel ",
                    i);
    const bool predicted = probability > 0.5, wanted = mask.pixels[i] > kMaskThreshold;
    hits += predicted && wanted;
    in_either += predicted || wanted;
    error += std::abs(probability - (wanted ? 1 : 0));
  }
  return {in_either == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(in_either),
          error / static_cast<double>(mask.pixels.size())};
}

void ScoreAccumulator::add(const SegmentationScore& score) {
  ++count_;
  sum_.iou += score.iou;
  sum_.mae += score.mae;
}

SegmentationScore ScoreAccumulator::mean() const {
  CAMO_CHECK_CODE(data, count_ > 0, "metrics: a mean needs at least one picture; got none");
  const auto count = static_cast<double>(count_);
  return {sum_.iou / count, sum_.mae / count};
}

}  // namespace camo
