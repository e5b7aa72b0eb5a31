#include "data/filters.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>

#include "core/error.h"

namespace camo {
namespace {

constexpr int kLargestBlur = 31;

// Gaussian weights of taps -radius..radius in 1/256; the middle one takes the rounding, so that they add up to 256.
std::vector<uint32_t> blur_weights(int size) {
  const int radius = size / 2;
  const double deviation = 0.3 * ((size - 1) * 0.5 - 1) + 0.8;
  std::vector<double> exact(static_cast<size_t>(size));
  double sum = 0;
  for (int i = 0; i < size; ++i) {
    exact[static_cast<size_t>(i)] = std::exp(-0.5 * (i - radius) * (i - radius) / (deviation * deviation));
    sum += exact[static_cast<size_t>(i)];
  }
  std::vector<uint32_t> weights;
  uint32_t total = 0;
  for (const double weight : exact) {
    weights.push_back(static_cast<uint32_t>(std::lround(256 * weight / sum)));
    total += weights.back();
  }
  weights[static_cast<size_t>(radius)] += 256 - total;
  return weights;
}

int reflected(int at, int size) {
  if (size == 1) return 0;
  const int period = 2 * (size - 1);
  at = ((at % period) + period) % period;
  return std::min(at, period - at);
}

// A row blurred along x, with 8 fractional bits. `padded` has room for radius pixels on either side.
void blur_row(const uint8_t* row, int width, int channels, const std::vector<uint32_t>& weights, uint8_t* padded,
              uint16_t* out) {
  const int radius = static_cast<int>(weights.size()) / 2, count = width * channels;
  uint8_t* const inner = padded + radius * channels;
  std::memcpy(inner, row, static_cast<size_t>(count));
  for (int i = 1; i <= radius; ++i) {
    std::memcpy(inner - i * channels, row + reflected(-i, width) * channels, static_cast<size_t>(channels));
    std::memcpy(inner + count + (i - 1) * channels, row + reflected(width - 1 + i, width) * channels,
                static_cast<size_t>(channels));
  }
  std::fill_n(out, count, uint16_t{0});
  for (size_t k = 0; k < weights.size(); ++k) {
    const auto weight = static_cast<uint16_t>(weights[k]);
    const uint8_t* const from = padded + static_cast<ptrdiff_t>(k) * channels;
    for (int i = 0; i < count; ++i) out[i] = static_cast<uint16_t>(out[i] + from[i] * weight);  // 255 * 256 at most
  }
}

constexpr int kQuantileBits = 12, kNoiseBits = 11;

// Quantiles of the normal distribution in the middle of equal shares, in 1/2048, with deviation 1 as a set.
const std::array<int32_t, 1 << kQuantileBits>& normal_quantiles() {
  static const auto table = [] {
    constexpr size_t kCount = size_t{1} << kQuantileBits;
    std::array<double, kCount> exact{};
    double low = -6, squares = 0;
    for (size_t i = 0; i < kCount; ++i) {
      const double share = (static_cast<double>(i) + 0.5) / kCount;
      double high = 6;
      while (high - low > 1e-9) {
        const double middle = (low + high) / 2;
        (0.5 * std::erfc(-middle / std::numbers::sqrt2) < share ? low : high) = middle;
      }
      exact[i] = low;
      squares += low * low;
    }
    const double scale = (1 << kNoiseBits) / std::sqrt(squares / kCount);
    std::array<int32_t, kCount> fixed{};
    for (size_t i = 0; i < kCount; ++i) fixed[i] = static_cast<int32_t>(std::lround(exact[i] * scale));
    return fixed;
  }();
  return table;
}

}  // namespace

void gaussian_blur(Image& image, int size) {
  CAMO_CHECK(size >= 1 && size <= kLargestBlur && size % 2 == 1,
             "gaussian_blur: the size must be odd and within 1 and ", kLargestBlur, "; got ", size);
  if (size == 1 || image.pixels.empty()) return;
  const std::vector<uint32_t> weights = blur_weights(size);
  const int radius = size / 2, height = image.height;
  const size_t count = image.row_bytes();
  std::vector<uint8_t> padded(count + static_cast<size_t>(2 * radius * image.channels));
  // A ring of the rows that one output row needs; a row is read before it is overwritten.
  std::vector<uint16_t> ring(static_cast<size_t>(size) * count);
  std::vector<uint32_t> sums(count);
  const auto slot = [&](int y) { return ring.data() + static_cast<size_t>(y % size) * count; };
  for (int y = 0; y < std::min(radius, height); ++y)
    blur_row(image.row(y), image.width, image.channels, weights, padded.data(), slot(y));
  // With a height below the radius rows are mirrored more than once, but all of them stay in the ring.
  for (int y = 0; y < height; ++y) {
    if (y + radius < height)
      blur_row(image.row(y + radius), image.width, image.channels, weights, padded.data(), slot(y + radius));
    std::fill(sums.begin(), sums.end(), 1u << 15);
    for (int k = 0; k < size; ++k) {
      const uint16_t* const from = slot(reflected(y + k - radius, height));
      const uint32_t weight = weights[static_cast<size_t>(k)];
      for (size_t i = 0; i < count; ++i) sums[i] += from[i] * weight;
    }
    uint8_t* const to = image.row(y);
    for (size_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(sums[i] >> 16);
  }
}

void add_noise(Image& image, double deviation, RandomKey key) {
  CAMO_CHECK(deviation >= 0 && deviation <= 64, "add_noise: the deviation must be within 0 and 64; got ", deviation);
  if (deviation == 0) return;
  constexpr int kScaleBits = 8, kFraction = kNoiseBits + kScaleBits;
  constexpr uint32_t kLastQuantile = (1u << kQuantileBits) - 1;
  const auto scale = static_cast<int32_t>(std::lround(deviation * (1 << kScaleBits)));
  const int32_t* __restrict const quantiles = normal_quantiles().data();
  // A block of bytes takes kCounters x 4 random words, two bytes each; in runs of kCounters, which become vector code.
  constexpr size_t kCounters = 128, kBlock = 8 * kCounters;
  uint32_t words[4][kCounters];
  std::array<int32_t, kBlock> changes{};
  for (size_t begin = 0; begin < image.pixels.size(); begin += kBlock) {
    for (size_t i = 0; i < kCounters; ++i) {
      const auto four = philox(key.seed, begin / 8 + i, key.stream);
      for (size_t j = 0; j < 4; ++j) words[j][i] = four[j];
    }
    for (size_t run = 0; run < 8; ++run) {
      const uint32_t* const from = words[run / 2];
      const uint32_t shift = run % 2 * 16 + 16 - kQuantileBits;
      int32_t* const to = changes.data() + run * kCounters;
      for (size_t i = 0; i < kCounters; ++i) {
        const int32_t exact = quantiles[static_cast<int32_t>(from[i] >> shift & kLastQuantile)] * scale;
        to[i] = (exact + (1 << (kFraction - 1))) >> kFraction;  // exact: below 7600 * 16384
      }
    }
    uint8_t* const pixels = image.pixels.data() + begin;
    const size_t count = std::min(kBlock, image.pixels.size() - begin);
    for (size_t i = 0; i < count; ++i) {
      int32_t value = pixels[i] + changes[i];
      value = value > 0 ? value : 0;
      pixels[i] = static_cast<uint8_t>(value < 255 ? value : 255);
    }
  }
}

void cut_holes(Image& image, std::span<const Hole> holes) {
  for (const Hole& hole : holes) {
    const int left = std::clamp(hole.x, 0, image.width), right = std::clamp(hole.x + hole.width, left, image.width);
    const int top = std::clamp(hole.y, 0, image.height), bottom = std::clamp(hole.y + hole.height, top, image.height);
    for (int y = top; y < bottom; ++y)
      std::memset(image.row(y) + left * image.channels, 0, static_cast<size_t>((right - left) * image.channels));
  }
}

}  // namespace camo
