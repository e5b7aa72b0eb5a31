// Changes of colour: pointwise, but for the mean that contrast turns around.
#pragma once

#include <array>

#include "data/image.h"

namespace camo {

/// out = matrix * rgb + offset, for channels of 0 to 255. Every linear change of colour is one; a chain of them is a
/// product, rounded and cut off only once.
struct ColourMap {
  std::array<std::array<double, 3>, 3> matrix = {{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
  std::array<double, 3> offset = {0, 0, 0};

  /// First this, then `next`.
  ColourMap then(const ColourMap& next) const;
  friend bool operator==(const ColourMap&, const ColourMap&) = default;
};

/// Factors of colour jitter, 1 for no change; `hue` in turns. Brightness scales the channels, contrast their distance
/// from `mean_grey` of the brightened picture, saturation that from each pixel's own grey; hue turns the chroma plane
/// of YIQ, a linear stand-in for the hue of HSV that keeps grey and brightness. `mean_grey` is that of the given
/// picture.
ColourMap jitter_map(double brightness, double contrast, double saturation, double hue, double mean_grey);

/// Mean of 0.299 R + 0.587 G + 0.114 B over an RGB picture.
double mean_grey(const Image& image);

/// Rounds to the nearest and cuts at 0 and 255.
void apply_colour(const ColourMap& map, Image& image);

/// 255 * (value / 255)^gamma of every byte.
void apply_gamma(double gamma, Image& image);

}  // namespace camo
