// y = (x - mean) * rstd * weight + bias over the last axis, rstd = 1 / sqrt(var + eps).   x, y [M, C], weight, bias [C]
//
// With n = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - n * mean(g * n)), dweight = sum over rows
// of dy * n, dbias = sum over rows of dy. Keeps x, weight, mean and rstd. Statistics take two passes over the row, in
// the dtype of x; in f32 for 16-bit x, whose weight and bias may be f32 as well.
#include <cmath>

#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "ops/detail/autocast.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/layer_norm_cuda.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/normalization.h"

namespace camo {
namespace {

using detail::Rows;

template <class T>
T row_sum(const T* x, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

template <class T>
void layer_norm_forward(const Rows& x, const T* weight, const T* bias, double eps, T* y, T* means, T* rstds) {
  const int64_t width = x.width;
  parallel_for(x.count, detail::row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
      T* out = y + row * width;
      // The first mean carries the rounding of a sum as large as the row; what is left over corrects it.
      const T first = row_sum(in, width) / static_cast<T>(width);
      T rest = 0, squares = 0;
#pragma omp simd reduction(+ : rest, squares)
      for (int64_t c = 0; c < width; ++c) {
        rest += in[c] - first;
        squares += (in[c] - first) * (in[c] - first);
      }
      rest /= static_cast<T>(width);
      const T mean = first + rest;
      const T rstd = 1 / std::sqrt(squares / static_cast<T>(width) - rest * rest + static_cast<T>(eps));
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) out[c] = (in[c] - mean) * rstd * weight[c] + bias[c];
      means[row] = mean;
      rstds[row] = rstd;
    }
  });
}

/// Fills dx unless it is null; returns dweight and dbias in a row. One pass over the rows for both.
template <class T>
std::vector<double> layer_norm_backward(const Rows& x, const Rows& dy, const T* weight, const T* means, const T* rstds,
                                        T* dx) {
  const int64_t width = x.width;
  return detail::sum_over_rows<T>(x.count, 2 * width, [&](int64_t begin, int64_t end, T* sums) {
    T* dweight = sums;
    T* dbias = sums + width;
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
      const T* g = dy.row<T>(row);
      const T mean = means[row], rstd = rstds[row];
      T sum_g = 0, sum_gn = 0;
#pragma omp simd reduction(+ : sum_g, sum_gn)
      for (int64_t c = 0; c < width; ++c) {
        const T gn = g[c] * ((in[c] - mean) * rstd);
        dweight[c] += gn;
        dbias[c] += g[c];
        sum_g += g[c] * weight[c];
        sum_gn += gn * weight[c];
      }
      if (!dx) continue;
      const T mean_g = sum_g / static_cast<T>(width), mean_gn = sum_gn / static_cast<T>(width);
      T* out = dx + row * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        out[c] = rstd * (g[c] * weight[c] - mean_g - (in[c] - mean) * rstd * mean_gn);
      }
    }
  });
}

struct LayerNormNode final : Node {
  LayerNormNode() : Node("layer_norm") {}
  Saved x{this, "x"}, weight{this, "weight"}, mean{this, "mean"}, rstd{this, "rstd"};

  Tensors backward(const Tensors& dy) override {
    Tensors grads(3);
    const Rows g = detail::as_rows(dy[0]), in = detail::as_rows(*x);
    const int64_t width = in.width;
    if (x->is_cuda()) {
      if (needs(1)) grads[1] = empty({width}, weight->dtype(), x->device());
      if (needs(2)) grads[2] = empty({width}, weight->dtype(), x->device());
      detail::LayerNormGradients targets{.dx = {}, .dweight = grads[1], .dbias = grads[2]};
      if (needs(0)) {
        const GradientSum dx(*this, 0, x->shape(), x->dtype(), x->device());
        grads[0] = targets.dx = dx.tensor;
        targets.adds_dx = dx.adds;
      }
      detail::layer_norm_backward_cuda(in, g, *weight, *mean, *rstd, targets);
      return grads;
    }
    dispatch_floating(x->dtype(), "layer_norm", [&]<class T>() {
      const Tensor scale = detail::dense(*weight);
      if (needs(0)) grads[0] = empty(x->shape(), x->dtype(), x->device());
      const auto sums = layer_norm_backward<T>(in, g, scale.data<T>(), mean->data<T>(), rstd->data<T>(),
                                               needs(0) ? grads[0].data<T>() : nullptr);
      grads[1] = detail::to_tensor<T>(sums.data(), width);
      grads[2] = detail::to_tensor<T>(sums.data() + width, width);
    });
    return grads;
  }
};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  CAMO_CHECK(x.dims() >= 1, "layer_norm: x needs a dimension to normalise over; got x ", x.shape());
  const Shape channels{x.size(-1)};
  CAMO_CHECK(weight.shape() == channels, "layer_norm: weight must be ", channels,
             ", the last dimension of x; got weight ", weight.shape(), ", x ", x.shape());
  CAMO_CHECK(bias.shape() == channels, "layer_norm: bias must be ", channels, ", the last dimension of x; got bias ",
             bias.shape(), ", x ", x.shape());
  const bool wide_parameters = weight.dtype() == f32 && size_in_bytes(x.dtype()) == 2;
  CAMO_CHECK((weight.dtype() == x.dtype() || wide_parameters) && bias.dtype() == weight.dtype(),
             "layer_norm: x, weight and bias must have one dtype; got x ", x.dtype(), ", weight ", weight.dtype(),
             ", bias ", bias.dtype());
  CAMO_CHECK(eps >= 0, "layer_norm: eps must not be negative; got ", eps);
  detail::check_same_device("layer_norm", {x, weight, bias});
  if (!x.is_cuda() && detail::is_16_bit(detail::autocast_result(x))) {
    return detail::in_f32({x, weight, bias}, detail::autocast_result(x),
                          [eps](const Tensors& in) { return layer_norm(in[0], in[1], in[2], eps); });
  }
  const Rows rows = detail::as_rows(x);
  const DType kept = x.dtype() == f64 ? f64 : f32;
  Tensor y = empty(x.shape(), detail::autocast_result(x), x.device());
  const Tensor mean = empty({rows.count}, kept, x.device()), rstd = empty({rows.count}, kept, x.device());
  if (x.is_cuda()) {
    detail::layer_norm_forward_cuda(rows, weight, bias, eps, y, mean, rstd);
  } else {
    dispatch_floating(x.dtype(), "layer_norm", [&]<class T>() {
      const Tensor scale = detail::dense(weight), shift = detail::dense(bias);
      layer_norm_forward<T>(rows, scale.data<T>(), shift.data<T>(), eps, y.data<T>(), mean.data<T>(), rstd.data<T>());
    });
  }
  if (auto* node = record<LayerNormNode>(y, {x, weight, bias})) {
    node->x = x;
    node->weight = weight;
    node->mean = mean;
    node->rstd = rstd;
  }
  return y;
}

}  // namespace camo
