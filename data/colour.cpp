#include "data/colour.h"

#include <cmath>
#include <numbers>

namespace camo {
namespace {

using Matrix = std::array<std::array<double, 3>, 3>;

constexpr double kGrey[3] = {0.299, 0.587, 0.114};
constexpr Matrix kYiq = {{{0.299, 0.587, 0.114}, {0.596, -0.274, -0.322}, {0.211, -0.523, 0.312}}};

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c{};
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = 0; j < 3; ++j)
      for (size_t k = 0; k < 3; ++k) c[i][j] += a[i][k] * b[k][j];
  return c;
}

Matrix inverse(const Matrix& m) {
  const auto minor = [&](size_t i, size_t j) {  // of the transposed, with its sign
    const size_t a = (j + 1) % 3, b = (j + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
    return m[a][c] * m[b][d] - m[a][d] * m[b][c];
  };
  const double determinant = m[0][0] * minor(0, 0) + m[0][1] * minor(1, 0) + m[0][2] * minor(2, 0);
  Matrix result{};
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = 0; j < 3; ++j) result[i][j] = minor(i, j) / determinant;
  return result;
}

}  // namespace

ColourMap ColourMap::then(const ColourMap& next) const {
  ColourMap both{.matrix = product(next.matrix, matrix), .offset = next.offset};
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = 0; j < 3; ++j) both.offset[i] += next.matrix[i][j] * offset[j];
  return both;
}

ColourMap jitter_map(double brightness, double contrast, double saturation, double hue, double mean_grey) {
  ColourMap map;
  for (size_t i = 0; i < 3; ++i) {
    map.matrix[i][i] = brightness * contrast;
    map.offset[i] = (1 - contrast) * brightness * mean_grey;
  }
  if (saturation != 1) {
    ColourMap change;
    for (size_t i = 0; i < 3; ++i)
      for (size_t j = 0; j < 3; ++j) change.matrix[i][j] = (1 - saturation) * kGrey[j] + (i == j ? saturation : 0);
    map = map.then(change);
  }
  if (hue != 0) {
    const double cosine = std::cos(2 * std::numbers::pi * hue), sine = std::sin(2 * std::numbers::pi * hue);
    const Matrix turn = {{{1, 0, 0}, {0, cosine, -sine}, {0, sine, cosine}}};
    map = map.then({.matrix = product(inverse(kYiq), product(turn, kYiq)), .offset = {0, 0, 0}});
  }
  return map;
}

double mean_grey(const Image& image) {
  uint64_t sums[3] = {0, 0, 0};
  const uint8_t* pixel = image.pixels.data();
  for (int y = 0; y < image.height; ++y) {
    uint32_t row[3] = {0, 0, 0};  // 32768 pixels of 255 fit
    for (int x = 0; x < image.width; ++x, pixel += 3)
      for (int c = 0; c < 3; ++c) row[c] += pixel[c];
    for (int c = 0; c < 3; ++c) sums[c] += row[c];
  }
  double sum = 0;
  for (int c = 0; c < 3; ++c) sum += kGrey[c] * static_cast<double>(sums[c]);
  return sum / (static_cast<double>(image.width) * image.height);
}

void apply_colour(const ColourMap& map, Image& image) {
  if (map == ColourMap{}) return;
  float m[3][3], offset[3];
  for (size_t i = 0; i < 3; ++i) {
    for (size_t j = 0; j < 3; ++j) m[i][j] = static_cast<float>(map.matrix[i][j]);
    offset[i] = static_cast<float>(map.offset[i]) + 0.5f;  // to round
  }
  uint8_t* const pixels = image.pixels.data();
  const auto count = static_cast<int64_t>(image.pixels.size() / 3);
  for (int64_t p = 0; p < count; ++p) {
    const auto r = static_cast<float>(pixels[3 * p]), g = static_cast<float>(pixels[3 * p + 1]),
               b = static_cast<float>(pixels[3 * p + 2]);
    for (int64_t i = 0; i < 3; ++i) {
      float value = m[i][0] * r + m[i][1] * g + m[i][2] * b + offset[i];
      value = value > 0 ? value : 0;
      value = value < 255.5f ? value : 255.5f;
      pixels[3 * p + i] = static_cast<uint8_t>(static_cast<int>(value));
    }
  }
}

void apply_gamma(double gamma, Image& image) {
  if (gamma == 1) return;
  uint8_t table[256];
  for (int v = 0; v < 256; ++v) table[v] = static_cast<uint8_t>(std::lround(255 * std::pow(v / 255.0, gamma)));
  for (uint8_t& value : image.pixels) value = table[value];
}

}  // namespace camo
