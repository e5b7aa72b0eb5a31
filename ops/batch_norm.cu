// y = (x - mean) * rstd * weight + bias with one mean and rstd = 1 / sqrt(var + eps) a channel.   x, y [M, C], others
// [C]
//
// With n = (x - mean) * rstd: dweight = sum over rows of dy * n, dbias = sum over rows of dy, and
// dx = weight * rstd * (dy - dbias / M - n * dweight / M) with batch statistics, weight * rstd * dy with running ones.
// Keeps x, weight, mean and rstd. Everything between the inputs and the rounded results is in double: the difference
// x - mean would magnify the rounding of a mean that is large beside the deviation. On CUDA Welford's update takes one
// pass. The parameters of 16-bit x may be f32.
#include <cmath>

#include "core/autograd.h"
#include "ops/detail/batch_norm_cuda.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/normalization.h"

namespace camo {
namespace {

using detail::Rows;

/// Statistics of each channel: mean and biased variance.
struct Statistics {
  std::vector<double> mean, variance;
};

template <class T>
Statistics batch_statistics(const Rows& x) {
  const int64_t width = x.width;
  const double rows = static_cast<double>(x.count);
  Statistics statistics;
  statistics.mean = detail::sum_over_rows<double>(x.count, width, [&](int64_t begin, int64_t end, double* sums) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) sums[c] += static_cast<double>(in[c]);
    }
  });
  for (double& mean : statistics.mean) mean /= rows;
  const double* mean = statistics.mean.data();
  statistics.variance = detail::sum_over_rows<double>(x.count, width, [&](int64_t begin, int64_t end, double* sums) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const double difference = static_cast<double>(in[c]) - mean[c];
        sums[c] += difference * difference;
      }
    }
  });
  for (double& variance : statistics.variance) variance /= rows;
  return statistics;
}

/// y = x * scale + shift.
template <class T>
void normalize_rows(const Rows& x, const double* scale, const double* shift, T* y) {
  const int64_t width = x.width;
  parallel_for(x.count, detail::row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
      T* out = y + row * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) out[c] = static_cast<T>(static_cast<double>(in[c]) * scale[c] + shift[c]);
    }
  });
}

/// dweight and dbias in a row.
template <class T>
std::vector<double> parameter_gradients(const Rows& x, const Rows& dy, const double* mean, const double* rstd) {
  const int64_t width = x.width;
  return detail::sum_over_rows<double>(x.count, 2 * width, [&](int64_t begin, int64_t end, double* sums) {
    double* dweight = sums;
    double* dbias = sums + width;
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
      const T* g = dy.row<T>(row);
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const double gradient = static_cast<double>(g[c]);
        dweight[c] += gradient * ((static_cast<double>(in[c]) - mean[c]) * rstd[c]);
        dbias[c] += gradient;
      }
    }
  });
}

/// dx = scale * (dy - mean_g - (x - mean) * rstd * mean_gn); the two means are zero with running statistics.
template <class T>
void input_gradient(const Rows& x, const Rows& dy, const double* mean, const double* rstd, const double* scale,
                    const double* mean_g, const double* mean_gn, T* dx) {
  const int64_t width = x.width;
  parallel_for(x.count, detail::row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
      const T* g = dy.row<T>(row);
      T* out = dx + row * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const double n = (static_cast<double>(in[c]) - mean[c]) * rstd[c];
        out[c] = static_cast<T>(scale[c] * (static_cast<double>(g[c]) - mean_g[c] - n * mean_gn[c]));
      }
    }
  });
}

struct BatchNormNode final : Node {
  explicit BatchNormNode(bool training_) : Node("batch_norm"), training(training_) {}
  Saved x{this, "x"}, weight{this, "weight"}, mean{this, "mean"}, rstd{this, "rstd"};
  bool training;

  Tensors backward(const Tensors& dy) override {
    Tensors grads(3);
    const Rows g = detail::as_rows(dy[0]), in = detail::as_rows(*x);
    const int64_t width = in.width;
    if (x->is_cuda()) {
      if (needs(0)) grads[0] = empty(x->shape(), x->dtype(), x->device());
      if (needs(1)) grads[1] = empty({width}, weight->dtype(), x->device());
      if (needs(2)) grads[2] = empty({width}, weight->dtype(), x->device());
      detail::batch_norm_backward_cuda(in, g, *weight, *mean, *rstd, training, {grads[0], grads[1], grads[2]});
      return grads;
    }
    const double* means = mean->data<double>();
    const double* rstds = rstd->data<double>();
    dispatch_floating(x->dtype(), "batch_norm", [&]<class T>() {
      std::vector<double> sums(static_cast<size_t>(2 * width));
      if (needs(1) || needs(2) || training) sums = parameter_gradients<T>(in, g, means, rstds);
      grads[1] = detail::to_tensor<T>(sums.data(), width);
      grads[2] = detail::to_tensor<T>(sums.data() + width, width);
      if (!needs(0)) return;
      for (double& sum : sums) sum = training ? sum / static_cast<double>(in.count) : 0;
      std::vector<double> scale = weight->to_vector<double>();
      for (size_t c = 0; c < scale.size(); ++c) scale[c] *= rstds[c];
      grads[0] = empty(x->shape(), x->dtype(), cpu);
      input_gradient<T>(in, g, means, rstds, scale.data(), sums.data() + width, sums.data(), grads[0].data<T>());
    });
    return grads;
  }
};

