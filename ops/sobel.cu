// Depthwise 3x3 edge filters with zero padding.   x, y [N, H, W, C]
//
// sobel_x, sobel_y, laplacian: y(h, w) = sum over i, j of tap(i, j) * x(h + i - 1, w + j - 1); dx is the same with the
// taps turned by 180 degrees. They keep nothing.
// edge_magnitude: m = sqrt(gx^2 + gy^2 + eps), gx and gy the Sobel filters of x; dx is the turned Sobel x of dy * gx /
// m plus the turned Sobel y of dy * gy / m. Keeps x and m.
#include <array>
#include <cmath>

#include "ops/detail/loss_checks.h"
#include "ops/detail/row_filter.h"
#include "ops/detail/rows.h"
#include "ops/losses.h"

namespace camo {
namespace {

using Taps = std::array<int, 9>;  // rows of the 3x3 filter

constexpr Taps kSobelX{-1, 0, 1, -2, 0, 2, -1, 0, 1};
constexpr Taps kSobelY{-1, -2, -1, 0, 0, 0, 1, 2, 1};
constexpr Taps kLaplacian{0, 1, 0, 1, -4, 1, 0, 1, 0};

constexpr Taps turned(const Taps& taps) {
  Taps result{};
  for (size_t i = 0; i < 9; ++i) result[i] = taps[8 - i];
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
      const int tap = taps[static_cast<size_t>(3 * i + j)];
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

Tensor filtered(const char* op, const Tensor& x, const Taps& taps) {
  return dispatch_floating(x.dtype(), op, [&]<class T>() {
    const Tensor in = detail::dense(x);
    Tensor y = zeros(x.shape(), x.dtype());
    for_each_row(in, [&](int64_t row, int64_t offset) {
      add_filtered_row(in.data<T>() + offset, RowPlace(in, row), taps, y.data<T>() + offset);
    });
    return y;
  });
}

struct FilterNode final : Node {
  FilterNode(const char* op_, const Taps& taps_) : Node(op_), op(op_), taps(taps_) {}
  const char* op;
  Taps taps;

  Tensors backward(const Tensors& dy) override { return {filtered(op, dy[0], turned(taps))}; }
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
  const Tensor to_x = zeros(x.shape(), x.dtype()), to_y = zeros(x.shape(), x.dtype());
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
    Tensor dx = empty(x->shape(), x->dtype());
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
  Tensor m = dispatch_floating(x.dtype(), "edge_magnitude", [&]<class T>() {
    Tensor out = empty(x.shape(), x.dtype());
    edge_magnitude_forward<T>(detail::dense(x), eps, out.data<T>());
    return out;
  });
  if (auto* node = record<EdgeMagnitudeNode>(m, {x})) {
    node->x = x;
    node->m = m;
  }
  return m;
}

}  // namespace camo
