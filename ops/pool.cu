// Pools of [N, H, W, C].
//
//   avg_pool2d           y = sum of the window / (KH * KW), padding counting as zeros
//                        dx = dy / (KH * KW) to each element of the window
//   adaptive_avg_pool2d  y = mean of the window; dx = dy / size to each element
//   max_pool2d           y = largest of the window, NaN counting as largest; dx = dy to the first largest
//   global_avg_pool2d, global_max_pool2d: the same with one window, the whole map
//
// Means save nothing; maxima save the position (iy * W + ix, i64) of each result. Sums in the element type, of the
// global mean in blocks that do not depend on the number of threads.
#include <cmath>
#include <vector>

#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "core/parallel.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/separable.h"
#include "ops/pool.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"
#ifdef CAMO_WITH_CUDA
#include "ops/cuda/max_pool.h"
#endif

namespace camo {

namespace {

void check_map(const Tensor& x, const char* op) {
  CAMO_CHECK(x.dims() == 4, op, ": x must be [N, H, W, C]; got ", x.shape());
}

void check_not_empty(const Tensor& x, const char* op) {
  check_map(x, op);
  CAMO_CHECK(x.size(1) >= 1 && x.size(2) >= 1, op, ": x must not have an empty height or width; got ", x.shape());
}

// Checks the options and puts the kernel's size for strides of 0.
Pool2dOptions checked_options(const Tensor& x, Pool2dOptions options, const char* op) {
  check_map(x, op);
  for (size_t axis : {0, 1}) {
    const int64_t kernel = options.kernel[axis], padding = options.padding[axis];
    const int64_t extent = x.shape()[static_cast<int>(axis) + 1];
    CAMO_CHECK(kernel >= 1, op, ": the kernel must be at least 1 x 1; got ", options.kernel[0], " x ",
               options.kernel[1]);
    CAMO_CHECK(options.stride[axis] >= 0, op, ": strides must not be negative; got ", options.stride[0], ", ",
               options.stride[1]);
    CAMO_CHECK(padding >= 0 && padding <= kernel / 2, op,
               ": padding must be from 0 to half of the kernel; got padding ", padding, ", kernel ", kernel);
    CAMO_CHECK(kernel <= extent + 2 * padding, op, ": the kernel must fit into the padded input; got kernel ", kernel,
               ", padded input ", extent + 2 * padding);
    if (options.stride[axis] == 0) options.stride[axis] = kernel;
  }
  return options;
}

// ---- means ----

struct MeanPoolNode final : Node {
  MeanPoolNode(const char* op, detail::AxisTaps r, detail::AxisTaps c)
      : Node(op), rows(std::move(r)), columns(std::move(c)) {}
  detail::AxisTaps rows, columns;

  Tensors backward(const Tensors& dy) override {
    const Tensor& g = dy[0];
    const Tensor maps = g.dims() == 4 ? contiguous(g) : reshape(contiguous(g), {g.size(0), 1, 1, g.size(1)});
    return {detail::separable_map(maps, rows.transposed(), columns.transposed(), name().c_str(),
                                  take_gradient_sum(*this, 0))};
  }
};

Tensor mean_pool(const char* op, const Tensor& x, detail::AxisTaps rows, detail::AxisTaps columns) {
  const Tensor y = detail::separable_map(contiguous(x.detach()), rows, columns, op);
  record<MeanPoolNode>(y, {x}, op, std::move(rows), std::move(columns));
  return y;
}

constexpr int64_t kBlock = 64;  // pixels summed in T; the sums of blocks are added in double

// y[n, c] = scale * sum over the pixels of x [n, pixels, c].
template <class T>
void sum_pixels(const T* x, T* y, int64_t images, int64_t pixels, int64_t channels, double scale) {
  const int64_t blocks = (pixels + kBlock - 1) / kBlock;
  std::vector<T> partial(static_cast<size_t>(images * blocks * channels));
  parallel_for(images * blocks, 1 + 32768 / std::max<int64_t>(1, kBlock * channels), [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t first = job % blocks * kBlock, last = std::min(pixels, first + kBlock);
      T* sums = partial.data() + job * channels;
      for (int64_t pixel = first; pixel < last; ++pixel) {
        const T* from = x + (job / blocks * pixels + pixel) * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) sums[c] += from[c];
      }
    }
  });
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        sum += static_cast<double>(partial[static_cast<size_t>((image * blocks + block) * channels + c)]);
      }
      y[image * channels + c] = static_cast<T>(scale * sum);
    }
  }
}

