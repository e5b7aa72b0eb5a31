// From pictures to tensors: resizing, augmentation, normalisation.
#pragma once

#include <array>
#include <cstdint>

#include "core/random.h"
#include "core/tensor.h"
#include "data/dataset.h"
#include "data/image.h"

namespace camo {

/// Mean and deviation per channel of ImageNet's pictures, for values in [0, 1].
inline constexpr float kImageNetMean[3] = {0.485f, 0.456f, 0.406f};
inline constexpr float kImageNetDeviation[3] = {0.229f, 0.224f, 0.225f};

/// Mask values above it are foreground.
inline constexpr uint8_t kMaskThreshold = 128;

/// How one sample is changed: mirrored left to right, then turned counter-clockwise by quarter turns.
struct Augmentation {
  bool flip = false;
  int quarter_turns = 0;  // 0..3

  friend bool operator==(const Augmentation&, const Augmentation&) = default;
};

struct AugmentationOptions {
  double flip_probability = 0.5;
  double rotation_probability = 0.3;  // then by 0..3 quarter turns, equally likely
};

/// A pure function of (seed, epoch, index): the same draws whichever thread asks, in whatever order.
Augmentation draw_augmentation(uint64_t seed, int64_t epoch, int64_t index, const AugmentationOptions& options = {});

/// The source pixel of output pixel (y, x): start + y * step_y + x * step_x. Each turn and flip is another walk.
struct PixelWalk {
  int start = 0, step_y = 0, step_x = 0;
};
PixelWalk walk_of(const Augmentation& augmentation, int size);

/// Normalised value of each byte, per channel.
using ChannelTable = std::array<std::array<float, 256>, 3>;
const ChannelTable& normalisation_table();

/// A sample at the network's size, as 8-bit pixels: what a cache keeps.
struct ResizedSample {
  Image image;  // size x size x 3
  Image mask;   // size x size x 1, 0 or 1

  int64_t bytes() const { return static_cast<int64_t>(image.pixels.size() + mask.pixels.size()); }
};

/// Resizes both bilinearly as 8-bit pictures; the mask is then cut at kMaskThreshold.
ResizedSample resize_sample(const LoadedSample& sample, int size);

/// Writes the augmented and normalised picture [size, size, 3] and the mask [size, size, 1] of {0, 1}.
void write_sample(const ResizedSample& sample, const Augmentation& augmentation, float* image, float* mask);

/// [1, size, size, 3] in f32 on the CPU: resized and normalised, for prediction.
Tensor to_network_input(const Image& image, int size);

}  // namespace camo
