#include "data/transforms.h"

#include "data/resize_image.h"

namespace camo {
namespace {

// Separates these draws from others of the same seed.
constexpr uint64_t kAugmentationDraws = 0x6175676d656e74;  // "augment"

}  // namespace

const ChannelTable& normalisation_table() {
  static const ChannelTable table = [] {
    ChannelTable values{};
    for (size_t c = 0; c < 3; ++c)
      for (size_t v = 0; v < 256; ++v)
        values[c][v] = static_cast<float>((static_cast<double>(v) / 255 - static_cast<double>(kImageNetMean[c])) /
                                          static_cast<double>(kImageNetDeviation[c]));
    return values;
  }();
  return table;
}

PixelWalk walk_of(const Augmentation& augmentation, int size) {
  PixelWalk walk{.start = 0, .step_y = size, .step_x = 1};
  const int last = size - 1;
  switch (augmentation.quarter_turns) {
    case 1: walk = {last, -1, size}; break;
    case 2: walk = {last * size + last, -size, -1}; break;
    case 3: walk = {last * size, 1, -size}; break;
    default: break;
  }
  if (augmentation.flip) {  // source column x becomes last - x
    const auto mirrored = [](int step) { return step == 1 || step == -1 ? -step : step; };
    walk.start = walk.start / size * size + last - walk.start % size;
    walk.step_y = mirrored(walk.step_y);
    walk.step_x = mirrored(walk.step_x);
  }
  return size == 1 ? PixelWalk{} : walk;
}

Augmentation draw_augmentation(uint64_t seed, int64_t epoch, int64_t index, const AugmentationOptions& options) {
  const auto words = philox(seed, static_cast<uint64_t>(epoch), kAugmentationDraws);
  const RandomKey key{uint64_t{words[0]} << 32 | words[1], static_cast<uint64_t>(index)};
  Augmentation drawn;
  drawn.flip = key.uniform(0) < options.flip_probability;
  if (key.uniform(1) < options.rotation_probability) drawn.quarter_turns = static_cast<int>(key.bits(2) >> 30);
  return drawn;
}

ResizedSample resize_sample(const LoadedSample& sample, int size) {
  ResizedSample resized{resize_bilinear(sample.image, size, size), resize_bilinear(sample.mask, size, size)};
  for (uint8_t& value : resized.mask.pixels) value = value > kMaskThreshold ? 1 : 0;
  return resized;
}

void write_sample(const ResizedSample& sample, const Augmentation& augmentation, float* image, float* mask) {
  const ChannelTable& table = normalisation_table();
  const int64_t size = sample.image.width;
  const PixelWalk walk = walk_of(augmentation, sample.image.width);
  for (int64_t y = 0; y < size; ++y) {
    for (int64_t x = 0; x < size; ++x) {
      const int64_t source = walk.start + y * walk.step_y + x * walk.step_x;
      const uint8_t* pixel = sample.image.pixels.data() + 3 * source;
      for (size_t c = 0; c < 3; ++c) *image++ = table[c][pixel[c]];
      *mask++ = sample.mask.pixels[static_cast<size_t>(source)];
    }
  }
}

Tensor to_network_input(const Image& image, int size) {
  CAMO_CHECK(image.channels == 3, "to_network_input: an RGB image is wanted; got ", image.channels, " channels");
  const Image resized = resize_bilinear(image, size, size);
  Tensor input = empty({1, size, size, 3}, f32, cpu);
  const ChannelTable& table = normalisation_table();
  float* out = input.data<float>();
  for (size_t i = 0; i < resized.pixels.size(); ++i) out[i] = table[i % 3][resized.pixels[i]];
  return input;
}

}  // namespace camo
