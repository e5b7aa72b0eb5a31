// Affine warp of a square picture together with its mask.
#pragma once

#include "data/transforms.h"

namespace camo {

/// Output pixel (x, y) shows the source at (xx * x + xy * y + x0, yx * x + yy * y + y0), in pixels, centres at
/// integers.
struct AffineMap {
  double xx = 1, xy = 0, x0 = 0;
  double yx = 0, yy = 1, y0 = 0;
};

/// Mirror and quarter turns, then turned counter-clockwise by `angle` (radians) and enlarged by `scale` around the
/// centre, then moved right and down by shares of the side.
AffineMap affine_map(const Augmentation& turned, double angle, double scale, double shift_x, double shift_y, int size);

/// The picture bilinearly, the mask by its nearest pixel, so that its values stay what they were. Outside, the picture
/// goes on mirrored at its border pixels (OpenCV's BORDER_REFLECT_101).
ResizedSample warp(const ResizedSample& sample, const AffineMap& map);

/// Mirror and quarter turns alone move pixels and blend none.
ResizedSample turn(const ResizedSample& sample, const Augmentation& augmentation);

}  // namespace camo
