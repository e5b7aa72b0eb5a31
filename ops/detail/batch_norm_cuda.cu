#include "ops/detail/batch_norm_cuda.h"

#ifdef __CUDACC__
#include "ops/detail/column_reduce.cuh"
#include "ops/detail/parameters.cuh"
#endif

namespace camo::detail {

#ifdef __CUDACC__
namespace {

/// Mean and rstd of each channel; the running statistics follow unless null.
template <class T, int N>
struct BatchStatistics {
  using A = cuda::Accumulator<T>;
  using Partial = ColumnMoments<A>;
  using Total = ColumnMoments<double>;
  static constexpr int kWidth = N;
  const T* x;
  int64_t stride;
  double eps, momentum;
  A *mean, *rstd, *running_mean, *running_var;

  __device__ void add(int64_t, int64_t row, int64_t column, Partial (&partial)[N]) const {
    A values[N];
    load_pack<T, N>(x + row * stride + column, values);
    const A count = partial[0].count + A(1), share = A(1) / count;  // the same in all columns
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A delta = values[i] - partial[i].mean;
      partial[i].count = count;
      partial[i].mean += delta * share;
      partial[i].squares += delta * (values[i] - partial[i].mean);
    }
  }
  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    mean[column] = static_cast<A>(total.mean);
    rstd[column] = static_cast<A>(1 / ::sqrt(total.squares / total.count + eps));
    if (running_mean == nullptr) return;
    const double unbiased = total.squares / (total.count - 1);
    running_mean[column] =
        static_cast<A>((1 - momentum) * static_cast<double>(running_mean[column]) + momentum * total.mean);
    running_var[column] =
        static_cast<A>((1 - momentum) * static_cast<double>(running_var[column]) + momentum * unbiased);
  }
};

template <class A>
struct RunningStatistics {
  const A *running_mean, *running_var;
  double eps;
  A *mean, *rstd;
  __device__ void operator()(int64_t c) const {
    mean[c] = running_mean[c];
    rstd[c] = static_cast<A>(1 / ::sqrt(static_cast<double>(running_var[c]) + eps));
  }
};

template <class T, int N>
struct Normalize {
  using A = cuda::Accumulator<T>;
  static constexpr int kWidth = N;
  const T* x;
  int64_t stride, width;
  const A *weight, *bias, *mean, *rstd;
  T* y;

  struct Parameters {
    A mean[N], scale[N], shift[N];
  };
  __device__ Parameters parameters(int64_t, int64_t column) const {
    Parameters p;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      p.mean[i] = mean[column + i];
      p.scale[i] = rstd[column + i] * weight[column + i];
      p.shift[i] = bias[column + i];
    }
    return p;
  }
  __device__ void apply(int64_t, int64_t row, int64_t column, const Parameters& p) const {
    A values[N];
    load_pack<T, N>(x + row * stride + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = (values[i] - p.mean[i]) * p.scale[i] + p.shift[i];
    store_pack<T, N>(y + row * width + column, values);
  }
};

template <class T, int N>
struct ParameterSums {
  using A = cuda::Accumulator<T>;
  using Partial = ColumnPair<A>;
  using Total = ColumnPair<double>;
  static constexpr int kWidth = N;
  const T *x, *dy;
  int64_t x_stride, dy_stride;
  const A *mean, *rstd;
  A *dweight, *dbias;

  __device__ void add(int64_t, int64_t row, int64_t column, Partial (&partial)[N]) const {
    A in[N], g[N];
    load_pack<T, N>(x + row * x_stride + column, in);
    load_pack<T, N>(dy + row * dy_stride + column, g);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      partial[i].first += g[i] * (in[i] - mean[column + i]);
      partial[i].second += g[i];
    }
  }
  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    dweight[column] = static_cast<A>(total.first * static_cast<double>(rstd[column]));
    dbias[column] = static_cast<A>(total.second);
  }
};

/// dx = scale * (dy - shift - (x - mean) * slope); shift and slope are zero with running statistics.
template <class T, int N>
struct InputGradient {
  using A = cuda::Accumulator<T>;
  static constexpr int kWidth = N;
  const T *x, *dy;
  int64_t x_stride, dy_stride, width;
  const A *weight, *mean, *rstd, *dweight, *dbias;
  A inverse_count;  // 0 with running statistics
  T* dx;

  struct Parameters {
    A scale[N], shift[N], slope[N], mean[N];
  };
  __device__ Parameters parameters(int64_t, int64_t column) const {
    Parameters p;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int64_t c = column + i;
      p.scale[i] = weight[c] * rstd[c];
      p.shift[i] = dbias[c] * inverse_count;
      p.slope[i] = dweight[c] * inverse_count * rstd[c];
      p.mean[i] = mean[c];
    }
    return p;
  }
  __device__ void apply(int64_t, int64_t row, int64_t column, const Parameters& p) const {
    A in[N], g[N];
    load_pack<T, N>(x + row * x_stride + column, in);
    load_pack<T, N>(dy + row * dy_stride + column, g);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] = p.scale[i] * (g[i] - p.shift[i] - (in[i] - p.mean[i]) * p.slope[i]);
    store_pack<T, N>(dx + row * width + column, g);
  }
};

