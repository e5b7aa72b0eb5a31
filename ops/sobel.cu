// Depthwise 3x3 edge filters with zero padding.   x, y [N, H, W, C]
//
// sobel_x, sobel_y, laplacian: y(h, w) = sum over i, j of tap(i, j) * x(h + i - 1, w + j - 1); dx is the same with the
// taps turned by 180 degrees. They keep nothing.
// edge_magnitude: m = sqrt(gx^2 + gy^2 + eps), gx and gy the Sobel filters of x; dx is the turned Sobel x of dy * gx /
// m plus the turned Sobel y of dy * gy / m. Keeps x and m.
#include <cmath>

#include "core/gradient_sum.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/loss_checks.h"
#include "ops/detail/row_filter.h"
#include "ops/detail/rows.h"
#include "ops/losses.h"
#ifdef __CUDACC__
#include "core/cuda/packs.cuh"
#endif

namespace camo {
namespace {

struct Taps {
  int values[9];  // rows of the 3x3 filter
};

constexpr Taps kSobelX{{-1, 0, 1, -2, 0, 2, -1, 0, 1}};
constexpr Taps kSobelY{{-1, -2, -1, 0, 0, 0, 1, 2, 1}};
constexpr Taps kLaplacian{{0, 1, 0, 1, -4, 1, 0, 1, 0}};

CAMO_HOST_DEVICE constexpr Taps turned(const Taps& taps) {
  Taps result{};
  for (int i = 0; i < 9; ++i) result.values[i] = taps.values[8 - i];
  return result;
}

/// One row of maps [N, H, W, C], counted over images and heights.
struct RowPlace {
  int64_t image_row, height, width, channels;

  RowPlace(const Tensor& x, int64_t row)
      : image_row(row % x.size(1)), height(x.size(1)), width(x.size(2)), channels(x.size(3)) {}
};

/// Adds the filtered row to out; `in` is the row of x in the same place.
template <class T>
void add_filtered_row(const T* in, const RowPlace& place, const Taps& taps, T* out) {
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t source = place.image_row + i - 1;
    if (source < 0 || source >= place.height) continue;
    const T* row = in + (i - 1) * place.width * place.channels;
    for (int64_t j = 0; j < 3; ++j) {
      const int tap = taps.values[3 * i + j];
      if (tap != 0) detail::add_shifted_row(row, place.width, place.channels, j - 1, static_cast<T>(tap), out);
    }
  }
}

/// Calls body(row, offset of the row) for all rows of maps.
template <class Body>
void for_each_row(const Tensor& x, Body&& body) {
  const int64_t length = x.size(2) * x.size(3);
  parallel_for(x.size(0) * x.size(1), detail::row_grain(8 * length), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row, row * length);
  });
}

// --- CUDA ---

#ifdef __CUDACC__
/// Maps whose elements a thread handles N at a time, along the channels.   x [N, H, W, packs * N]
template <int N>
struct MapPacks {
  cuda::FastDivide packs, width, height;

  explicit MapPacks(const Tensor& x)
      : packs(static_cast<uint32_t>(x.size(3) / N)),
        width(static_cast<uint32_t>(x.size(2))),
        height(static_cast<uint32_t>(x.size(1))) {}

  /// sums[k] = sum over i, j of taps[k](i, j) * x[k](h + i - 1, w + j - 1) at pack `index`. With one x for all k it is
  /// read once.
  template <class T, size_t K>
  __device__ void filter(const T* const (&x)[K], const Taps (&taps)[K], uint32_t index,
                         cuda::Accumulator<T> (&sums)[K][N]) const {
    const uint32_t pixel = packs.divide(index), row = width.divide(pixel);
    const int w = static_cast<int>(pixel - row * width.divisor);
    const int h = static_cast<int>(row - height.divide(row) * height.divisor);
    const int64_t step = int64_t{packs.divisor} * N;
#pragma unroll
    for (size_t k = 0; k < K; ++k) {
#pragma unroll
      for (int n = 0; n < N; ++n) sums[k][n] = 0;
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        const int source_h = h + i - 1, source_w = w + j - 1;
        if (source_h < 0 || source_h >= static_cast<int>(height.divisor)) continue;
        if (source_w < 0 || source_w >= static_cast<int>(width.divisor)) continue;
        const int64_t at = int64_t{index} * N + (int64_t{i - 1} * width.divisor + (j - 1)) * step;
#pragma unroll
        for (size_t k = 0; k < K; ++k) {
          const int tap = taps[k].values[3 * i + j];
          if (tap == 0) continue;
          cuda::Accumulator<T> values[N];
          cuda::load_constants<N>(x[k] + at, values);
#pragma unroll
          for (int n = 0; n < N; ++n) sums[k][n] += static_cast<cuda::Accumulator<T>>(tap) * values[n];
        }
      }
    }
  }
};