struct GlobalAvgPool2dNode final : Node {
  explicit GlobalAvgPool2dNode(const Shape& s) : Node("global_avg_pool2d"), shape(s) {}
  Shape shape;

  Tensors backward(const Tensors& dy_in) override {
    const Tensor dy = contiguous(dy_in[0]);
    const Tensor dx = empty(shape, dy.dtype(), cpu);
    const int64_t pixels = shape[1] * shape[2], channels = shape[3];
    dispatch_floating(dy.dtype(), "global_avg_pool2d", [&]<class T>() {
      const T* from = dy.data<T>();
      T* to = dx.data<T>();
      const T scale = T(1) / static_cast<T>(pixels);
      parallel_for(shape[0] * pixels, 1 + 32768 / std::max<int64_t>(1, channels), [&](int64_t begin, int64_t end) {
        for (int64_t pixel = begin; pixel < end; ++pixel) {
          const T* row = from + pixel / pixels * channels;
#pragma omp simd
          for (int64_t c = 0; c < channels; ++c) to[pixel * channels + c] = scale * row[c];
        }
      });
    });
    return {dx};
  }
};

/// Forward in one pass over the map; the gradient as of a mean pool with one window.
Tensor global_mean_on_device(const Tensor& x) {
  Tensor y;
  {
    const NoGrad no_grad;
    y = mean(x, {1, 2});
  }
  record<MeanPoolNode>(y, {x}, "global_avg_pool2d", detail::adaptive_taps(x.size(1), 1),
                       detail::adaptive_taps(x.size(2), 1));
  return y;
}

// ---- maxima ----

// Adds each dy to the position in its image that it came from. One image a thread: windows may overlap.
struct MaxPoolNode final : Node {
  MaxPoolNode(const char* op, const Shape& s, const Pool2dOptions& o) : Node(op), shape(s), options(o) {}
  Shape shape;
  Pool2dOptions options;
  Saved positions{this, "positions"};  // [N, results, C]

  Tensors backward(const Tensors& dy_in) override {
    const Tensor dy = contiguous(dy_in[0]);
#ifdef CAMO_WITH_CUDA
    if (dy.is_cuda()) {
      const GradientSum dx(*this, 0, shape, dy.dtype(), dy.device());
      cuda::max_pool_backward(dy, *positions, options, dx.tensor, dx.adds);
      return {dx.tensor};
    }
#endif
    const Tensor dx = zeros(shape, dy.dtype(), cpu);
    const int64_t channels = shape[3], image_size = shape[1] * shape[2] * channels;
    if (dy.numel() == 0) return {dx};
    const int64_t results = dy.numel() / shape[0];
    const int64_t* position = positions->data<int64_t>();
    dispatch_floating(dy.dtype(), name().c_str(), [&]<class T>() {
      const T* from = dy.data<T>();
      T* to = dx.data<T>();
      parallel_for(shape[0], 1 + 16384 / results, [&](int64_t begin, int64_t end) {
        for (int64_t image = begin; image < end; ++image) {
          for (int64_t i = 0; i < results; ++i) {
            const int64_t k = image * results + i;
            to[image * image_size + position[k] * channels + i % channels] += from[k];
          }
        }
      });
    });
    return {dx};
  }
};

