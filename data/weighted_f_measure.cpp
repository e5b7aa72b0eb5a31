#include <algorithm>
#include <array>
#include <cmath>

#include "data/metrics.h"
#include "data/nearest_pixel.h"

namespace camo {
namespace {

constexpr double kEpsilon = 0x1p-52;
constexpr int kRadius = 3;  // of the 7 x 7 Gaussian
constexpr double kSigma = 5;

/// One row of MATLAB's fspecial('gaussian', 7, 5), which is the product of two such rows.
std::array<double, 2 * kRadius + 1> gaussian() {
  std::array<double, 2 * kRadius + 1> weights;
  double sum = 0;
  for (int k = -kRadius; k <= kRadius; ++k)
    sum += weights[static_cast<size_t>(k + kRadius)] = std::exp(-k * k / (2 * kSigma * kSigma));
  for (double& weight : weights) weight /= sum;
  return weights;
}

/// 2 - exp(log(0.5) / 5 * d) by d^2: how much a false alarm at distance d from the object counts.
double importance(int32_t squared_distance) {
  constexpr size_t kEnd = 1 << 17;  // 362 pixels away it is 2 to the last bit
  static const std::vector<double> kTable = [] {
    std::vector<double> table(kEnd);
    for (size_t i = 0; i < kEnd; ++i) table[i] = 2 - std::exp(std::log(0.5) / 5 * std::sqrt(static_cast<double>(i)));
    return table;
  }();
  const auto index = static_cast<size_t>(squared_distance);
  return index < kEnd ? kTable[index] : 2;
}

/// Gaussian means of a map, 0 beyond its borders, for the pixels of a rectangle.
class SmoothedRectangle {
 public:
  SmoothedRectangle(const std::vector<double>& map, int width, int height, int left, int top, int right, int bottom)
      : left_(left), top_(top), columns_(right - left) {
    static const auto kWeights = gaussian();
    const int first = std::max(0, top - kRadius), end = std::min(height, bottom + kRadius);
    std::vector<double> across(static_cast<size_t>(end - first) * static_cast<size_t>(columns_));
    for (int y = first; y < end; ++y) {
      const double* row = map.data() + static_cast<ptrdiff_t>(y) * width;
      double* out = across.data() + static_cast<ptrdiff_t>(y - first) * columns_;
      for (int x = left; x < right; ++x) {
        double sum = 0;
        for (int k = std::max(-kRadius, -x); k <= std::min(kRadius, width - 1 - x); ++k)
          sum += kWeights[static_cast<size_t>(k + kRadius)] * row[x + k];
        out[x - left] = sum;
      }
    }
    values_.assign(static_cast<size_t>(bottom - top) * static_cast<size_t>(columns_), 0);
    for (int y = top; y < bottom; ++y) {
      double* out = values_.data() + static_cast<ptrdiff_t>(y - top) * columns_;
      for (int k = std::max(-kRadius, -y); k <= std::min(kRadius, height - 1 - y); ++k) {
        const double weight = kWeights[static_cast<size_t>(k + kRadius)];
        const double* row = across.data() + static_cast<ptrdiff_t>(y + k - first) * columns_;
        for (int x = 0; x < columns_; ++x) out[x] += weight * row[x];
      }
    }
  }

  double at(int x, int y) const {
    return values_[static_cast<size_t>(y - top_) * static_cast<size_t>(columns_) + static_cast<size_t>(x - left_)];
  }

 private:
  int left_, top_, columns_;
  std::vector<double> values_;
};

}  // namespace

double weighted_f_measure(const std::vector<double>& prediction, const std::vector<uint8_t>& mask, int width,
                          int height) {
  const NearestPixels nearest = nearest_marked(mask, width, height);
  std::vector<double> error(prediction.size()), borrowed(prediction.size());
  for (size_t i = 0; i < error.size(); ++i) error[i] = std::abs(prediction[i] - mask[i]);
  // Background pixels take over the error of the nearest foreground, so that smoothing across its edge is fair.
  int left = width, top = height, right = 0, bottom = 0;
  double false_alarms = 0;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const size_t i = static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x);
      borrowed[i] = error[static_cast<size_t>(nearest.index[i])];
      if (mask[i]) {
        left = std::min(left, x), right = std::max(right, x + 1);
        top = std::min(top, y), bottom = std::max(bottom, y + 1);
      } else {
        false_alarms += error[i] * importance(nearest.squared_distance[i]);
      }
    }
  }
  const SmoothedRectangle smoothed(borrowed, width, height, left, top, right, bottom);
  double missed = 0, wanted = 0;
  for (int y = top; y < bottom; ++y) {
    for (int x = left; x < right; ++x) {
      const size_t i = static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x);
      if (!mask[i]) continue;
      missed += std::min(error[i], smoothed.at(x, y));
      ++wanted;
    }
  }
  const double hits = wanted - missed;
  const double recall = 1 - missed / wanted, precision = hits / (hits + false_alarms + kEpsilon);
  return 2 * recall * precision / (recall + precision + kEpsilon);
}

}  // namespace camo
