// The strong set of augmentations: geometry, colour, blur, noise, holes and mix-up.
//
// Done by the loader's workers on 8-bit pictures: blur and warps need neighbours, and mix-up needs both pictures as
// they will be, before anything is normalised. What travels to a GPU is as large as without, and there only the
// normalisation is left to do. (The light set moves pixels and nothing else, which costs the GPU nothing while it
// normalises.)
#pragma once

#include <array>
#include <cstdint>
#include <numbers>

#include "data/colour.h"
#include "data/filters.h"
#include "data/transforms.h"
#include "data/warp.h"

namespace camo {

/// Probabilities and ranges. A range r of a factor means 1 - r to 1 + r, all draws are uniform.
struct StrongAugmentationOptions {
  double flip_probability = 0.5;           // left to right
  double vertical_flip_probability = 0.3;  // top to bottom
  double rotation_probability = 0.3;       // by 0..3 quarter turns

  double warp_probability = 0.5;  // shift, scale and rotate
  double largest_shift = 0.1;     // of the side, in either direction
  double scale_range = 0.2;
  double largest_angle = std::numbers::pi / 6;  // either way

  double jitter_probability = 0.7;
  double brightness_range = 0.3, contrast_range = 0.3, saturation_range = 0.3;
  double largest_hue = 0.15;  // turns, either way

  double light_probability = 0.5;  // then brightness and contrast, or gamma, equally likely
  double light_contrast_range = 0.3;
  double largest_light_offset = 0.3;  // of white, either way
  double gamma_range = 0.3;

  double blur_probability = 0.3;
  int largest_blur = 9;  // pixels; sizes are odd, from 3

  double noise_probability = 0.3;
  double least_noise_variance = 10, largest_noise_variance = 60;  // of levels of 0..255

  double holes_probability = 0.3;
  int fewest_holes = 3, most_holes = 10;            // at most kMostHoles
  double smallest_hole = 0.05, largest_hole = 0.1;  // of the side; width and height are drawn apart

  double mix_probability = 0.5;
  double mix_alpha = 0.3;  // the weight's distribution is Beta(alpha, alpha)

  /// Throws ErrorCode::usage naming what is out of range.
  void check() const;
};

inline constexpr int kMostHoles = 16;
/// Mix-up weights are parts of it, so that a mixed mask's bytes are exact.
inline constexpr int kWholeMix = 255;

/// How one sample is changed, in this order.
struct StrongAugmentation {
  Augmentation turned;
  bool warps = false;
  double angle = 0, scale = 1, shift_x = 0, shift_y = 0;

  double brightness = 1, contrast = 1, saturation = 1, hue = 0;
  double light_contrast = 1, light_offset = 0;
  double gamma = 1;
  int blur = 1;
  double noise_deviation = 0;
  RandomKey noise = {};
  int hole_count = 0;
  struct RelativeHole {
    double x = 0, y = 0, width = 0, height = 0;  // shares of the side
  };
  std::array<RelativeHole, kMostHoles> holes = {};

  /// Of this sample in the mixture with the one after it in the batch, in 1/255; from 128, so that it stays the larger
  /// part: its partner comes to its own turn in the same batch (MixMatch, arXiv:1905.02249, does the same).
  int mix_weight = kWholeMix;
};

/// A pure function of (seed, epoch, index), as draw_augmentation() is.
StrongAugmentation draw_strong_augmentation(uint64_t seed, int64_t epoch, int64_t index,
                                            const StrongAugmentationOptions& options = {});

/// All but the mixture. Geometry is one warp (picture bilinear, mask nearest), so pixels are blended once at most; all
/// linear colour changes are one matrix. Masks keep their values. Holes leave the mask alone: the object goes on
/// behind.
ResizedSample augment(const ResizedSample& sample, const StrongAugmentation& augmentation);

/// Mix-up (arXiv:1710.09412): pictures and masks are blended with the same weights, in 1/255. The cross-entropy of the
/// blended mask is then the blend of both masks' cross-entropies; a mask of 0 and 1 would teach half-visible objects as
/// if they were whole, or not there. `mask` gets 0..255 for 0..1.
void mix(const ResizedSample& first, const ResizedSample& second, int weight, uint8_t* image, uint8_t* mask);

/// Bytes of a mixture as a network takes them: the picture normalised, the mask from 0 to 1.
void normalize_mixed(std::span<const uint8_t> image, std::span<const uint8_t> mask, float* image_out, float* mask_out);

}  // namespace camo