/// running = (1 - momentum) * running + momentum * batch, in place.
template <class T>
void follow(const Tensor& running, const std::vector<double>& batch, double factor, double momentum) {
  T* values = running.data<T>();
  for (size_t c = 0; c < batch.size(); ++c) {
    T& value = values[static_cast<int64_t>(c) * running.stride(0)];
    value = static_cast<T>((1 - momentum) * static_cast<double>(value) + momentum * factor * batch[c]);
  }
  running.storage()->bump_version();
}

template <class T>
void batch_norm_forward(const Rows& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                        const Tensor& running_var, const BatchNormOptions& options, bool follows, const Tensor& y,
                        const Tensor& mean, const Tensor& rstd) {
  double* means = mean.data<double>();
  double* rstds = rstd.data<double>();
  if (options.training) {
    const Statistics batch = batch_statistics<T>(x);
    std::copy(batch.mean.begin(), batch.mean.end(), means);
    std::copy(batch.variance.begin(), batch.variance.end(), rstds);
    if (follows) {
      const double unbiased = static_cast<double>(x.count) / static_cast<double>(x.count - 1);
      follow<T>(running_mean, batch.mean, 1, options.momentum);
      follow<T>(running_var, batch.variance, unbiased, options.momentum);
    }
  } else {
    copy_into(mean, running_mean);
    copy_into(rstd, running_var);
  }
  std::vector<double> scale = weight.to_vector<double>(), shift = bias.to_vector<double>();
  for (size_t c = 0; c < scale.size(); ++c) {
    rstds[c] = 1 / std::sqrt(rstds[c] + options.eps);
    scale[c] *= rstds[c];
    shift[c] -= means[c] * scale[c];
  }
  normalize_rows<T>(x, scale.data(), shift.data(), y.data<T>());
}

void check_vector(const char* what, const Tensor& vector, const Tensor& x) {
  CAMO_CHECK(vector.shape() == Shape{x.size(-1)}, "batch_norm: ", what, " must be ", Shape{x.size(-1)},
             ", the last dimension of x; got ", what, " ", vector.shape(), ", x ", x.shape());
  const bool wide = vector.dtype() == f32 && size_in_bytes(x.dtype()) == 2;
  CAMO_CHECK(vector.dtype() == x.dtype() || wide, "batch_norm: ", what, " must have the dtype of x; got ", what, " ",
             vector.dtype(), ", x ", x.dtype());
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options) {
  CAMO_CHECK(x.dims() >= 1, "batch_norm: x needs a channel dimension; got x ", x.shape());
  check_vector("weight", weight, x);
  check_vector("bias", bias, x);
  check_vector("running_mean", running_mean, x);
  check_vector("running_var", running_var, x);
  CAMO_CHECK(options.eps >= 0, "batch_norm: eps must not be negative; got ", options.eps);
  const int64_t width = x.size(-1);
  int64_t count = 1;
  for (int axis = 0; axis + 1 < x.dims(); ++axis) count *= x.shape()[axis];
  CAMO_CHECK(!options.training || count > 1 || width == 0,
             "batch_norm: training needs more than one value per channel; got x ", x.shape(),
             "; use a larger batch or evaluation mode");
  require_no_gradient("batch_norm", {running_mean, running_var});
  detail::check_same_device("batch_norm", {x, weight, bias, running_mean, running_var});
  if (detail::needs_f32(x)) {
    const Tensor wide_mean = detail::in_f32(running_mean), wide_var = detail::in_f32(running_var);
    const Tensor y = detail::in_f32({x, weight, bias}, x.dtype(), [&](const Tensors& in) {
      return batch_norm(in[0], in[1], in[2], wide_mean, wide_var, options);
    });
    if (running_mean.dtype() != f32) copy_into(running_mean, wide_mean);
    if (running_var.dtype() != f32) copy_into(running_var, wide_var);
    return y;
  }
  const bool follows = options.training && !is_recomputing();
  const Rows rows = detail::as_rows(x);
  Tensor y = empty(x.shape(), x.dtype(), x.device());
  const DType kept = x.is_cuda() && size_in_bytes(x.dtype()) == 2 ? f32 : f64;
  const Tensor mean = empty({width}, kept, x.device()), rstd = empty({width}, kept, x.device());
  if (x.is_cuda()) {
    detail::batch_norm_forward_cuda(rows, weight, bias, running_mean, running_var, options, follows, y, mean, rstd);
  } else {
    dispatch_floating(x.dtype(), "batch_norm", [&]<class T>() {
      batch_norm_forward<T>(rows, weight, bias, running_mean, running_var, options, follows, y, mean, rstd);
    });
  }
  if (auto* node = record<BatchNormNode>(y, {x, weight, bias}, options.training)) {
    node->x = x;
    node->weight = weight;
    node->mean = mean;
    node->rstd = rstd;
  }
  return y;
}

}  // namespace camo
