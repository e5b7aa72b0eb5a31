// y(h, w) = sum over i, j of g(i) g(j) x(h + i, w + j), |i|, |j| <= window / 2, g(i) ~ exp(-i^2 / (2 deviation^2)),
// sum 1.
//
// The window is symmetric, so dx is the blur of dy. Keeps nothing. Rows first, then columns.
#include <cmath>

#include "core/autograd.h"
#include "ops/detail/gaussian_blur.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/row_filter.h"
#include "ops/detail/rows.h"
#ifdef __CUDACC__
#include "core/cuda/packs.cuh"
#endif

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
  const Tensor across = zeros(x.shape(), x.dtype(), cpu);
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

// --- CUDA ---

constexpr int kMaxCudaWindow = 63;  // weights travel as kernel arguments

#ifdef __CUDACC__
/// One direction of the blur: elements `step` apart along an axis of `extent`.   x, y [..., extent, step]
template <class T, class R, int N>
struct BlurPack {
  using A = cuda::Accumulator<T>;
  const T* x;
  R* y;
  cuda::FastDivide step, extent;  // step in packs
  int radius;
  A weights[kMaxCudaWindow];

  BlurPack(const T* x_, R* y_, int64_t step_, int64_t extent_, const std::vector<double>& taps)
      : x(x_),
        y(y_),
        step(static_cast<uint32_t>(step_ / N)),
        extent(static_cast<uint32_t>(extent_)),
        radius(static_cast<int>(taps.size() / 2)) {
    for (size_t i = 0; i < taps.size(); ++i) weights[i] = static_cast<A>(taps[i]);
  }
  __device__ void operator()(int64_t i) const {
    const uint32_t along = step.divide(static_cast<uint32_t>(i));
    const int position = static_cast<int>(along - extent.divide(along) * extent.divisor);
    A sums[N] = {};
    // Not from max(-radius, -position): of max(max(-a, -b), c), which then is in the number of rounds, ptxas 13.0 makes
    // one instruction for sm_90 that takes b without its sign.
    for (int tap = 0; tap <= 2 * radius; ++tap) {
      const int source = position + tap - radius;
      if (source < 0 || source >= static_cast<int>(extent.divisor)) continue;
      const cuda::Pack<T, N> values =
          *reinterpret_cast<const cuda::Pack<T, N>*>(x + (i + int64_t{tap - radius} * step.divisor) * N);
#pragma unroll
      for (int n = 0; n < N; ++n) sums[n] += weights[tap] * convert<A>(values.values[n]);
    }
    cuda::Pack<R, N> pack;
#pragma unroll
    for (int n = 0; n < N; ++n) pack.values[n] = convert<R>(sums[n]);
    *reinterpret_cast<cuda::Pack<R, N>*>(y + i * N) = pack;
  }
};
#endif

void blur_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] const std::vector<double>& weights,
               [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  CAMO_CHECK(weights.size() <= kMaxCudaWindow, "gaussian_blur: window must be at most 63 on CUDA; got ",
             weights.size());
  CAMO_CHECK(x.numel() < (int64_t{1} << 31), "gaussian_blur: at most 2^31 elements on CUDA; got shape ", x.shape());
  if (x.numel() == 0) return;
  const int64_t height = x.size(1), width = x.size(2), channels = x.size(3);
  cuda::dispatch_floating(x.dtype(), "gaussian_blur", [&]<class T>() {
    using A = cuda::Accumulator<T>;
    const Tensor across = empty(x.shape(), dtype_of<A>, x.device());
    cuda::dispatch_pack<T>({{x.raw_data(), y.raw_data()}, {channels}}, [&]<int N>() {
      cuda::for_each(x.device(), x.numel() / N, "gaussian_blur",
                     BlurPack<T, A, N>(x.data<T>(), across.data<A>(), channels, width, weights));
      cuda::for_each(x.device(), x.numel() / N, "gaussian_blur",
                     BlurPack<A, T, N>(across.data<A>(), y.data<T>(), width * channels, height, weights));
    });
  });
#endif
}

Tensor blurred(const Tensor& x, const std::vector<double>& weights) {
  if (x.is_cuda()) {
    Tensor y = empty(x.shape(), x.dtype(), x.device());
    blur_cuda(dense(x), weights, y);
    return y;
  }
  if (needs_f32(x)) return rounded_to(blurred(in_f32(x), weights), x.dtype());
  return dispatch_floating(x.dtype(), "gaussian_blur", [&]<class T>() {
    Tensor y = zeros(x.shape(), x.dtype(), cpu);
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
