// Exact Euclidean distance transform with the nearest pixel itself.
#pragma once

#include <cstdint>
#include <vector>

namespace camo {

/// For every pixel of a height * width map: which marked pixel is nearest, and how far away it is.
struct NearestPixels {
  std::vector<int32_t> index;             // y * width + x of the nearest marked pixel
  std::vector<int32_t> squared_distance;  // exact
};

/// `marked` holds height * width flags, at least one set. Of several nearest pixels the leftmost is taken, of those in
/// one column the topmost: scipy.ndimage.distance_transform_edt chooses the same, and the weighted F-measure depends on
/// the choice.
NearestPixels nearest_marked(const std::vector<uint8_t>& marked, int width, int height);

}  // namespace camo
