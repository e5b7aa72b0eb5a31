// Pictures and files that the tests of data/ are made from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "data/codecs.h"
#include "data/image.h"
#include "data/transforms.h"

namespace camo::test {

/// A smooth picture: JPEG keeps it within a few steps.
inline Image gradient_image(int width, int height, int channels, int start = 0) {
  Image image(width, height, channels);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c)
        image.row(y)[x * channels + c] =
            static_cast<uint8_t>(20 + std::abs((start + 3 * x + 5 * y + 40 * c) % 400 - 200));
  return image;
}

/// Independent random pixels: nothing hides an error of position.
inline ResizedSample random_sample(int size, uint64_t seed) {
  ResizedSample sample{Image(size, size, 3), Image(size, size, 1)};
  const RandomKey key{seed, 0};
  for (size_t i = 0; i < sample.image.pixels.size(); ++i) sample.image.pixels[i] = static_cast<uint8_t>(key.bits(i));
  for (size_t i = 0; i < sample.mask.pixels.size(); ++i) sample.mask.pixels[i] = key.bits(i) >> 31;
  return sample;
}

inline std::vector<uint8_t> to_bytes(const std::string& text) { return {text.begin(), text.end()}; }

inline void write_bytes(const std::filesystem::path& path, std::span<const uint8_t> bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

/// PNG file bytes with any header: `rows` are the filter bytes and scanlines, stored without compression.
std::vector<uint8_t> make_png(uint32_t width, uint32_t height, int depth, int colour_type,
                              const std::vector<uint8_t>& rows, const std::vector<uint8_t>& palette = {});

/// The JPEG with an EXIF segment that holds this orientation.
std::vector<uint8_t> with_orientation(const std::vector<uint8_t>& jpeg, int orientation, bool little_endian);

inline int max_difference(const Image& a, const Image& b) {
  if (a.width != b.width || a.height != b.height || a.channels != b.channels) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) largest = std::max(largest, std::abs(a.pixels[i] - b.pixels[i]));
  return largest;
}

/// Writes `count` pairs, sizes differing, below folder/Imgs (jpg) and folder/GT (png): names s00, s01, ...
void write_pairs(const std::filesystem::path& folder, int count, const std::string& prefix = "s");

}  // namespace camo::test