/// to = values, or += values.
template <int N, class T>
__device__ void store_or_add(T* to, cuda::Accumulator<T> (&values)[N], bool adds) {
  if (adds) {
    cuda::Accumulator<T> before[N];
    cuda::load_values<N>(to, before);
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] += before[n];
  }
  cuda::store_values<N>(to, values);
}

template <class T, int N>
struct FilterPack {
  MapPacks<N> maps;
  const T* x;
  Taps taps;
  T* y;
  bool adds;
  __device__ void operator()(int64_t i) const {
    cuda::Accumulator<T> sums[1][N];
    const T* const in[1] = {x};
    const Taps all[1] = {taps};
    maps.filter(in, all, static_cast<uint32_t>(i), sums);
    store_or_add<N>(y + i * N, sums[0], adds);
  }
};

template <class T, int N>
struct EdgeMagnitudePack {
  using A = cuda::Accumulator<T>;
  MapPacks<N> maps;
  const T* x;
  A eps;
  T* m;
  __device__ void operator()(int64_t i) const {
    A g[2][N];
    const T* const in[2] = {x, x};
    constexpr Taps taps[2] = {kSobelX, kSobelY};
    maps.filter(in, taps, static_cast<uint32_t>(i), g);
#pragma unroll
    for (int n = 0; n < N; ++n) g[0][n] = ::sqrt(g[0][n] * g[0][n] + g[1][n] * g[1][n] + eps);
    cuda::store_values<N>(m + i * N, g[0]);
  }
};

/// dy * gx / m and dy * gy / m.
template <class T, int N>
struct EdgeSharesPack {
  using A = cuda::Accumulator<T>;
  MapPacks<N> maps;
  const T *x, *m, *dy;
  A *to_x, *to_y;
  __device__ void operator()(int64_t i) const {
    A g[2][N], magnitude[N], share[N];
    const T* const in[2] = {x, x};
    constexpr Taps taps[2] = {kSobelX, kSobelY};
    maps.filter(in, taps, static_cast<uint32_t>(i), g);
    cuda::load_constants<N>(m + i * N, magnitude);
    cuda::load_constants<N>(dy + i * N, share);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      share[n] /= magnitude[n];
      g[0][n] *= share[n];
      g[1][n] *= share[n];
    }
    cuda::store_values<N>(to_x + i * N, g[0]);
    cuda::store_values<N>(to_y + i * N, g[1]);
  }
};

template <class T, int N>
struct EdgeGradientPack {
  using A = cuda::Accumulator<T>;
  MapPacks<N> maps;
  const A *to_x, *to_y;
  T* dx;
  bool adds;
  __device__ void operator()(int64_t i) const {
    A g[2][N];
    const A* const in[2] = {to_x, to_y};
    constexpr Taps taps[2] = {turned(kSobelX), turned(kSobelY)};
    maps.filter(in, taps, static_cast<uint32_t>(i), g);
#pragma unroll
    for (int n = 0; n < N; ++n) g[0][n] += g[1][n];
    store_or_add<N>(dx + i * N, g[0], adds);
  }
};

void check_size(const char* op, const Tensor& x) {
  CAMO_CHECK(x.numel() < (int64_t{1} << 31), op, ": at most 2^31 elements on CUDA; got shape ", x.shape());
}
#endif