// Takes `from` (the pixel at `position`) where it beats the best so far; a NaN stays.
template <class T>
void keep_larger(const T* from, int64_t position, int64_t channels, T* best, int64_t* best_position) {
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const bool wins = from[c] > best[c] || (from[c] != from[c] && best[c] == best[c]);
    best[c] = wins ? from[c] : best[c];
    best_position[c] = wins ? position : best_position[c];
  }
}

template <class T>
void max_windows(const T* x, const Shape& in, const Shape& out, const Pool2dOptions& options, T* y,
                 int64_t* positions) {
  const int64_t height = in[1], width = in[2], channels = in[3];
  const auto kernel = options.kernel, stride = options.stride, padding = options.padding;
  parallel_for(out[0] * out[1], 1 + 16384 / std::max<int64_t>(1, out[2] * channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* image = x + row / out[1] * height * width * channels;
      const int64_t top = row % out[1] * stride[0] - padding[0];
      const int64_t y0 = std::max<int64_t>(top, 0), y1 = std::min(top + kernel[0], height);
      for (int64_t ox = 0; ox < out[2]; ++ox) {
        const int64_t left = ox * stride[1] - padding[1];
        const int64_t x0 = std::max<int64_t>(left, 0), x1 = std::min(left + kernel[1], width);
        T* best = y + (row * out[2] + ox) * channels;
        int64_t* best_position = positions + (row * out[2] + ox) * channels;
        std::copy_n(image + (y0 * width + x0) * channels, channels, best);
        std::fill_n(best_position, channels, y0 * width + x0);
        for (int64_t iy = y0; iy < y1; ++iy) {
          for (int64_t ix = x0; ix < x1; ++ix) {
            const int64_t position = iy * width + ix;
            keep_larger(image + position * channels, position, channels, best, best_position);
          }
        }
      }
    }
  });
}

// Blocks of pixels first, then the blocks in their order, so that the first of equal elements wins.
template <class T>
void max_pixels(const T* x, T* y, int64_t* positions, int64_t images, int64_t pixels, int64_t channels) {
  const int64_t blocks = (pixels + kBlock - 1) / kBlock;
  std::vector<T> partial(static_cast<size_t>(images * blocks * channels));
  std::vector<int64_t> partial_position(partial.size());
  parallel_for(images * blocks, 1 + 16384 / std::max<int64_t>(1, kBlock * channels), [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const T* image = x + job / blocks * pixels * channels;
      const int64_t first = job % blocks * kBlock, last = std::min(pixels, first + kBlock);
      T* best = partial.data() + job * channels;
      int64_t* best_position = partial_position.data() + job * channels;
      std::copy_n(image + first * channels, channels, best);
      std::fill_n(best_position, channels, first);
      for (int64_t pixel = first + 1; pixel < last; ++pixel) {
        keep_larger(image + pixel * channels, pixel, channels, best, best_position);
      }
    }
  });
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      size_t best = static_cast<size_t>(image * blocks * channels + c);
      for (int64_t block = 1; block < blocks; ++block) {
        const auto other = static_cast<size_t>((image * blocks + block) * channels + c);
        const bool is_nan = std::isnan(partial[other]) && !std::isnan(partial[best]);
        if (partial[other] > partial[best] || is_nan) best = other;
      }
      y[image * channels + c] = partial[best];
      positions[image * channels + c] = partial_position[best];
    }
  }
}

Tensor record_max_pool(const char* op, const Tensor& x, const Tensor& y, const Tensor& positions,
                       const Pool2dOptions& options) {
  if (auto* node = record<MaxPoolNode>(y, {x}, op, x.shape(), options)) node->positions = positions;
  return y;
}

}  // namespace

Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& options) {
  const auto [kernel, stride, padding] = checked_options(x, options, "avg_pool2d");
  return mean_pool("avg_pool2d", x, detail::pool_taps(x.size(1), kernel[0], stride[0], padding[0]),
                   detail::pool_taps(x.size(2), kernel[1], stride[1], padding[1]));
}

Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width) {
  check_not_empty(x, "adaptive_avg_pool2d");
  CAMO_CHECK(height >= 1 && width >= 1, "adaptive_avg_pool2d: the new size must be at least 1 x 1; got ", height, " x ",
             width);
  return mean_pool("adaptive_avg_pool2d", x, detail::adaptive_taps(x.size(1), height),
                   detail::adaptive_taps(x.size(2), width));
}

