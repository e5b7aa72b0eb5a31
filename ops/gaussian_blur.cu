// y(h, w) = sum over i, j of g(i) g(j) x(h + i, w + j), |i|, |j| <= window / 2, g(i) ~ exp(-i^2 / (2 deviation^2)),
// sum 1.
//
// The window is symmetric, so dx is the blur of dy. Keeps nothing. Rows first, then columns.
#include <cmath>

#include "core/autograd.h"
#include "ops/detail/gaussian_blur.h"
#include "ops/detail/row_filter.h"
#include "ops/detail/rows.h"

namespace camo::detail {
namespace {

std::vector<double> gaussian_weights(int64_t window, double deviation) {
  std::vector<double> weights;
  double sum = 0;
  for (int64_t i = 0; i < window; ++i) {
    const double distance = static_cast<double>(i - window / 2) / deviation;
    weights.push_back(std::exp(-distance * distance / 2));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

template <class T>
void blur(const Tensor& x, const std::vector<double>& weights, const Tensor& y) {
  const int64_t height = x.size(1), width = x.size(2), channels = x.size(3), length = width * channels;
  const auto radius = static_cast<int64_t>(weights.size() / 2);
  const Tensor across = zeros(x.shape(), x.dtype());
  const int64_t grain = row_grain(length * (2 * radius + 1));
  parallel_for(x.size(0) * height, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t shift = -radius; shift <= radius; ++shift) {
        const T tap = static_cast<T>(weights[static_cast<size_t>(shift + radius)]);
        add_shifted_row(x.data<T>() + row * length, width, channels, shift, tap, across.data<T>() + row * length);
      }
    }
  });
  parallel_for(x.size(0) * height, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t h = row % height;
      for (int64_t i = std::max(-radius, -h); i <= std::min(radius, height - 1 - h); ++i) {
        const T tap = static_cast<T>(weights[static_cast<size_t>(i + radius)]);
        add_shifted_row(across.data<T>() + (row + i) * length, width, channels, 0, tap, y.data<T>() + row * length);
      }
    }
  });
}

Tensor blurred(const Tensor& x, const std::vector<double>& weights) {
  return dispatch_floating(x.dtype(), "gaussian_blur", [&]<class T>() {
    Tensor y = zeros(x.shape(), x.dtype());
    blur<T>(dense(x), weights, y);
    return y;
  });
}

struct GaussianBlurNode final : Node {
  explicit GaussianBlurNode(std::vector<double> weights_) : Node("gaussian_blur"), weights(std::move(weights_)) {}
  std::vector<double> weights;

  Tensors backward(const Tensors& dy) override { return {blurred(dy[0], weights)}; }
};

}  // namespace

Tensor gaussian_blur(const Tensor& x, int64_t window, double deviation) {
  CAMO_CHECK(x.dims() == 4, "gaussian_blur: x must be a map [N, H, W, C]; got x ", x.shape());
  CAMO_CHECK(window > 0 && window % 2 == 1, "gaussian_blur: window must be odd; got ", window);
  CAMO_CHECK(deviation > 0, "gaussian_blur: deviation must be positive; got ", deviation);
  const std::vector<double> weights = gaussian_weights(window, deviation);
  Tensor y = blurred(x, weights);
  record<GaussianBlurNode>(y, {x}, weights);
  return y;
}

}  // namespace camo::detail
