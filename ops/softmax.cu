// softmax: y = exp(x - m) / s and log_softmax: y = x - m - log(s), with m the largest element along the axis and
// s = sum exp(x - m). A row of -infinity gives zeros in softmax.
//
// softmax: dx = y * (dy - sum(dy * y));  log_softmax: dx = dy - exp(y) * sum(dy). Both keep y. Sums in the dtype of x
// (f32 for 16-bit x).
#include <cmath>
#include <limits>

#include "core/autograd.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/rows.h"
#include "ops/detail/softmax_cuda.h"
#include "ops/detail/vector_math.h"
#include "ops/softmax.h"

namespace camo {
namespace {

using detail::Slabs;

/// Elements along the axis are contiguous.
template <class T, bool is_log>
void forward_row(const T* x, T* y, int64_t n) {
  T top = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  const T shift = std::isinf(top) && top < 0 ? T(0) : top;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const T e = detail::simd_exp(x[i] - shift);
    if constexpr (!is_log) y[i] = e;
    sum += e;
  }
  if constexpr (is_log) {
    const T log_sum = std::log(sum);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - shift) - log_sum;  // in this order: shift may be large
  } else {
    const T scale = sum == 0 ? T(0) : 1 / sum;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] *= scale;
  }
}

/// `inner` rows side by side, elements of one row `stride` apart; scratch holds 2 * inner elements.
template <class T, bool is_log>
void forward_slab(const T* x, int64_t stride, T* y, int64_t n, int64_t inner, T* scratch) {
  T* shift = scratch;
  T* sum = scratch + inner;
  std::fill(shift, shift + inner, -std::numeric_limits<T>::infinity());
  std::fill(sum, sum + inner, T(0));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < inner; ++j) shift[j] = x[i * stride + j] > shift[j] ? x[i * stride + j] : shift[j];
  }
  for (int64_t j = 0; j < inner; ++j) shift[j] = shift[j] == -std::numeric_limits<T>::infinity() ? T(0) : shift[j];
  for (int64_t i = 0; i < n; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < inner; ++j) {
      const T e = detail::simd_exp(x[i * stride + j] - shift[j]);
      if constexpr (!is_log) y[i * inner + j] = e;
      sum[j] += e;
    }
  }
  for (int64_t j = 0; j < inner; ++j) {
    if constexpr (is_log) sum[j] = std::log(sum[j]);
    else sum[j] = sum[j] == 0 ? T(0) : 1 / sum[j];
  }
  for (int64_t i = 0; i < n; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < inner; ++j) {
      if constexpr (is_log) y[i * inner + j] = (x[i * stride + j] - shift[j]) - sum[j];
      else y[i * inner + j] *= sum[j];
    }
  }
}

template <class T, bool is_log>
void backward_row(const T* y, const T* dy, T* dx, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += is_log ? dy[i] : dy[i] * y[i];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dx[i] = is_log ? dy[i] - detail::simd_exp(y[i]) * sum : y[i] * (dy[i] - sum);
}

template <class T, bool is_log>
void backward_slab(const T* y, const T* dy, T* dx, int64_t n, int64_t inner, T* sum) {
  std::fill(sum, sum + inner, T(0));
  for (int64_t i = 0; i < n * inner; i += inner) {
#pragma omp simd
    for (int64_t j = 0; j < inner; ++j) sum[j] += is_log ? dy[i + j] : dy[i + j] * y[i + j];
  }
  for (int64_t i = 0; i < n * inner; i += inner) {
#pragma omp simd
    for (int64_t j = 0; j < inner; ++j) {
      dx[i + j] = is_log ? dy[i + j] - detail::simd_exp(y[i + j]) * sum[j] : y[i + j] * (dy[i + j] - sum[j]);
    }
  }
}

template <class T, bool is_log>
void softmax_forward(const Slabs& x, T* y) {
  parallel_for(x.outer, detail::row_grain(x.extent * x.inner), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(static_cast<size_t>(x.inner == 1 ? 0 : 2 * x.inner));
    for (int64_t o = begin; o < end; ++o) {
      const T* in = x.x.data<T>() + o * x.outer_stride;
      T* out = y + o * x.extent * x.inner;
      if (x.inner == 1) forward_row<T, is_log>(in, out, x.extent);
      else forward_slab<T, is_log>(in, x.stride, out, x.extent, x.inner, scratch.data());
    }
  });
}

template <class T, bool is_log>
void softmax_backward(const Tensor& y, const Tensor& dy, int axis, const Tensor& dx) {
  const Slabs shape = detail::as_slabs(y, axis);
  const int64_t n = shape.extent, inner = shape.inner;
  parallel_for(shape.outer, detail::row_grain(n * inner), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(static_cast<size_t>(inner == 1 ? 0 : inner));
    for (int64_t offset = begin * n * inner; offset < end * n * inner; offset += n * inner) {
      const T* in = y.data<T>() + offset;
      if (inner == 1) backward_row<T, is_log>(in, dy.data<T>() + offset, dx.data<T>() + offset, n);
      else backward_slab<T, is_log>(in, dy.data<T>() + offset, dx.data<T>() + offset, n, inner, scratch.data());
    }
  });
}

template <bool is_log>
struct SoftmaxNode final : Node {
  explicit SoftmaxNode(int axis_) : Node(is_log ? "log_softmax" : "softmax"), axis(axis_) {}
  Saved y{this, "y"};
  int axis;

  Tensors backward(const Tensors& dy) override {
    Tensor dx = empty(y->shape(), y->dtype(), y->device());
    if (dx.numel() == 0) return {dx};
    const Tensor g = detail::dense(dy[0]);
    if (y->is_cuda()) detail::softmax_backward_cuda(detail::as_slabs(*y, axis), g, dx, is_log);
    else dispatch_floating(y->dtype(), "softmax", [&]<class T>() { softmax_backward<T, is_log>(*y, g, axis, dx); });
    return {dx};
  }
};

template <bool is_log>
Tensor softmax_along(const Tensor& x, int axis) {
  const char* op = is_log ? "log_softmax" : "softmax";
  axis = normalize_axis(axis, x.dims(), op);
  if (detail::needs_f32(x)) {
    return detail::in_f32({x}, x.dtype(), [axis](const Tensors& in) { return softmax_along<is_log>(in[0], axis); });
  }
  Tensor y = empty(x.shape(), x.dtype(), x.device());
  if (x.is_cuda()) {
    detail::softmax_forward_cuda(detail::as_slabs(x, axis), y, is_log);
  } else {
    dispatch_floating(x.dtype(), op, [&]<class T>() {
      if (y.numel() > 0) softmax_forward<T, is_log>(detail::as_slabs(x, axis), y.data<T>());
    });
  }
  if (auto* node = record<SoftmaxNode<is_log>>(y, {x}, axis)) node->y = y;
  return y;
}

}  // namespace

Tensor softmax(const Tensor& x, int axis) { return softmax_along<false>(x, axis); }
Tensor log_softmax(const Tensor& x, int axis) { return softmax_along<true>(x, axis); }

}  // namespace camo