template <class T>
void forward(const Rows& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
             const Tensor& running_var, const BatchNormOptions& options, bool follow, const Tensor& y,
             const Tensor& mean, const Tensor& rstd) {
  using A = cuda::Accumulator<T>;
  const Device device = y.device();
  const Tensor scale = parameter<A>(weight), shift = parameter<A>(bias);
  const T* in = x.row<T>(0);
  if (!options.training) {
    const Tensor from_mean = parameter<A>(running_mean), from_var = parameter<A>(running_var);
    cuda::for_each(
        device, x.width, "batch_norm_running_statistics",
        RunningStatistics<A>{from_mean.data<A>(), from_var.data<A>(), options.eps, mean.data<A>(), rstd.data<A>()});
  }
  dispatch_pack<T>({{in, y.raw_data()}, {x.width, x.stride}}, [&]<int N>() {
    if (options.training) {
      BatchStatistics<T, N> statistics{in,      x.stride, options.eps, options.momentum, mean.data<A>(), rstd.data<A>(),
                                       nullptr, nullptr};
      const auto reduce = [&] { column_reduce(device, 1, x.count, x.width, "batch_norm_statistics", statistics); };
      if (follow) {
        const auto to_mean = ParameterTarget<A>::loaded(running_mean);
        const auto to_var = ParameterTarget<A>::loaded(running_var);
        statistics.running_mean = to_mean.data();
        statistics.running_var = to_var.data();
        reduce();
        to_mean.store();
        to_var.store();
      } else {
        reduce();
      }
    }
    column_map(device, 1, x.count, x.width, "batch_norm_normalize",
               Normalize<T, N>{in, x.stride, x.width, scale.data<A>(), shift.data<A>(), mean.data<A>(), rstd.data<A>(),
                               y.data<T>()});
  });
}

template <class T>
void backward(const Rows& x, const Rows& dy, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
              bool training, const BatchNormGradients& grads) {
  using A = cuda::Accumulator<T>;
  const Device device = weight.device();
  const int64_t width = x.width;
  const Tensor scale = parameter<A>(weight);
  const ParameterTarget<A> dweight(grads.dweight, width, device), dbias(grads.dbias, width, device);
  const T *in = x.row<T>(0), *g = dy.row<T>(0);
  T* dx = grads.dx.defined() ? grads.dx.data<T>() : nullptr;
  dispatch_pack<T>({{in, g, dx}, {width, x.stride, dy.stride}}, [&]<int N>() {
    column_reduce(
        device, 1, x.count, width, "batch_norm_parameter_gradients",
        ParameterSums<T, N>{in, g, x.stride, dy.stride, mean.data<A>(), rstd.data<A>(), dweight.data(), dbias.data()});
    if (dx == nullptr) return;
    const A inverse_count = training ? static_cast<A>(1.0 / static_cast<double>(x.count)) : A(0);
    column_map(device, 1, x.count, width, "batch_norm_input_gradient",
               InputGradient<T, N>{in, g, x.stride, dy.stride, width, scale.data<A>(), mean.data<A>(), rstd.data<A>(),
                                   dweight.data(), dbias.data(), inverse_count, dx});
  });
  dweight.store();
  dbias.store();
}

}  // namespace
#endif

void batch_norm_forward_cuda([[maybe_unused]] const Rows& x, [[maybe_unused]] const Tensor& weight,
                             [[maybe_unused]] const Tensor& bias, [[maybe_unused]] const Tensor& running_mean,
                             [[maybe_unused]] const Tensor& running_var,
                             [[maybe_unused]] const BatchNormOptions& options, [[maybe_unused]] bool follow,
                             [[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& mean,
                             [[maybe_unused]] const Tensor& rstd) {
#ifdef __CUDACC__
  cuda::dispatch_floating(y.dtype(), "batch_norm", [&]<class T>() {
    forward<T>(x, weight, bias, running_mean, running_var, options, follow, y, mean, rstd);
  });
#endif
}

void batch_norm_backward_cuda([[maybe_unused]] const Rows& x, [[maybe_unused]] const Rows& dy,
                              [[maybe_unused]] const Tensor& weight, [[maybe_unused]] const Tensor& mean,
                              [[maybe_unused]] const Tensor& rstd, [[maybe_unused]] bool training,
                              [[maybe_unused]] const BatchNormGradients& grads) {
#ifdef __CUDACC__
  cuda::dispatch_floating(x.x.dtype(), "batch_norm",
                          [&]<class T>() { backward<T>(x, dy, weight, mean, rstd, training, grads); });
#endif
}

}  // namespace camo::detail
