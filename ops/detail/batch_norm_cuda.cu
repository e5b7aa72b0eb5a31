#include "ops/detail/batch_norm_cuda.h"

#ifdef __CUDACC__
#include "ops/detail/column_reduce.cuh"
#include "ops/detail/parameters.cuh"
#endif

namespace camo::detail {

#ifdef __CUDACC__
namespace {

/// What statistics and intermediate values of T have: double, as on the CPU; float for the 16-bit types, whose own
/// rounding is 2^13 times that of float.
template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, float, double>;
/// The dtype of the parameters as kernels take them.
template <class T>
using Parameter = cuda::Accumulator<T>;

/// N neighbours in the wide type.
template <class T, int N>
__device__ void load_wide(const T* from, Wide<T> (&values)[N]) {
  cuda::Accumulator<T> narrow[N];
  cuda::load_constants<N>(from, narrow);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = static_cast<Wide<T>>(narrow[i]);
}
template <class T, int N>
__device__ void store_wide(T* to, const Wide<T> (&values)[N]) {
  cuda::Accumulator<T> narrow[N];
#pragma unroll
  for (int i = 0; i < N; ++i) narrow[i] = static_cast<cuda::Accumulator<T>>(values[i]);
  cuda::store_values<N>(to, narrow);
}

/// Mean and rstd of each channel; the running statistics follow unless null. Plain sums do for f32: in double neither
/// they nor the squares lose anything that matters beside the rounding of x. Other dtypes take Welford's update.
template <class T, int N>
struct BatchStatistics {
  using W = Wide<T>;
  using P = Parameter<T>;
  static constexpr bool kSums = std::is_same_v<T, float>;
  using Partial = std::conditional_t<kSums, ColumnPair<double>, ColumnMoments<W>>;
  using Total = std::conditional_t<kSums, ColumnPair<double>, ColumnMoments<double>>;
  static constexpr int kWidth = N;
  const T* x;
  int64_t stride;
  double count, eps, momentum;
  W *mean, *rstd;
  P *running_mean, *running_var;

  __device__ void add(int64_t, int64_t row, int64_t column, Partial (&partial)[N]) const {
    W values[N];
    load_wide<T, N>(x + row * stride + column, values);
    if constexpr (kSums) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        partial[i].first += values[i];
        partial[i].second += values[i] * values[i];
      }
    } else {
      const W seen = partial[0].count + W(1), share = W(1) / seen;  // the same in all columns
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const W delta = values[i] - partial[i].mean;
        partial[i].count = seen;
        partial[i].mean += delta * share;
        partial[i].squares += delta * (values[i] - partial[i].mean);
      }
    }
  }
  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    double center, squares;
    if constexpr (kSums) {
      center = total.first / count;
      squares = total.second - total.first * center;
      if (squares < 0) squares = 0;  // fmax() would also take away a NaN
    } else {
      center = total.mean;
      squares = total.squares;
    }
    mean[column] = static_cast<W>(center);
    rstd[column] = static_cast<W>(1 / ::sqrt(squares / count + eps));
    if (running_mean == nullptr) return;
    const auto follow = [&](P& running, double batch) {
      running = static_cast<P>((1 - momentum) * static_cast<double>(running) + momentum * batch);
    };
    follow(running_mean[column], center);
    follow(running_var[column], squares / (count - 1));
  }
};

template <class W, class P>
struct RunningStatistics {
  const P *running_mean, *running_var;
  double eps;
  W *mean, *rstd;
  __device__ void operator()(int64_t c) const {
    mean[c] = static_cast<W>(running_mean[c]);
    rstd[c] = static_cast<W>(1 / ::sqrt(static_cast<double>(running_var[c]) + eps));
  }
};

template <class T, int N>
struct Normalize {
  using W = Wide<T>;
  static constexpr int kWidth = N;
  const T* x;
  int64_t stride, width;
  const Parameter<T>*weight, *bias;
  const W *mean, *rstd;
  T* y;

  struct Parameters {
    W mean[N], scale[N], shift[N];
  };
  __device__ Parameters parameters(int64_t, int64_t column) const {
    Parameters p;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      p.mean[i] = mean[column + i];
      p.scale[i] = rstd[column + i] * static_cast<W>(weight[column + i]);
      p.shift[i] = static_cast<W>(bias[column + i]);
    }
    return p;
  }
  __device__ void apply(int64_t, int64_t row, int64_t column, const Parameters& p) const {
    W values[N];
    load_wide<T, N>(x + row * stride + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = (values[i] - p.mean[i]) * p.scale[i] + p.shift[i];
    store_wide<T, N>(y + row * width + column, values);
  }
};

/// `sums` gets dweight and dbias before they are rounded.   [2, width]
template <class T, int N>
struct ParameterSums {
  using W = Wide<T>;
  using Partial = ColumnPair<W>;
  using Total = ColumnPair<double>;
  static constexpr int kWidth = N;
  const T *x, *dy;
  int64_t x_stride, dy_stride, width;
  const W *mean, *rstd;
  W* sums;
  Parameter<T>*dweight, *dbias;

