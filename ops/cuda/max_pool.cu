#include "core/cuda/kernels.cuh"
#include "ops/cuda/max_pool.h"

namespace camo::cuda {

namespace {

/// A maximum and where it was; of equal ones the first, and a NaN stays.
template <class T>
struct Best {
  T value;
  int64_t position;
  __device__ void offer(T other, int64_t at) {
    using A = Accumulator<T>;
    const A a = convert<A>(other), b = convert<A>(value);
    if (a > b || (a != a && b == b)) {
      value = other;
      position = at;
    }
  }
};

struct Windows {
  int height, width, out_height, out_width;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;

  Windows(const Shape& x, int64_t oh, int64_t ow, const Pool2dOptions& o)
      : height(static_cast<int>(x[1])),
        width(static_cast<int>(x[2])),
        out_height(static_cast<int>(oh)),
        out_width(static_cast<int>(ow)),
        kernel_h(static_cast<int>(o.kernel[0])),
        kernel_w(static_cast<int>(o.kernel[1])),
        stride_h(static_cast<int>(o.stride[0])),
        stride_w(static_cast<int>(o.stride[1])),
        padding_h(static_cast<int>(o.padding[0])),
        padding_w(static_cast<int>(o.padding[1])) {}
};

/// One output element a thread, channels fastest.
template <class T>
struct MaxWindow {
  const T* x;
  T* y;
  int64_t* positions;
  Windows w;
  FastDivide channels, out_width, out_height;

  __device__ void operator()(int64_t i) const {
    const auto index = static_cast<uint32_t>(i);
    const uint32_t pixel = channels.divide(index), line = out_width.divide(pixel), image = out_height.divide(line);
    const int top = static_cast<int>(line - image * out_height.divisor) * w.stride_h - w.padding_h;
    const int left = static_cast<int>(pixel - line * out_width.divisor) * w.stride_w - w.padding_w;
    const int y0 = max(top, 0), y1 = min(top + w.kernel_h, w.height);
    const int x0 = max(left, 0), x1 = min(left + w.kernel_w, w.width);
    const int64_t step = channels.divisor;
    const T* from = x + int64_t{image} * w.height * w.width * step + (index - pixel * channels.divisor);
    const int64_t first = int64_t{y0} * w.width + x0;
    Best<T> best{from[first * step], first};
    for (int iy = y0; iy < y1; ++iy) {
      for (int ix = x0; ix < x1; ++ix) {
        const int64_t at = int64_t{iy} * w.width + ix;
        best.offer(from[at * step], at);
      }
    }
    y[i] = best.value;
    positions[i] = best.position;
  }
};

/// x [images, pixels, channels] -> the best of each run of `run` pixels, [images, runs, channels]. Where
/// `from_positions` is given, x's pixels are themselves maxima found there.
template <class T>
struct MaxRun {
  const T* x;
  const int64_t* from_positions;
  T* y;
  int64_t* positions;
  int pixels, run;
  FastDivide channels, runs;

  __device__ void operator()(int64_t i) const {
    const auto index = static_cast<uint32_t>(i);
    const uint32_t line = channels.divide(index), image = runs.divide(line);
    const int begin = static_cast<int>(line - image * runs.divisor) * run, end = min(begin + run, pixels);
    const int64_t step = channels.divisor;
    const int64_t offset = int64_t{image} * pixels * step + (index - line * channels.divisor);
    Best<T> best{x[offset + begin * step], begin};
#pragma unroll 4
    for (int pixel = begin + 1; pixel < end; ++pixel) best.offer(x[offset + pixel * step], pixel);
    y[i] = best.value;
    positions[i] = from_positions != nullptr ? from_positions[offset + best.position * step] : best.position;
  }
};

/// One element of dx a thread: looks at every window over it.
template <class T>
struct MaxBackward {
  const T* dy;
  const int64_t* positions;
  T* dx;
  bool adds;
  Windows w;
  FastDivide channels, width, height;