void filter_cuda([[maybe_unused]] const char* op, [[maybe_unused]] const Tensor& x, [[maybe_unused]] const Taps& taps,
                 [[maybe_unused]] const Tensor& y, [[maybe_unused]] bool adds) {
#ifdef __CUDACC__
  check_size(op, x);
  if (x.numel() == 0) return;
  cuda::dispatch_floating(x.dtype(), op, [&]<class T>() {
    cuda::dispatch_pack<T>({{x.raw_data(), y.raw_data()}, {x.size(3)}}, [&]<int N>() {
      cuda::for_each(x.device(), x.numel() / N, op,
                     FilterPack<T, N>{MapPacks<N>(x), x.data<T>(), taps, y.data<T>(), adds});
    });
  });
#endif
}

void edge_magnitude_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] double eps,
                         [[maybe_unused]] const Tensor& m) {
#ifdef __CUDACC__
  check_size("edge_magnitude", x);
  if (x.numel() == 0) return;
  cuda::dispatch_floating(x.dtype(), "edge_magnitude", [&]<class T>() {
    using A = cuda::Accumulator<T>;
    cuda::dispatch_pack<T>({{x.raw_data(), m.raw_data()}, {x.size(3)}}, [&]<int N>() {
      cuda::for_each(x.device(), x.numel() / N, "edge_magnitude",
                     EdgeMagnitudePack<T, N>{MapPacks<N>(x), x.data<T>(), static_cast<A>(eps), m.data<T>()});
    });
  });
#endif
}

void edge_magnitude_backward_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensor& m,
                                  [[maybe_unused]] const Tensor& dy, [[maybe_unused]] const GradientSum& sum) {
#ifdef __CUDACC__
  if (x.numel() == 0) return;
  cuda::dispatch_floating(x.dtype(), "edge_magnitude", [&]<class T>() {
    using A = cuda::Accumulator<T>;
    const Tensor to_x = empty(x.shape(), dtype_of<A>, x.device()), to_y = empty(x.shape(), dtype_of<A>, x.device());
    const Tensor& dx = sum.tensor;
    const std::initializer_list<const void*> pointers{x.raw_data(), m.raw_data(), dy.raw_data(), dx.raw_data()};
    cuda::dispatch_pack<T>({pointers, {x.size(3)}}, [&]<int N>() {
      const MapPacks<N> maps(x);
      cuda::for_each(
          x.device(), x.numel() / N, "edge_magnitude_backward",
          EdgeSharesPack<T, N>{maps, x.data<T>(), m.data<T>(), dy.data<T>(), to_x.data<A>(), to_y.data<A>()});
      cuda::for_each(x.device(), x.numel() / N, "edge_magnitude_backward",
                     EdgeGradientPack<T, N>{maps, to_x.data<A>(), to_y.data<A>(), dx.data<T>(), sum.adds});
    });
  });
#endif
}

/// On CUDA added to `sum` where that is defined.
Tensor filtered(const char* op, const Tensor& x, const Taps& taps, const Tensor& sum = {}) {
  const Tensor in = detail::dense(x);
  if (x.is_cuda()) {
    Tensor y = sum.defined() ? sum : empty(x.shape(), x.dtype(), x.device());
    filter_cuda(op, in, taps, y, sum.defined());
    return y;
  }
  if (detail::needs_f32(x)) return detail::rounded_to(filtered(op, detail::in_f32(in), taps), x.dtype());
  Tensor y = zeros(x.shape(), x.dtype(), cpu);
  dispatch_floating(x.dtype(), op, [&]<class T>() {
    for_each_row(in, [&](int64_t row, int64_t offset) {
      add_filtered_row(in.data<T>() + offset, RowPlace(in, row), taps, y.data<T>() + offset);
    });
  });
  return y;
}

struct FilterNode final : Node {
  FilterNode(const char* op_, const Taps& taps_) : Node(op_), op(op_), taps(taps_) {}
  const char* op;
  Taps taps;

  Tensors backward(const Tensors& dy) override {
    return {filtered(op, dy[0], turned(taps), dy[0].is_cuda() ? take_gradient_sum(*this, 0) : Tensor())};
  }
};

