#include "data/strong_augmentation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace camo {
namespace {

// Separates these draws from others of the same seed.
constexpr uint64_t kStrongDraws = 0x7374726f6e67;  // "strong"

// Hands out one number after the other. Every transform takes its numbers whether it happens or not, so changing one
// range leaves the others' draws alone.
class Draws {
 public:
  explicit Draws(RandomKey key) : key_(key) {}
  double share() { return static_cast<double>(key_.uniform(next_++)); }
  bool chance(double probability) { return share() < probability; }
  double between(double low, double high) { return low + (high - low) * share(); }
  double around(double middle, double range) { return between(middle - range, middle + range); }
  /// low..high, both included.
  int whole(int low, int high) { return low + static_cast<int>(share() * (high - low + 1)); }

 private:
  RandomKey key_;
  uint64_t next_ = 0;
};

// Johnk's algorithm: U^(1/a) / (U^(1/a) + V^(1/a)) given that the sum is at most 1; nine of ten pairs are for a = 0.3.
double draw_beta(Draws& draws, double alpha) {
  constexpr int kMostTries = 100;
  for (int i = 0; i < kMostTries; ++i) {
    const double x = std::pow(draws.share(), 1 / alpha), y = std::pow(draws.share(), 1 / alpha);
    if (x + y > 0 && x + y <= 1) return x / (x + y);
  }
  return 1;
}

}  // namespace

void StrongAugmentationOptions::check() const {
  const auto within = [](const char* what, double value, double low, double high) {
    CAMO_CHECK_CODE(usage, value >= low && value <= high, "strong augmentation: ", what, " must be within ", low,
                    " and ", high, "; got ", value);
  };
  within("the probability of flips", flip_probability, 0, 1);
  within("the probability of vertical flips", vertical_flip_probability, 0, 1);
  within("the probability of quarter turns", rotation_probability, 0, 1);
  within("the probability of shift-scale-rotate", warp_probability, 0, 1);
  within("the largest shift", largest_shift, 0, 1);
  within("the range of scales", scale_range, 0, 0.9);
  within("the largest angle", largest_angle, 0, std::numbers::pi);
  within("the probability of colour jitter", jitter_probability, 0, 1);
  within("the range of brightness", brightness_range, 0, 1);
  within("the range of contrast", contrast_range, 0, 1);
  within("the range of saturation", saturation_range, 0, 1);
  within("the largest turn of hue", largest_hue, 0, 0.5);
  within("the probability of another light", light_probability, 0, 1);
  within("the light's range of contrast", light_contrast_range, 0, 1);
  within("the light's largest offset", largest_light_offset, 0, 1);
  within("the range of gamma", gamma_range, 0, 0.9);
  within("the probability of blur", blur_probability, 0, 1);
  within("the largest blur", largest_blur, 1, 31);
  within("the probability of noise", noise_probability, 0, 1);
  within("the least variance of noise", least_noise_variance, 0, largest_noise_variance);
  within("the largest variance of noise", largest_noise_variance, 0, 4096);
  within("the probability of holes", holes_probability, 0, 1);
  within("the smallest number of holes", fewest_holes, 0, most_holes);
  within("the largest number of holes", most_holes, 0, kMostHoles);
  within("the smallest hole", smallest_hole, 0, largest_hole);
  within("the largest hole", largest_hole, 0, 1);
  within("the probability of mix-up", mix_probability, 0, 1);
  within("mix-up's alpha", mix_alpha, 0.01, 1);
}

