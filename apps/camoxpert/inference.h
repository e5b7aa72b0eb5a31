// Running a trained network over pictures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "data/image.h"
#include "models/camoxpert/network.h"

namespace camo::app {

/// Foreground probabilities of one picture at a size of the caller's choice.
struct ProbabilityMap {
  int width = 0, height = 0;
  std::vector<float> values;  // height * width, in [0, 1]

  /// Rounded to 0..255. Throws ErrorCode::not_finite.
  Image to_image() const;
};

/// One probability map a picture, at the picture's own size. The network sees img_size x img_size, on its own device.
std::vector<ProbabilityMap> predict(const CamoXpert& network, const std::vector<Image>& pictures, int img_size);

/// Calls visit(first, count) for batches [first, first + count) of `total`.
void for_batches(int64_t total, int64_t batch_size, const std::function<void(int64_t first, int64_t count)>& visit);

/// The picture with the predicted object tinted red, by its probability.
Image overlay(const Image& picture, const ProbabilityMap& probabilities);

}  // namespace camo::app