Tensor filter(const char* op, const Tensor& x, const Taps& taps) {
  detail::check_map(op, x);
  Tensor y = filtered(op, x, taps);
  record<FilterNode>(y, {x}, op, taps);
  return y;
}

template <class T>
void edge_magnitude_forward(const Tensor& x, double eps, T* m) {
  const int64_t length = x.size(2) * x.size(3);
  for_each_row(x, [&](int64_t row, int64_t offset) {
    std::vector<T> g(static_cast<size_t>(2 * length));
    const T* gx = g.data();
    const T* gy = g.data() + length;
    add_filtered_row(x.data<T>() + offset, RowPlace(x, row), kSobelX, g.data());
    add_filtered_row(x.data<T>() + offset, RowPlace(x, row), kSobelY, g.data() + length);
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) m[offset + i] = std::sqrt(gx[i] * gx[i] + gy[i] * gy[i] + static_cast<T>(eps));
  });
}

template <class T>
void edge_magnitude_backward(const Tensor& x, const T* m, const T* dy, T* dx) {
  const int64_t length = x.size(2) * x.size(3);
  const Tensor to_x = zeros(x.shape(), x.dtype(), cpu), to_y = zeros(x.shape(), x.dtype(), cpu);
  for_each_row(x, [&](int64_t row, int64_t offset) {
    T* gx = to_x.data<T>() + offset;
    T* gy = to_y.data<T>() + offset;
    add_filtered_row(x.data<T>() + offset, RowPlace(x, row), kSobelX, gx);
    add_filtered_row(x.data<T>() + offset, RowPlace(x, row), kSobelY, gy);
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      const T share = dy[offset + i] / m[offset + i];
      gx[i] *= share;
      gy[i] *= share;
    }
  });
  for_each_row(x, [&](int64_t row, int64_t offset) {
    std::fill(dx + offset, dx + offset + length, T(0));
    add_filtered_row(to_x.data<T>() + offset, RowPlace(x, row), turned(kSobelX), dx + offset);
    add_filtered_row(to_y.data<T>() + offset, RowPlace(x, row), turned(kSobelY), dx + offset);
  });
}

struct EdgeMagnitudeNode final : Node {
  EdgeMagnitudeNode() : Node("edge_magnitude") {}
  Saved x{this, "x"}, m{this, "m"};

  Tensors backward(const Tensors& dy) override {
    const Tensor g = detail::dense(dy[0]);
    if (x->is_cuda()) {
      const GradientSum dx(*this, 0, x->shape(), x->dtype(), x->device());
      edge_magnitude_backward_cuda(detail::dense(*x), *m, g, dx);
      return {dx.tensor};
    }
    const Tensor dx = empty(x->shape(), x->dtype(), cpu);
    dispatch_floating(x->dtype(), "edge_magnitude", [&]<class T>() {
      edge_magnitude_backward<T>(detail::dense(*x), m->data<T>(), g.data<T>(), dx.data<T>());
    });
    return {dx};
  }
};

}  // namespace

Tensor sobel_x(const Tensor& x) { return filter("sobel_x", x, kSobelX); }
Tensor sobel_y(const Tensor& x) { return filter("sobel_y", x, kSobelY); }
Tensor laplacian(const Tensor& x) { return filter("laplacian", x, kLaplacian); }

Tensor edge_magnitude(const Tensor& x, double eps) {
  detail::check_map("edge_magnitude", x);
  CAMO_CHECK(eps > 0, "edge_magnitude: eps must be positive; got ", eps);
  if (detail::needs_f32(x)) {
    return detail::in_f32({x}, x.dtype(), [eps](const Tensors& in) { return edge_magnitude(in[0], eps); });
  }
  const Tensor in = detail::dense(x);
  Tensor m = empty(x.shape(), x.dtype(), x.device());
  if (x.is_cuda()) edge_magnitude_cuda(in, eps, m);
  else
    dispatch_floating(x.dtype(), "edge_magnitude", [&]<class T>() { edge_magnitude_forward<T>(in, eps, m.data<T>()); });
  if (auto* node = record<EdgeMagnitudeNode>(m, {x})) {
    node->x = x;
    node->m = m;
  }
  return m;
}

}  // namespace camo
