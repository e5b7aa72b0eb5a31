#include "data/resize_image.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace camo {
namespace {

// Output i lies between source samples first[i] and second[i], at `fraction` of the way.
struct Taps {
  std::vector<int> first, second;
  std::vector<float> fraction;
};

// The order of double and float operations is OpenCV's: it decides the last bit of a weight. So does the border: OpenCV
// sets the fraction to 0 there for columns, but keeps it for rows, blending the border row with itself (which rounds).
enum class Border { zero_fraction, keep_fraction };

Taps bilinear_taps(int source, int target, Border border) {
  Taps taps;
  const double scale = 1.0 / (static_cast<double>(target) / source);
  for (int i = 0; i < target; ++i) {
    auto position = static_cast<float>((i + 0.5) * scale - 0.5);
    int first = static_cast<int>(std::floor(position));
    float fraction = position - static_cast<float>(first);
    if (border == Border::zero_fraction && (first < 0 || first >= source - 1)) fraction = 0;
    taps.first.push_back(std::clamp(first, 0, source - 1));
    taps.second.push_back(std::clamp(first + (fraction > 0 ? 1 : 0), 0, source - 1));
    taps.fraction.push_back(fraction);
  }
  return taps;
}

constexpr int kWeightBits = 11;

int fixed_weight(float weight) { return static_cast<int>(std::lrint(weight * (1 << kWeightBits))); }

void check_target(int width, int height) {
  CAMO_CHECK(width > 0 && height > 0 && width <= kMaxImageSide && height <= kMaxImageSide,
             "resize_bilinear: the new size must be within 1 and ", kMaxImageSide, "; got ", width, " x ", height);
}

void resize_row(const uint8_t* source, int channels, const Taps& taps, const std::vector<int>& weights, int* out) {
  const size_t width = taps.first.size();
  for (size_t x = 0; x < width; ++x) {
    const uint8_t* a = source + static_cast<ptrdiff_t>(taps.first[x]) * channels;
    const uint8_t* b = source + static_cast<ptrdiff_t>(taps.second[x]) * channels;
    for (int c = 0; c < channels; ++c) *out++ = a[c] * weights[2 * x] + b[c] * weights[2 * x + 1];
  }
}

}  // namespace

Image resize_bilinear(const Image& image, int width, int height) {
  check_target(width, height);
  CAMO_CHECK(!image.pixels.empty(), "resize_bilinear: the image must not be empty");
  if (width == image.width && height == image.height) return image;
  const Taps across = bilinear_taps(image.width, width, Border::zero_fraction);
  const Taps down = bilinear_taps(image.height, height, Border::keep_fraction);
  std::vector<int> weights;
  for (float fraction : across.fraction) {
    weights.push_back(fixed_weight(1.f - fraction));
    weights.push_back(fixed_weight(fraction));
  }

  Image out(width, height, image.channels);
  const size_t row_size = out.row_bytes();
  // The two horizontally resized source rows in use, and which rows they are.
  std::vector<int> rows[2] = {std::vector<int>(row_size), std::vector<int>(row_size)};
  int held[2] = {-1, -1};
  for (int y = 0; y < height; ++y) {
    const int wanted[2] = {down.first[static_cast<size_t>(y)], down.second[static_cast<size_t>(y)]};
    if (held[1] == wanted[0]) {
      std::swap(rows[0], rows[1]);
      std::swap(held[0], held[1]);
    }
    for (int k = 0; k < 2; ++k) {
      if (held[k] == wanted[k]) continue;
      resize_row(image.row(wanted[k]), image.channels, across, weights, rows[k].data());
      held[k] = wanted[k];
    }
    const int top = fixed_weight(1.f - down.fraction[static_cast<size_t>(y)]);
    const int bottom = fixed_weight(down.fraction[static_cast<size_t>(y)]);
    const int* a = rows[0].data();
    const int* b = rows[1].data();
    uint8_t* to = out.row(y);
    // 22 fractional bits: 4 and 16 are dropped around the products, as OpenCV's 16-bit vector code does, 2 at the end.
    for (size_t i = 0; i < row_size; ++i)
      to[i] = static_cast<uint8_t>((((top * (a[i] >> 4)) >> 16) + ((bottom * (b[i] >> 4)) >> 16) + 2) >> 2);
  }
  return out;
}

std::vector<float> resize_bilinear(const float* map, int width, int height, int new_width, int new_height) {
  check_target(new_width, new_height);
  CAMO_CHECK(width > 0 && height > 0, "resize_bilinear: the map must not be empty; got ", width, " x ", height);
  const Taps across = bilinear_taps(width, new_width, Border::zero_fraction);
  const Taps down = bilinear_taps(height, new_height, Border::zero_fraction);
  std::vector<float> out;
  out.reserve(static_cast<size_t>(new_width) * static_cast<size_t>(new_height));
  for (size_t y = 0; y < down.first.size(); ++y) {
    const float* top = map + static_cast<ptrdiff_t>(down.first[y]) * width;
    const float* bottom = map + static_cast<ptrdiff_t>(down.second[y]) * width;
    for (size_t x = 0; x < across.first.size(); ++x) {
      const int left = across.first[x], right = across.second[x];
      const float fraction = across.fraction[x];
      const float upper = top[left] + fraction * (top[right] - top[left]);
      const float lower = bottom[left] + fraction * (bottom[right] - bottom[left]);
      out.push_back(upper + down.fraction[y] * (lower - upper));
    }
  }
  return out;
}

}  // namespace camo
