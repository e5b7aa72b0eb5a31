#include "data/transforms.h"

#include <array>

#include "data/resize_image.h"

namespace camo {
namespace {

// Separates these draws from others of the same seed.
constexpr uint64_t kAugmentationDraws = 0x6175676d656e74;  // "augment"

using ChannelTable = std::array<std::array<float, 256>, 3>;

// Normalised value of each byte, per channel.
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

}  // namespace

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
  // Source pixel of output (y, x): start + y * step_y + x * step_x, so that each turn is another walk.
  int64_t start = 0, step_y = size, step_x = 1;
  const int64_t last = size - 1;
  switch (augmentation.quarter_turns) {
    case 1: start = last, step_y = -1, step_x = size; break;
    case 2: start = last * size + last, step_y = -size, step_x = -1; break;
    case 3: start = last * size, step_y = 1, step_x = -size; break;
    default: break;
  }
  if (augmentation.flip) {  // source column x becomes last - x
    const auto mirrored = [&](int64_t step) { return step == 1 || step == -1 ? -step : step; };
    start = start / size * size + last - start % size;
    step_y = mirrored(step_y);
    step_x = mirrored(step_x);
  }
  if (size == 1) start = step_x = step_y = 0;
  for (int64_t y = 0; y < size; ++y) {
    for (int64_t x = 0; x < size; ++x) {
      const int64_t source = start + y * step_y + x * step_x;
      const uint8_t* pixel = sample.image.pixels.data() + 3 * source;
      for (size_t c = 0; c < 3; ++c) *image++ = table[c][pixel[c]];
      *mask++ = sample.mask.pixels[static_cast<size_t>(source)];
    }
  }
}

Tensor to_network_input(const Image& image, int size) {
  CAMO_CHECK(image.channels == 3, "to_network_input: an RGB image is wanted; got ", image.channels, " channels");
  const Image resized = resize_bilinear(image, size, size);
  Tensor input = empty({1, size, size, 3});
  const ChannelTable& table = normalisation_table();
  float* out = input.data<float>();
  for (size_t i = 0; i < resized.pixels.size(); ++i) out[i] = table[i % 3][resized.pixels[i]];
  return input;
}

}  // namespace camo