  __device__ void add(int64_t, int64_t row, int64_t column, Partial (&partial)[N]) const {
    W in[N], g[N];
    load_wide<T, N>(x + row * x_stride + column, in);
    load_wide<T, N>(dy + row * dy_stride + column, g);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      partial[i].first += g[i] * (in[i] - mean[column + i]);
      partial[i].second += g[i];
    }
  }
  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    const double weight_sum = total.first * static_cast<double>(rstd[column]);
    sums[column] = static_cast<W>(weight_sum);
    sums[width + column] = static_cast<W>(total.second);
    dweight[column] = static_cast<Parameter<T>>(weight_sum);
    dbias[column] = static_cast<Parameter<T>>(total.second);
  }
};

/// dx = scale * (dy - shift - (x - mean) * slope); shift and slope are zero with running statistics.
template <class T, int N>
struct InputGradient {
  using W = Wide<T>;
  static constexpr int kWidth = N;
  const T *x, *dy;
  int64_t x_stride, dy_stride, width;
  const Parameter<T>* weight;
  const W *mean, *rstd, *sums;
  W inverse_count;  // 0 with running statistics
  T* dx;

  struct Parameters {
    W scale[N], shift[N], slope[N], mean[N];
  };
  __device__ Parameters parameters(int64_t, int64_t column) const {
    Parameters p;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int64_t c = column + i;
      p.scale[i] = static_cast<W>(weight[c]) * rstd[c];
      p.shift[i] = sums[width + c] * inverse_count;
      p.slope[i] = sums[c] * inverse_count * rstd[c];
      p.mean[i] = mean[c];
    }
    return p;
  }
  __device__ void apply(int64_t, int64_t row, int64_t column, const Parameters& p) const {
    W in[N], g[N];
    load_wide<T, N>(x + row * x_stride + column, in);
    load_wide<T, N>(dy + row * dy_stride + column, g);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] = p.scale[i] * (g[i] - p.shift[i] - (in[i] - p.mean[i]) * p.slope[i]);
    store_wide<T, N>(dx + row * width + column, g);
  }
};

template <class T>
void forward(const Rows& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
             const Tensor& running_var, const BatchNormOptions& options, bool follow, const Tensor& y,
             const Tensor& mean, const Tensor& rstd) {
  using P = Parameter<T>;
  using W = Wide<T>;
  const Device device = y.device();
  const Tensor scale = parameter<P>(weight), shift = parameter<P>(bias);
  const T* in = x.row<T>(0);
  if (!options.training) {
    const Tensor from_mean = parameter<P>(running_mean), from_var = parameter<P>(running_var);
    cuda::for_each(
        device, x.width, "batch_norm_running_statistics",
        RunningStatistics<W, P>{from_mean.data<P>(), from_var.data<P>(), options.eps, mean.data<W>(), rstd.data<W>()});
  }
  cuda::dispatch_pack<T>({{in, y.raw_data()}, {x.width, x.stride}}, [&]<int N>() {
    if (options.training) {
      BatchStatistics<T, N> statistics{in,
                                       x.stride,
                                       static_cast<double>(x.count),
                                       options.eps,
                                       options.momentum,
                                       mean.data<W>(),
                                       rstd.data<W>(),
                                       nullptr,
                                       nullptr};
      const auto reduce = [&] { column_reduce(device, 1, x.count, x.width, "batch_norm_statistics", statistics); };
      if (follow) {
        const auto to_mean = ParameterTarget<P>::loaded(running_mean);
        const auto to_var = ParameterTarget<P>::loaded(running_var);
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
               Normalize<T, N>{in, x.stride, x.width, scale.data<P>(), shift.data<P>(), mean.data<W>(), rstd.data<W>(),
                               y.data<T>()});
  });
}

template <class T>
void backward(const Rows& x, const Rows& dy, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
              bool training, const BatchNormGradients& grads) {
  using P = Parameter<T>;
  using W = Wide<T>;
  const Device device = weight.device();
  const int64_t width = x.width;
  const Tensor scale = parameter<P>(weight), sums = empty({2, width}, dtype_of<W>, device);
  const ParameterTarget<P> dweight(grads.dweight, width, device), dbias(grads.dbias, width, device);
  const T *in = x.row<T>(0), *g = dy.row<T>(0);
  T* dx = grads.dx.defined() ? grads.dx.data<T>() : nullptr;
  cuda::dispatch_pack<T>({{in, g, dx}, {width, x.stride, dy.stride}}, [&]<int N>() {
    column_reduce(device, 1, x.count, width, "batch_norm_parameter_gradients",
                  ParameterSums<T, N>{in, g, x.stride, dy.stride, width, mean.data<W>(), rstd.data<W>(), sums.data<W>(),
                                      dweight.data(), dbias.data()});
    if (dx == nullptr) return;
    const W inverse_count = training ? static_cast<W>(1.0 / static_cast<double>(x.count)) : W(0);
    column_map(device, 1, x.count, width, "batch_norm_input_gradient",
               InputGradient<T, N>{in, g, x.stride, dy.stride, width, scale.data<P>(), mean.data<W>(), rstd.data<W>(),
                                   sums.data<W>(), inverse_count, dx});
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
