// Blur, noise and holes of 8-bit pictures.
#pragma once

#include <span>

#include "core/random.h"
#include "data/image.h"

namespace camo {

/// Gaussian over size * size pixels (odd, 1 to 31), with the deviation that OpenCV takes for that size:
/// 0.3 * ((size - 1) / 2 - 1) + 0.8. Mirrored at the border pixels (BORDER_REFLECT_101). Weights are eighth-bit fixed
/// point, so a value is within 1 of the exact one, and a picture of one colour stays as it is.
void gaussian_blur(Image& image, int size);

/// Adds to every byte its own number from a normal distribution of this deviation (at most 64), cut off at 3.7
/// deviations; rounds, and cuts at 0 and 255. The numbers depend on `key` alone.
void add_noise(Image& image, double deviation, RandomKey key);

/// A rectangle of pixels; whatever lies outside of a picture is ignored.
struct Hole {
  int x = 0, y = 0, width = 0, height = 0;

  friend bool operator==(const Hole&, const Hole&) = default;
};

/// Makes the holes black.
void cut_holes(Image& image, std::span<const Hole> holes);

}  // namespace camo