StrongAugmentation draw_strong_augmentation(uint64_t seed, int64_t epoch, int64_t index,
                                            const StrongAugmentationOptions& options) {
  const auto words = philox(seed, static_cast<uint64_t>(epoch), kStrongDraws);
  const auto stream = static_cast<uint64_t>(index);
  Draws draws({uint64_t{words[0]} << 32 | words[1], stream});
  StrongAugmentation drawn;
  drawn.noise = {uint64_t{words[2]} << 32 | words[3], stream};

  // Top to bottom is left to right and half a turn.
  const bool across = draws.chance(options.flip_probability), down = draws.chance(options.vertical_flip_probability);
  const bool turns = draws.chance(options.rotation_probability);
  const int quarters = draws.whole(0, 3);
  drawn.turned = {.flip = across != down, .quarter_turns = ((turns ? quarters : 0) + (down ? 2 : 0)) % 4};

  drawn.warps = draws.chance(options.warp_probability);
  const double shift_x = draws.around(0, options.largest_shift), shift_y = draws.around(0, options.largest_shift);
  const double scale = draws.around(1, options.scale_range), angle = draws.around(0, options.largest_angle);
  if (drawn.warps) drawn.shift_x = shift_x, drawn.shift_y = shift_y, drawn.scale = scale, drawn.angle = angle;

  const bool jitters = draws.chance(options.jitter_probability);
  const double brightness = draws.around(1, options.brightness_range);
  const double contrast = draws.around(1, options.contrast_range);
  const double saturation = draws.around(1, options.saturation_range), hue = draws.around(0, options.largest_hue);
  if (jitters) drawn.brightness = brightness, drawn.contrast = contrast, drawn.saturation = saturation, drawn.hue = hue;

  const bool lights = draws.chance(options.light_probability), curves = draws.chance(0.5);
  const double light_contrast = draws.around(1, options.light_contrast_range);
  const double light_offset = draws.around(0, options.largest_light_offset);
  const double gamma = draws.around(1, options.gamma_range);
  if (lights && curves) drawn.gamma = gamma;
  if (lights && !curves) drawn.light_contrast = light_contrast, drawn.light_offset = light_offset;

  const bool blurs = draws.chance(options.blur_probability);
  const int radius = draws.whole(1, std::max(1, options.largest_blur / 2));
  if (blurs && options.largest_blur >= 3) drawn.blur = 2 * radius + 1;

  const bool noisy = draws.chance(options.noise_probability);
  const double variance = draws.between(options.least_noise_variance, options.largest_noise_variance);
  if (noisy) drawn.noise_deviation = std::sqrt(variance);

  const bool hides = draws.chance(options.holes_probability);
  const int count = draws.whole(options.fewest_holes, options.most_holes);
  if (hides) drawn.hole_count = count;
  for (StrongAugmentation::RelativeHole& hole : drawn.holes) {
    hole.width = draws.between(options.smallest_hole, options.largest_hole);
    hole.height = draws.between(options.smallest_hole, options.largest_hole);
    hole.x = draws.between(0, 1 - hole.width);
    hole.y = draws.between(0, 1 - hole.height);
  }

  if (draws.chance(options.mix_probability)) {
    const double weight = draw_beta(draws, options.mix_alpha);
    drawn.mix_weight = static_cast<int>(std::lround(std::max(weight, 1 - weight) * kWholeMix));
  }
  return drawn;
}

ResizedSample augment(const ResizedSample& sample, const StrongAugmentation& drawn) {
  const int size = sample.image.width;
  ResizedSample out =
      drawn.warps ? warp(sample, affine_map(drawn.turned, drawn.angle, drawn.scale, drawn.shift_x, drawn.shift_y, size))
                  : turn(sample, drawn.turned);
  // The mean matters to contrast alone.
  const double grey = drawn.contrast == 1 ? 0 : mean_grey(out.image);
  ColourMap light;
  for (size_t c = 0; c < 3; ++c) {
    light.matrix[c][c] = drawn.light_contrast;
    light.offset[c] = 255 * drawn.light_offset;
  }
  apply_colour(jitter_map(drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue, grey).then(light), out.image);
  apply_gamma(drawn.gamma, out.image);
  gaussian_blur(out.image, drawn.blur);
  add_noise(out.image, drawn.noise_deviation, drawn.noise);
  std::array<Hole, kMostHoles> holes;
  const auto pixels = [size](double share) { return static_cast<int>(std::lround(share * size)); };
  for (size_t i = 0; i < holes.size(); ++i) {
    const StrongAugmentation::RelativeHole& hole = drawn.holes[i];
    holes[i] = {pixels(hole.x), pixels(hole.y), pixels(hole.width), pixels(hole.height)};
  }
  cut_holes(out.image, std::span(holes).first(static_cast<size_t>(drawn.hole_count)));
  return out;
}

void mix(const ResizedSample& first, const ResizedSample& second, int weight, uint8_t* image, uint8_t* mask) {
  CAMO_CHECK(weight >= 0 && weight <= kWholeMix && first.image.pixels.size() == second.image.pixels.size(),
             "mix: needs samples of one size and a weight within 0 and 255; got ", first.image.pixels.size(), " and ",
             second.image.pixels.size(), " bytes, weight ", weight);
  const auto own = static_cast<uint32_t>(weight), other = static_cast<uint32_t>(kWholeMix - weight);
  const uint8_t *a = first.image.pixels.data(), *b = second.image.pixels.data();
  const size_t count = first.image.pixels.size();
  for (size_t i = 0; i < count; ++i) {
    const uint32_t sum = own * a[i] + other * b[i] + 128;
    image[i] = static_cast<uint8_t>((sum + (sum >> 8)) >> 8);  // sum / 255, rounded
  }
  const uint8_t *c = first.mask.pixels.data(), *d = second.mask.pixels.data();
  for (size_t i = 0; i < first.mask.pixels.size(); ++i) mask[i] = static_cast<uint8_t>(own * c[i] + other * d[i]);
}

void normalize_mixed(std::span<const uint8_t> image, std::span<const uint8_t> mask, float* image_out, float* mask_out) {
  const ChannelTable& table = normalisation_table();
  for (size_t i = 0; i < mask.size(); ++i) {
    for (size_t c = 0; c < 3; ++c) *image_out++ = table[c][image[3 * i + c]];
    *mask_out++ = static_cast<float>(mask[i]) * (1.0f / kWholeMix);
  }
}

}  // namespace camo