  __device__ void operator()(int64_t i) const {
    using A = Accumulator<T>;
    const auto index = static_cast<uint32_t>(i);
    const uint32_t pixel = channels.divide(index), line = width.divide(pixel), image = height.divide(line);
    const uint32_t c = index - pixel * channels.divisor;
    const int iy = static_cast<int>(line - image * height.divisor), ix = static_cast<int>(pixel - line * width.divisor);
    const int below = iy + w.padding_h, right = ix + w.padding_w;
    const int y0 = below < w.kernel_h ? 0 : (below - w.kernel_h) / w.stride_h + 1;
    const int x0 = right < w.kernel_w ? 0 : (right - w.kernel_w) / w.stride_w + 1;
    const int y1 = min(below / w.stride_h, w.out_height - 1), x1 = min(right / w.stride_w, w.out_width - 1);
    const int64_t own = int64_t{iy} * w.width + ix;
    A sum = adds ? convert<A>(dx[i]) : A(0);
    for (int oy = y0; oy <= y1; ++oy) {
      for (int ox = x0; ox <= x1; ++ox) {
        const int64_t at = ((int64_t{image} * w.out_height + oy) * w.out_width + ox) * channels.divisor + c;
        if (positions[at] == own) sum += convert<A>(dy[at]);
      }
    }
    dx[i] = convert<T>(sum);
  }
};

/// One maximum of a map [pixels, channels] a thread: no other thread has its element of dx.
template <class T>
struct AddToGlobalMax {
  const T* dy;
  const int64_t* positions;
  T* dx;
  int64_t pixels;
  FastDivide channels;

  __device__ void operator()(int64_t i) const {
    using A = Accumulator<T>;
    const uint32_t image = channels.divide(static_cast<uint32_t>(i));
    const int64_t c = i - int64_t{image} * channels.divisor;
    T* const to = dx + (image * pixels + positions[i]) * channels.divisor + c;
    *to = convert<T>(convert<A>(*to) + convert<A>(dy[i]));
  }
};

FastDivide divide_by(int64_t n) { return FastDivide(static_cast<uint32_t>(n)); }

void check_size(const Tensor& x) {
  CAMO_CHECK(x.numel() < (int64_t{1} << 31), "max_pool2d: at most 2^31 elements on CUDA; got ", x.shape());
}

}  // namespace

void max_pool(const Tensor& x, const Pool2dOptions& options, const Tensor& y, const Tensor& positions) {
  if (y.numel() == 0) return;
  check_size(x);
  check_size(y);
  cuda::dispatch_floating(x.dtype(), "max_pool2d", [&]<class T>() {
    for_each(x.device(), y.numel(), "max_pool2d",
             MaxWindow<T>{x.data<T>(), y.data<T>(), positions.data<int64_t>(),
                          Windows(x.shape(), y.size(1), y.size(2), options), divide_by(x.size(3)), divide_by(y.size(2)),
                          divide_by(y.size(1))});
  });
}

void global_max_pool(const Tensor& x, const Tensor& y, const Tensor& positions) {
  if (y.numel() == 0) return;
  check_size(x);
  constexpr int64_t kRun = 128;
  const int64_t images = x.size(0), channels = x.size(3), pixels = x.size(1) * x.size(2);
  const int64_t runs = (pixels + kRun - 1) / kRun;
  const Tensor partial = empty({images, runs, channels}, x.dtype(), x.device());
  const Tensor partial_positions = empty(partial.shape(), i64, x.device());
  // The first step finds pixels within a run's numbering of its image; the second carries them over.
  cuda::dispatch_floating(x.dtype(), "global_max_pool2d", [&]<class T>() {
    for_each(x.device(), partial.numel(), "global_max_pool2d",
             MaxRun<T>{x.data<T>(), nullptr, partial.data<T>(), partial_positions.data<int64_t>(),
                       static_cast<int>(pixels), static_cast<int>(kRun), divide_by(channels), divide_by(runs)});
    for_each(x.device(), y.numel(), "global_max_pool2d",
             MaxRun<T>{partial.data<T>(), partial_positions.data<int64_t>(), y.data<T>(), positions.data<int64_t>(),
                       static_cast<int>(runs), static_cast<int>(runs), divide_by(channels), divide_by(1)});
  });
}

void max_pool_backward(const Tensor& dy, const Tensor& positions, const Pool2dOptions& options, const Tensor& dx,
                       bool adds) {
  if (dx.numel() == 0) return;
  check_size(dx);
  const bool global = dy.dims() == 2;
  const int64_t oh = global ? 1 : dy.size(1), ow = global ? 1 : dy.size(2);
  cuda::dispatch_floating(dy.dtype(), "max_pool2d", [&]<class T>() {
    if (global && adds) {
      return for_each(dx.device(), dy.numel(), "max_pool2d_backward",
                      AddToGlobalMax<T>{dy.data<T>(), positions.data<int64_t>(), dx.data<T>(), dx.size(1) * dx.size(2),
                                        divide_by(dx.size(3))});
    }
    for_each(dx.device(), dx.numel(), "max_pool2d_backward",
             MaxBackward<T>{dy.data<T>(), positions.data<int64_t>(), dx.data<T>(), adds,
                            Windows(dx.shape(), oh, ow, options), divide_by(dx.size(3)), divide_by(dx.size(2)),
                            divide_by(dx.size(1))});
  });
}

}  // namespace camo::cuda
