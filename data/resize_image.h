// Resizing of 8-bit pictures, and of float maps to a picture's size.
#pragma once

#include <vector>

#include "data/image.h"

namespace camo {

/// Bilinear with half-pixel centres and no antialiasing, bit for bit OpenCV's cv::resize(INTER_LINEAR) of 8-bit
/// pictures: weights in 11-bit fixed point, horizontal pass first.
Image resize_bilinear(const Image& image, int width, int height);

/// The same geometry in floating point for one map of height * width values (probabilities to the mask's size).
std::vector<float> resize_bilinear(const float* map, int width, int height, int new_width, int new_height);

}  // namespace camo
