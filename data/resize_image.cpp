#include "data/resize_image.h"

#ifdef __SSSE3__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

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

// One output pixel of the horizontal pass: where its two source pixels begin in a row, and their weights.
struct Tap {
  int32_t first, second;
  int16_t first_weight, second_weight;
};

std::vector<Tap> byte_taps(const Taps& taps, int channels) {
  std::vector<Tap> found(taps.first.size());
  for (size_t i = 0; i < found.size(); ++i) {
    found[i] = {taps.first[i] * channels, taps.second[i] * channels,
                static_cast<int16_t>(fixed_weight(1.f - taps.fraction[i])),
                static_cast<int16_t>(fixed_weight(taps.fraction[i]))};
  }
  return found;
}

// Of the 11 fractional bits 4 are dropped before the products of the vertical pass, as in OpenCV's 16-bit vector code:
// what is left fits 16 bits.
constexpr int kDroppedBits = 4;

template <int kChannels>
void resize_row(const uint8_t* source, std::span<const Tap> taps, int16_t* out) {
  for (const Tap& tap : taps) {
    for (int c = 0; c < kChannels; ++c)
      *out++ = static_cast<int16_t>(
          (source[tap.first + c] * tap.first_weight + source[tap.second + c] * tap.second_weight) >> kDroppedBits);
  }
}

#ifdef __SSSE3__
// Vector code for the taps whose `bytes` bytes from the first pixel on are all within the row; a second pixel that is
// no neighbour of the first has weight 0. Returns how many that are; the rest is the plain loop's.
size_t taps_within(std::span<const Tap> taps, int bytes, int row_bytes) {
  size_t count = taps.size();
  while (count > 0 && taps[count - 1].first + bytes > row_bytes) --count;
  return count;
}

int32_t weights_of(const Tap& tap) {
  int32_t both;
  std::memcpy(&both, &tap.first_weight, sizeof both);
  return both;
}

// A pixel of both taps at once. It writes a fourth number that the next pixel overwrites: `out` has room for it.
size_t resize_rgb_vectors(const uint8_t* source, std::span<const Tap> taps, int row_bytes, int16_t* out) {
  const size_t count = taps_within(taps, 8, row_bytes);
  // Bytes r r' g g' b b', each widened to 16 bits.
  const __m128i pairs = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  for (size_t x = 0; x < count; ++x) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source + taps[x].first));
    const __m128i sums = _mm_madd_epi16(_mm_shuffle_epi8(bytes, pairs), _mm_set1_epi32(weights_of(taps[x])));
    const __m128i kept = _mm_srai_epi32(sums, kDroppedBits);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 3 * x), _mm_packs_epi32(kept, kept));
  }
  return count;
}

// Eight pixels at once.
size_t resize_grey_vectors(const uint8_t* source, std::span<const Tap> taps, int row_bytes, int16_t* out) {
  const size_t count = taps_within(taps, 2, row_bytes) / 8 * 8;
  for (size_t x = 0; x < count; x += 8) {
    const auto pair = [&](size_t i) {
      int16_t both;
      std::memcpy(&both, source + taps[x + i].first, sizeof both);
      return both;
    };
    const auto weights = [&](size_t i) {
      return _mm_setr_epi32(weights_of(taps[x + i]), weights_of(taps[x + i + 1]), weights_of(taps[x + i + 2]),
                            weights_of(taps[x + i + 3]));
    };
    const __m128i bytes = _mm_setr_epi16(pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7));
    const __m128i zero = _mm_setzero_si128();
    const __m128i low = _mm_madd_epi16(_mm_unpacklo_epi8(bytes, zero), weights(0));
    const __m128i high = _mm_madd_epi16(_mm_unpackhi_epi8(bytes, zero), weights(4));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x),
                     _mm_packs_epi32(_mm_srai_epi32(low, kDroppedBits), _mm_srai_epi32(high, kDroppedBits)));
  }
  return count;
}
#endif

void resize_row(const Image& image, int y, std::span<const Tap> taps, int16_t* out) {
  const uint8_t* const source = image.row(y);
  size_t done = 0;
#ifdef __SSSE3__
  const auto row_bytes = static_cast<int>(image.row_bytes());
  done = image.channels == 3 ? resize_rgb_vectors(source, taps, row_bytes, out)
                             : resize_grey_vectors(source, taps, row_bytes, out);
#endif
  if (image.channels == 3) resize_row<3>(source, taps.subspan(done), out + 3 * done);
  else resize_row<1>(source, taps.subspan(done), out + done);
}

}  // namespace

Image resize_bilinear(const Image& image, int width, int height) {
  check_target(width, height);
  CAMO_CHECK(!image.pixels.empty(), "resize_bilinear: the image must not be empty");
  CAMO_CHECK(image.channels == 1 || image.channels == 3, "resize_bilinear: channels must be 1 or 3; got ",
             image.channels);
  if (width == image.width && height == image.height) return image;
  const std::vector<Tap> across = byte_taps(bilinear_taps(image.width, width, Border::zero_fraction), image.channels);
  const Taps down = bilinear_taps(image.height, height, Border::keep_fraction);

  Image out(width, height, image.channels);
  const size_t row_size = out.row_bytes();
  // The two horizontally resized source rows in use, and which rows they are.
  std::vector<int16_t> rows[2] = {std::vector<int16_t>(row_size + 1), std::vector<int16_t>(row_size + 1)};
  int held[2] = {-1, -1};
  for (int y = 0; y < height; ++y) {
    const int wanted[2] = {down.first[static_cast<size_t>(y)], down.second[static_cast<size_t>(y)]};
    if (held[1] == wanted[0]) {
      std::swap(rows[0], rows[1]);
      std::swap(held[0], held[1]);
    }
    for (int k = 0; k < 2; ++k) {
      if (held[k] == wanted[k] || (k == 1 && wanted[0] == wanted[1])) continue;
      resize_row(image, wanted[k], across, rows[k].data());
      held[k] = wanted[k];
    }
    const int top = fixed_weight(1.f - down.fraction[static_cast<size_t>(y)]);
    const int bottom = fixed_weight(down.fraction[static_cast<size_t>(y)]);
    const int16_t* const a = rows[0].data();
    const int16_t* const b = wanted[0] == wanted[1] ? a : rows[1].data();
    uint8_t* const to = out.row(y);
    // 18 fractional bits now: 16 are dropped behind the products, 2 at the end.
    for (size_t i = 0; i < row_size; ++i)
      to[i] = static_cast<uint8_t>((((top * a[i]) >> 16) + ((bottom * b[i]) >> 16) + 2) >> 2);
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