Tensor max_pool2d(const Tensor& x, const Pool2dOptions& options) {
  const Pool2dOptions checked = checked_options(x, options, "max_pool2d");
  if (detail::needs_f32(x)) {
    return detail::in_f32({x}, x.dtype(), [&](const Tensors& in) { return max_pool2d(in[0], options); });
  }
  const Tensor xc = contiguous(x.detach());
  Shape shape = x.shape();
  for (size_t axis : {0, 1}) {
    int64_t& extent = shape[static_cast<int>(axis) + 1];
    extent = (extent + 2 * checked.padding[axis] - checked.kernel[axis]) / checked.stride[axis] + 1;
  }
  const Tensor y = empty(shape, x.dtype(), x.device()), positions = empty(shape, i64, x.device());
#ifdef CAMO_WITH_CUDA
  if (x.is_cuda()) {
    cuda::max_pool(xc, checked, y, positions);
    return record_max_pool("max_pool2d", x, y, positions, checked);
  }
#endif
  dispatch_floating(x.dtype(), "max_pool2d", [&]<class T>() {
    max_windows(xc.data<T>(), xc.shape(), shape, checked, y.data<T>(), positions.data<int64_t>());
  });
  return record_max_pool("max_pool2d", x, y, positions, checked);
}

Tensor global_avg_pool2d(const Tensor& x) {
  check_not_empty(x, "global_avg_pool2d");
  if (x.is_cuda()) return global_mean_on_device(x);
  if (detail::needs_f32(x)) {
    return detail::in_f32({x}, x.dtype(), [](const Tensors& in) { return global_avg_pool2d(in[0]); });
  }
  const Tensor xc = contiguous(x.detach());
  const int64_t pixels = x.size(1) * x.size(2);
  const Tensor y = empty({x.size(0), x.size(3)}, x.dtype(), cpu);
  dispatch_floating(x.dtype(), "global_avg_pool2d", [&]<class T>() {
    sum_pixels(xc.data<T>(), y.data<T>(), x.size(0), pixels, x.size(3), 1 / static_cast<double>(pixels));
  });
  record<GlobalAvgPool2dNode>(y, {x}, x.shape());
  return y;
}

Tensor global_max_pool2d(const Tensor& x) {
  check_not_empty(x, "global_max_pool2d");
  if (detail::needs_f32(x)) {
    return detail::in_f32({x}, x.dtype(), [](const Tensors& in) { return global_max_pool2d(in[0]); });
  }
  const Tensor xc = contiguous(x.detach());
  const Shape shape{x.size(0), x.size(3)};
  const Tensor y = empty(shape, x.dtype(), x.device()), positions = empty(shape, i64, x.device());
  const Pool2dOptions whole{.kernel = {x.size(1), x.size(2)}, .stride = {x.size(1), x.size(2)}};
#ifdef CAMO_WITH_CUDA
  if (x.is_cuda()) {
    cuda::global_max_pool(xc, y, positions);
    return record_max_pool("global_max_pool2d", x, y, positions, whole);
  }
#endif
  dispatch_floating(x.dtype(), "global_max_pool2d", [&]<class T>() {
    max_pixels(xc.data<T>(), y.data<T>(), positions.data<int64_t>(), x.size(0), x.size(1) * x.size(2), x.size(3));
  });
  return record_max_pool("global_max_pool2d", x, y, positions, whole);
}

}  // namespace camo
